"""What a person starts: the command line, the web app, the demo. None imports another."""
