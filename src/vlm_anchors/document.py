"""What our pages have in common: one file, everything inside, light and dark, no network."""

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING

from .durable import write_whole
from .errors import BadSetting

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

INK = "#123456"
"""Stands for the page's own text colour in a figure until `svg` replaces it."""
STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5d5d5d; --paper: #ffffff; --card: #f5f5f3; --line: #dcdcd8;
  --good: #0b7a3b; --bad: #b3261e; --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --soft: #a9a9a9; --paper: #161616; --card: #212121;
  --line: #3a3a3a; --good: #5fd38d; --bad: #ff8a80; --mark: #4cb1ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.2rem 4rem; font: 1rem/1.55 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { font-size: 1.9rem; margin: 0 0 .4rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; }
p { max-width: 46rem; } .lead { font-size: 1.1rem; } .soft { color: var(--soft); font-size: .9rem; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-top: 1px solid var(--line); vertical-align: baseline; }
th { font-weight: 500; color: var(--soft); font-size: .85rem; border-top: 0; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page. body, style and script go in as they are; title is escaped."""
    scripts = f"\n<script>\n{script}\n</script>" if script else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
{body}{scripts}
</body>
</html>
"""


def png(picture: "Image.Image | Figure", dpi: int = 110) -> str:
    """An image or a figure as the address of itself (a data: URI)."""
    from PIL import Image

    file = io.BytesIO()
    if isinstance(picture, Image.Image):
        picture.save(file, format="PNG")
    else:
        picture.savefig(file, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def save_figure(figure: "Figure", path: Path, dpi: int = 150) -> None:
    """Write a figure whole or not at all.

    Args:
        figure: What to write.
        path: The file; its ending says the format, and without one it is PNG.
        dpi: Pixels an inch.

    Raises:
        BadSetting: matplotlib writes no such format, or the file cannot be written.
    """
    known, ending = figure.canvas.get_supported_filetypes(), path.suffix.lower().lstrip(".") or "png"
    if ending not in known:
        raise BadSetting(f"Expected a figure's file to end in one of {', '.join(sorted(known))}; found {path.name!r}.")
    file = io.BytesIO()
    figure.savefig(file, format=ending, dpi=dpi)
    write_whole(path, file.getvalue())


def svg(figure: "Figure") -> str:
    """The figure as SVG for a page: text stays text, and takes the page's colour in light and dark."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vlm-anchors"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
