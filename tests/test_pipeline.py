"""The whole pipeline, on generated videos and on real ones in the layout of the challenge."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from helpers import REAL_VIDEOS, ROOT, copy_dataset, on_either_kind, run_script
from test_preprocessing import ledger

from dfdc import identity, layout
from dfdc.imaging import encode_png, read_picture

pytestmark = pytest.mark.slow


def assert_artifacts_are_the_plain_ones(root, part, real, fake, stride):
    """Crops and masks of one pair of videos: the bytes of OpenCV's reader, and scikit-image's SSIM."""
    from skimage.metrics import structural_similarity

    boxes = json.loads(layout.bboxes_path(root, real).read_text())["frames"]
    pictures = {}
    for video in (real, fake):
        capture = cv2.VideoCapture(str(root / part / f"{video}.mp4"))
        for number in range(min(200, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))):
            frame = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
            for row in boxes.get(str(number), []) if number % stride == 0 else []:
                x1, y1, x2, y2 = (int(corner) for corner in row["box"])
                w, h = (x2 - x1) // 3, (y2 - y1) // 3
                crop = frame[max(y1 - h, 0) : y2 + h, max(x1 - w, 0) : x2 + w]
                name = layout.crop_name(number, row["face"])
                stored = (layout.crops_path(root, video) / name).read_bytes()
                assert stored == encode_png(crop)
                pictures[video, number, row["face"]] = crop
    assert len(pictures) >= 8
    for video, number, face in [key for key in pictures if key[0] == real]:
        pair = pictures[video, number, face], pictures[fake, number, face]
        similar = structural_similarity(*pair, channel_axis=2, full=True)[1]
        expected = cv2.cvtColor(np.clip(255 * (1 - similar), 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
        mask = read_picture(layout.diffs_path(root, fake) / layout.diff_name(number, face), grey=True)
        assert np.abs(mask.astype(int) - expected).max() <= 1


def shorten(path, least):
    """Cut a video behind its first `least` frames or a few more, as its coding allows; returns how many are left."""
    source = path.rename(path.with_suffix(".whole"))
    with av.open(str(source)) as whole, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(whole.streams.video[0])
        packets = [packet for packet in whole.demux(video=0) if packet.size]
        shown = sorted(packet.pts for packet in packets)
        count = next(n for n in range(least, len(packets)) if {p.pts for p in packets[:n]} == {*shown[:n]})
        for packet in packets[:count]:
            packet.stream = stream
            output.mux(packet)
    source.unlink()
    return count


def real_data(root):
    """Two pairs of videos and two fakes without an original; see `generated_data`."""
    shutil.copytree(REAL_VIDEOS / "dfdc_mini", root, copy_function=shutil.copyfile)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    left = {shorten(root / "dfdc_train_part_0" / f"{name}.mp4", 200) for name in ("519", "519_515")}
    assert len(left) == 1
    pairs = {("519", "519_515"): -(-left.pop() // layout.FRAME_STRIDE), ("634", "634_660"): 34}
    return pairs, ("widuwuoiur", "yhffcuhhjy"), ("dfdc_train_part_1", "634", "634_660", 50)


def generated_data(demo_root, root):
    """The demo at `root`, with a fake whose original is not there.

    Returns:
        number of sampled frames by (real, fake); videos that are skipped; part, real, fake and a stride to look at.
    """
    copy_dataset(demo_root, root)
    fakes = layout.load_dataset(root).fakes()
    pairs = {(video.source, video.id): 4 for video in fakes}
    metadata = root / fakes[0].part / "metadata.json"
    shutil.copy(fakes[0].path, metadata.with_name("orphan.mp4"))
    entries = json.loads(metadata.read_text()) | {"orphan.mp4": {"label": "FAKE", "original": "gone.mp4"}}
    metadata.write_text(json.dumps(entries))
    return pairs, ("orphan",), (fakes[0].part, fakes[0].source, fakes[0].id, 10)


@on_either_kind
def test_a_data_set_gives_what_the_contract_says(kind, demo_root, tmp_path):
    root = tmp_path / "mini"
    pairs, skipped, looked_at = real_data(root) if kind == "real" else generated_data(demo_root, root)
    environment = {**os.environ, "VENV": str(Path(sys.executable).parents[1])}
    done = subprocess.run(
        [ROOT / "preprocess_data.sh", root], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for (real, fake), frames in pairs.items():
        for video in (real, fake):
            crops = layout.list_crops(layout.crops_path(root, video))
            assert [frame for frame, face in crops if face == 0] == list(range(0, frames * 10, 10))
        assert identity.count_files(layout.diffs_path(root, fake)) == frames
        assert identity.count_files(layout.landmarks_path(root, real)) >= 0.94 * frames
    reals = {real for real, _ in pairs}
    assert {path.stem for path in (root / "bboxes").iterdir()} == reals
    for video in skipped:
        assert ledger(root, "extract_crops")[video][0] == "skipped"
    crops = sum(len(layout.list_crops(path)) for path in (root / "crops").iterdir())
    assert crops == sum(pairs.values()) + sum({real: frames for (real, _), frames in pairs.items()}.values())
    assert (root / "folds.csv").read_text().count("\n") == 1 + crops

    assert_artifacts_are_the_plain_ones(root, *looked_at)

    out = tmp_path / "out"
    done = run_script(
        "training/train_classifier.py",
        "--config",
        "configs/demo.json",
        "--data-dir",
        root,
        "--epochs",
        1,
        "--set",
        "batches_per_epoch=4",
        "--output-dir",
        out,
        "--log-dir",
        out,
        "--prefix",
        "mini_",
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 0 fake" in done.stdout
