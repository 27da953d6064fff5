"""Take the pictures of the report that the documentation shows: python docs/screenshots.py runs/dcgan

Needs playwright and a Chromium; of each width and scheme the upper part of the page, in docs/images.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from gantune.export.folder import REPORT
from gantune.report.page import write_report
from gantune.run import Run

TALL = 4200  # pixels
FOLDER = Path(__file__).parent / "images"
SETTLED = "[...document.querySelectorAll('.figure')].every((one) => one.querySelector('svg'))"


def main(where: str) -> None:
    """Write docs/images/report-WIDTH-SCHEME.webp of one run."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page = Path(folder) / REPORT
        write_report(Run.open(where, Path("runs")), page)
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in ((1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")):
            looked = opened.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            looked.goto(page.as_uri())
            looked.evaluate("drawAll()")
            looked.wait_for_function(SETTLED)
            looked.wait_for_timeout(1000)
            shot = Path(folder) / "shot.png"
            looked.screenshot(path=shot, full_page=True)
            with Image.open(shot) as image:  # its upper part, for the whole is very long
                upper = image.convert("RGB").crop((0, 0, image.width, min(image.height, TALL)))
                upper.save(FOLDER / f"report-{width}-{scheme}.webp", quality=55, method=6)
            looked.close()
        opened.close()


if __name__ == "__main__":
    main(sys.argv[1])
