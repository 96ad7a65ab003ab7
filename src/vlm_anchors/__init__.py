"""Vision-language models that keep looking at the image."""

__version__ = "0.1.0.dev0"
