"""What to score and what is known of it (prediction/inputs.py)."""

import json
import os

import numpy as np
import pytest
import skimage.data
from helpers import numbered_frames
from scoring_runs import details, make_checkpoint, run

from dfdc.command_line import UsageError
from dfdc.imaging import encode_png, read_picture
from dfdc.video import write_video
from networks.ensemble import Ensemble
from prediction import selftest


@pytest.mark.slow
def test_labels_of_other_videos_are_refused_before_anything_is_scored(tmp_path):
    make_checkpoint(tmp_path, "a")
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/v.mp4", numbered_frames(3))
    (tmp_path / "l.csv").write_text("filename,label\nv,0\n")
    with pytest.raises(UsageError, match=r"names none of the videos; it has v, and they are v\.mp4"):
        run(tmp_path, tmp_path / "v", tmp_path / "o.csv", "--labels", tmp_path / "l.csv", models=["a"])
    assert not (tmp_path / "o.csv.progress").exists()


def test_a_picture_too_large_to_be_true_is_an_unreadable_one(tmp_path):
    data = bytearray(encode_png(np.zeros((2, 2, 3), np.uint8)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(data)
    with pytest.raises(OSError, match=r"huge\.png"):
        read_picture(tmp_path / "huge.png")


def test_t14_a_moved_folder_and_a_touched_checkpoint_cost_no_verdict(tmp_path, capsys):
    make_checkpoint(tmp_path, "a")
    (tmp_path / "here").mkdir()
    write_video(tmp_path / "here/v.mp4", numbered_frames(3))
    output = tmp_path / "o.csv"
    run(tmp_path, tmp_path / "here", output, models=["a"])
    (tmp_path / "here").rename(tmp_path / "there")
    os.utime(tmp_path / "a", (1, 1))
    capsys.readouterr()
    run(tmp_path, tmp_path / "there", output, models=["a"])
    assert "beginning anew" not in capsys.readouterr().out
    (video,) = details(output)["videos"]
    assert video["path"] == str(tmp_path / "there/v.mp4")


def test_t14_a_broken_checkpoint_does_not_cost_what_was_scored(tmp_path):
    make_checkpoint(tmp_path, "a")
    (tmp_path / "broken").write_bytes(b"PK")
    (tmp_path / "v").mkdir()
    write_video(tmp_path / "v/v.mp4", numbered_frames(3))
    output = tmp_path / "o.csv"
    run(tmp_path, tmp_path / "v", output, models=["a"])
    before = (tmp_path / "o.csv.progress").read_bytes()
    with pytest.raises(UsageError, match="broken is not a checkpoint"):
        run(tmp_path, tmp_path / "v", output, "--force", models=["broken"])
    assert (tmp_path / "o.csv.progress").read_bytes() == before


def noisy_portrait(path):
    """A clip of half a megabyte with a face."""
    rng = np.random.default_rng(0)
    portrait = skimage.data.astronaut()[:300, 60:400]
    write_video(
        path, (np.clip(portrait + rng.normal(0, 25, portrait.shape), 0, 255).astype(np.uint8) for _ in range(40))
    )
    return path


@pytest.mark.slow
def test_t62_a_video_that_was_mended_in_place_is_scored_again(tmp_path, capsys):
    make_checkpoint(tmp_path, "a")
    (tmp_path / "v").mkdir()
    path = noisy_portrait(tmp_path / "v/v.mp4")
    whole = path.read_bytes()
    middle = len(whole) * 4 // 5
    path.write_bytes(whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 64]) + whole[middle + 64 :])
    output = tmp_path / "o.csv"
    assert run(tmp_path, tmp_path / "v", output, models=["a"]) == 0
    (damaged,) = details(output)["videos"]
    assert damaged["status"] == "partial"
    path.write_bytes(whole)
    assert run(tmp_path, tmp_path / "v", output, models=["a"]) == 0
    (mended,) = details(output)["videos"]
    assert (mended["status"], mended["frames_lost"]) == ("ok", [])
    assert "scored before" not in capsys.readouterr().out
    os.utime(path, (1, 1))  # the same content at another time is the same video
    run(tmp_path, tmp_path / "v", output, models=["a"])
    assert "1 of 1 were scored before" in capsys.readouterr().out


def test_a_golden_file_with_half_a_box_is_broken(tmp_path):
    stored = {"faces": [{"frame": 0, "score": 0.5, "box": [1, 2]}], "libraries": {}, "checkpoint_sha256": "",
              "clip": {"pixels_sha256": "", "file_sha256": ""}}  # fmt: skip
    selftest.golden_path(tmp_path / "m").write_text(json.dumps(stored))
    with pytest.raises(UsageError, match="is broken"):
        selftest.read_golden(tmp_path / "m")


def test_compiling_that_fails_without_a_word_costs_no_run(tmp_path, monkeypatch):
    make_checkpoint(tmp_path, "m")
    ensemble = Ensemble([tmp_path / "m"], "cpu")

    def fails(crops):
        raise AssertionError

    monkeypatch.setattr(ensemble, "score", fails)
    assert "no reason given" in ensemble.compile(only_if_faster=True)
