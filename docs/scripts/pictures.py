"""Makes the pictures of the README from a finished run: docs/images/terminal.svg, what `coevo show`
prints, and docs/images/report.png, its page as a browser shows it (needs Chromium or Chrome).

    coevo train --out runs/sentiment
    python docs/scripts/pictures.py runs/sentiment
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from coevo_agents.pages.report import page
from coevo_agents.pages.terminal import terminal

IMAGES = Path(__file__).resolve().parents[1] / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main() -> None:
    run = Path(sys.argv[1])
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    terminal(run, console)
    console.save_svg(str(IMAGES / "terminal.svg"), title=f"coevo show {run}", unique_id="coevo")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser found, so report.png is as it was; expected one of {', '.join(BROWSERS)}.")
    with tempfile.TemporaryDirectory() as folder:
        html = page(run, Path(folder) / "report.html")
        words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1330"]
        subprocess.run(
            [browser, *words, f"--screenshot={IMAGES / 'report.png'}", Path(html).as_uri()],
            check=True,
            capture_output=True,
        )


if __name__ == "__main__":
    main()
