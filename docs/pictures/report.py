"""Draws report.png beside this file: the top of a run's page, as a browser shows it.

    python docs/pictures/report.py [REPORT.html]

Without a page it bakes a project with the default answers in a temporary folder and runs ``fit``, ``test`` and
``report`` there. Needs Chromium on the PATH.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cookiecutter.main import cookiecutter
from PIL import Image

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = (1060, 1080)  # the summary, what to look at, and the first curves
MOST_BYTES = 150_000


def page_of_a_digits_run(folder: Path) -> Path:
    """Train and test a project with the default answers; returns the page of its run."""
    project = Path(cookiecutter(str(HERE.parent.parent), no_input=True, output_dir=str(folder)))
    environment = {**os.environ, "PYTHONPATH": str(project / "src")}
    for command in ("fit", "test", "report"):
        subprocess.run([sys.executable, "-m", "my_project", command], cwd=project, env=environment, check=True)
    return project / "runs/digits/version_0/report.html"


def photograph(browser: str, page: Path, picture: Path, folder: Path) -> None:
    """Write what a browser shows of a page."""
    offline = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    how = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}")
    size = ",".join(map(str, SIZE))
    command = [browser, *how, *offline, f"--window-size={size}", f"--screenshot={picture}", page.absolute().as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def reduce(picture: Path, target: Path) -> None:
    """Write a picture with as many colours as its size in bytes allows."""
    with Image.open(picture) as image:
        shown = image.convert("RGB")
    for colours in (256, 128, 64, 32):
        shown.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True)
        if target.stat().st_size <= MOST_BYTES:
            return
    sys.exit(f"error: {target} takes {target.stat().st_size} bytes, more than {MOST_BYTES}; lower SIZE.")


def main() -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"error: none of {', '.join(BROWSERS)} is on the PATH, so no page can be drawn; install Chromium.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = Path(sys.argv[1]) if len(sys.argv) > 1 else page_of_a_digits_run(folder)
        photograph(browser, page, folder / "whole.png", folder)
        reduce(folder / "whole.png", HERE / "report.png")
    print(f"{HERE / 'report.png'} ({(HERE / 'report.png').stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
