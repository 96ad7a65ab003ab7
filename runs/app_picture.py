"""Makes docs/figures/app.png: the whole page of `vlm-anchors app` with four methods, asked about its first scene.

python runs/app_picture.py [--width 1280]. Needs the extra `app`, playwright, and Chromium (CHROMIUM names it).
"""

import argparse
import io
import os
import socket
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import vlm_anchors as va
from vlm_anchors.apps.web.server import start

OUT = Path(__file__).parent.parent / "docs" / "figures" / "app.png"
METHODS = ("attanchor", "vcd")
"""Beside none and clva, which are ticked from the start."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def picture(port: int, width: int) -> Image.Image:
    """The page once its maps are there, from its heading to the end of the answers' column."""
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"))
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(300_000)
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("#ask").wait_for()
        for method in METHODS:
            page.locator("#methods-chosen").get_by_label(method, exact=True).check()
        page.locator("#ask").click()
        page.locator("#maps img").nth(3).wait_for()
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(1000)
        end = max(page.locator(f"#{part}").bounding_box()["y"] + page.locator(f"#{part}").bounding_box()["height"]
                  for part in ("maps", "ask"))  # fmt: skip
        end += page.evaluate("window.scrollY")
        page.set_viewport_size({"width": width, "height": int(end) + 24})
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(500)
        shown = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        browser.close()
    return shown


def main() -> None:
    """Serves the page for as long as the picture takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    port = free_port()
    page = start(va.load("scenes"), "127.0.0.1", port)
    try:
        picture(port, options.width).save(options.out, optimize=True)
    finally:
        page.blocks.close(verbose=False)
    os._exit(0)  # the server's threads would wait for a visitor


if __name__ == "__main__":
    main()
