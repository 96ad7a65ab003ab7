"""Tables of a RUN as text, Markdown, JSON, HTML and official answer files."""
