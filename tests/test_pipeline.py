"""The whole pipeline on real videos in the layout of the challenge."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from conftest import REAL_VIDEOS, ROOT, needs_real_videos, run_script
from test_preprocessing import ledger

from dfdc import artifacts, layout
from dfdc.imaging import read_picture
from preprocessing import extract_crops


def assert_artifacts_are_the_plain_ones(root):
    """Crops and masks of one pair of videos: the bytes of OpenCV's reader, and scikit-image's SSIM."""
    from skimage.metrics import structural_similarity

    boxes = json.loads(layout.bboxes_path(root, "634").read_text())["frames"]
    pictures = {}
    for video in ("634", "634_660"):
        capture = cv2.VideoCapture(str(root / "dfdc_train_part_1" / f"{video}.mp4"))
        for number in range(200):
            frame = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
            for row in boxes.get(str(number), []) if number % 50 == 0 else []:
                x1, y1, x2, y2 = (int(corner) for corner in row["box"])
                w, h = (x2 - x1) // 3, (y2 - y1) // 3
                crop = frame[max(y1 - h, 0) : y2 + h, max(x1 - w, 0) : x2 + w]
                name = layout.crop_name(number, row["face"])
                stored = (layout.crops_path(root, video) / name).read_bytes()
                assert stored == extract_crops.encode_png(crop)
                pictures[video, number, row["face"]] = crop
    for video, number, face in [key for key in pictures if key[0] == "634"]:
        pair = pictures[video, number, face], pictures["634_660", number, face]
        similar = structural_similarity(*pair, channel_axis=2, full=True)[1]
        expected = cv2.cvtColor(np.clip(255 * (1 - similar), 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
        mask = read_picture(layout.diffs_path(root, "634_660") / layout.diff_name(number, face), grey=True)
        assert np.abs(mask.astype(int) - expected).max() <= 1


@needs_real_videos
def test_dfdc_mini_gives_what_the_contract_says(tmp_path):
    root = tmp_path / "mini"
    shutil.copytree(REAL_VIDEOS / "dfdc_mini", root, copy_function=shutil.copyfile)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    environment = {**os.environ, "VENV": str(Path(sys.executable).parents[1])}
    done = subprocess.run(
        [ROOT / "preprocess_data.sh", root], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for video, frames in (("519", 76), ("519_515", 76), ("634", 34), ("634_660", 34)):
        crops = layout.list_crops(layout.crops_path(root, video))
        assert [frame for frame, face in crops if face == 0] == list(range(0, frames * 10, 10))
    assert {path.stem for path in (root / "bboxes").iterdir()} == {"519", "634"}
    assert artifacts.count_files(layout.diffs_path(root, "519_515")) == 76
    assert artifacts.count_files(layout.landmarks_path(root, "634")) >= 32
    for video in ("widuwuoiur", "yhffcuhhjy"):
        assert ledger(root, "detect_original_faces")[video][0] == "skipped"
    assert (root / "folds.csv").read_text().count("\n") == 1 + 2 * (76 + 34)

    assert_artifacts_are_the_plain_ones(root)

    out = tmp_path / "out"
    done = run_script("training/train_classifier.py", "--config", "configs/demo.json", "--data-dir", root,
                      "--epochs", 1, "--output-dir", out, "--log-dir", out, "--prefix", "mini_")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "epoch 0 fake" in done.stdout
