"""For mkdocs: a link out of docs/ (to a result, a run, the code) becomes the file's name, since the site has no such file."""

import re
from typing import Any


def on_page_markdown(markdown: str, page: Any, **given: Any) -> str:
    out = r"\.\./" * (page.file.src_uri.count("/") + 1)
    return re.sub(rf"\[([^\]]+)\]\({out}([^)]+)\)", r"\1 (`\2`)", markdown)
