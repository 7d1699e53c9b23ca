"""Take a screenshot of an HTML page, for README.md and docs.

    python demo_data/screenshot.py demo/submission_report/index.html --output images/index.png

Chromium or Chrome must be on the PATH. The image has 256 colours and ends at the end of the page.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dfdc import command_line
from dfdc.command_line import UsageError, UserError, whole_number

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TIMEOUT_S = 120
_FRAME = 200  # more pixels than the frame of a browser's window has; the page is lower than the window by so many


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="HTML file")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG", help="image to write")
    parser.add_argument(
        "--width", type=whole_number(200), default=1200, metavar="PIXELS", help="width of the window (default: 1200)"
    )
    height = "largest height of the image (default: 900)"
    parser.add_argument("--height", type=whole_number(200), default=900, metavar="PIXELS", help=height)
    parser.add_argument("--dark", action="store_true", help="use the dark theme (default: light)")
    args = parser.parse_args(argv)
    if not args.page.is_file():
        raise UsageError(f"{args.page}: page not found; predict_folder.py and preprocess_data.sh write pages")
    from demo_data.page_image import trim_page  # delayed so that --help need not import Pillow

    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        take(args.page, shot, args.width, args.height + _FRAME, dark=args.dark)
        trim_page(shot, args.output, args.height)
    print(f"wrote {args.output}")
    return 0


def take(page: Path, output: Path, width: int, height: int, *, dark: bool = False) -> None:
    """Write a screenshot of `page` in a window of `width` x `height` CSS pixels.

    Raises:
        UserError: no browser is installed, or it wrote no image.
    """
    found = [path for name in BROWSERS if (path := shutil.which(name))]
    if not found:
        raise UserError(f"no browser found: install Chromium and put it on the PATH as one of {', '.join(BROWSERS)}")
    options = ["--headless", "--disable-gpu", "--hide-scrollbars", "--no-sandbox", f"--window-size={width},{height}"]
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [found[0], *options, scheme, f"--screenshot={output}", page.resolve().as_uri()]
    with tempfile.TemporaryDirectory() as profile:
        command.insert(1, f"--user-data-dir={profile}")
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if not output.is_file():
        raise UserError(f"{found[0]} wrote no image of {page}: {ran.stderr.strip()[-500:]}")


if __name__ == "__main__":
    command_line.run_main(main)
