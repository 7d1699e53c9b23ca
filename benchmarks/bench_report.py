"""Size and time of a report of many verdicts: its index pages, and a second run over it.

    python benchmarks/bench_report.py --videos 1000

Makes one video of drawn frames and as many links to it as there are videos, in a temporary folder (removed at the end).
The verdicts are random. Chromium on the PATH renders the first index page and the page of a video; without it these
times are left out.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import seconds

from demo_data.screenshot import BROWSERS
from dfdc import identity
from dfdc.video import write_video
from networks.checkpoint import save_checkpoint
from networks.ensemble import Ensemble
from networks.model import build_network
from networks.spec import ModelSpec
from prediction.conclusion import conclude
from prediction.pages.report import make_report, page_name
from prediction.verdict import Face, Verdict

FRAMES = 32
# Writes the milliseconds from opening the page until all is loaded, laid out and drawn.
PROBE = """<script>addEventListener("load", () => requestAnimationFrame(() => setTimeout(() => {
  document.body.dataset.drawn = performance.now(); })));</script>"""


def make_verdicts(folder: Path, count: int, models: list[str]) -> list[Verdict]:
    """Verdicts with one face in each frame, on links to one video."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (FRAMES, 9, 16, 3), dtype=np.uint8)
    source = folder / "source.mp4"
    write_video(source, [np.kron(frame, np.ones((20, 20, 1), np.uint8)) for frame in noise])
    verdicts = []
    for number in range(count):
        path = folder / f"video_{number:05}.mp4"
        path.hardlink_to(source)
        verdict = Verdict(path.name, "ok", path=str(path), frame_count=FRAMES, frames_per_second=25.0)
        verdict.frames_read = FRAMES
        scores = rng.beta(0.6, 0.6) + rng.normal(0, 0.05, (FRAMES, len(models)))
        verdict.faces = [
            Face(frame, 0, [100.0, 40.0, 200.0, 160.0], 0.99, scores=row.tolist())
            for frame, row in enumerate(np.clip(scores, 0, 1))
        ]
        conclude(verdict, models, "confident")
        verdicts.append(verdict)
    return verdicts


def make_checkpoint(path: Path) -> None:
    torch.manual_seed(0)
    network = build_network("DeepFakeClassifier", "test_resnet")
    save_checkpoint(
        path, network, ModelSpec("DeepFakeClassifier", "test_resnet", 64), epoch=0, bce_best=0.5, metrics={}
    )


def render(page: Path, folder: Path) -> float:
    """Seconds from opening a page until Chromium has drawn it; best of three."""
    probed, browser = folder / "probed.html", next(filter(None, map(shutil.which, BROWSERS)))
    text = re.sub(r"<meta http-equiv=[^>]+>", "", page.read_text(encoding="utf-8"))  # it forbids scripts
    probed.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [browser, "--headless", "--disable-gpu", "--no-sandbox", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1200,900", "--timeout=20000", "--dump-dom", probed.as_uri()]
    times = []
    for _ in range(3):
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
        times += [float(found) / 1000 for found in re.findall(r'data-drawn="([0-9.]+)"', shown)]
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1000, help="number of videos (1000)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_report_") as temp:
        folder = Path(temp)
        make_checkpoint(folder / "model")
        verdicts = make_verdicts(folder, args.videos, ["model"])
        files = dict.fromkeys([v.filename for v in verdicts], identity.fingerprint(folder / "source.mp4"))
        checkpoints, loads = {"model": folder / "model"}, []

        def load() -> Ensemble:
            loads.append(time.perf_counter())
            return Ensemble([folder / "model"], "cpu")

        settings = {"strategy": "confident"}
        work = partial(make_report, folder / "r", verdicts, settings, checkpoints, load, files)
        rows = [("first run", seconds(work)), ("second run, nothing changed", min(seconds(work) for _ in range(3)))]
        verdicts[0].reason = "changed"
        rows.append(("third run, one verdict changed", seconds(work)))
        print(f"{args.videos} videos; the networks were loaded {len(loads)} times in 5 runs\n")
        print("| | seconds |\n|---|---|")
        if any(map(shutil.which, BROWSERS)):
            rows.append(("Chromium, first index page", render(folder / "r/index.html", folder)))
            video = folder / "r/videos" / page_name(verdicts[0].filename)
            rows.append(("Chromium, page of a video", render(video, folder)))
        for name, value in rows:
            print(f"| {name} | {value:.2f} |")
        sizes = [path.stat().st_size for path in sorted((folder / "r").glob("index*.html"))]
        videos = [path.stat().st_size for path in (folder / "r/videos").iterdir()]
        print(f"\nindex: {len(sizes)} pages of {min(sizes) / 1e3:.0f} to {max(sizes) / 1e3:.0f} kB")
        print(f"pages of videos: {sum(videos) / len(videos) / 1e3:.0f} kB each")


if __name__ == "__main__":
    main()
