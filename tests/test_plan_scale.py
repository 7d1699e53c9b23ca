"""The arithmetic of benchmarks/plan_scale.py, with made-up costs."""

import re
from dataclasses import fields

import pytest
from helpers import ROOT, run_script

from benchmarks import plan_scale
from benchmarks.plan_scale import Costs, Data, Machine, plan

# 1000 videos of 2 MB, 200 of them real, 10 crops each: 10,000 crops, 2,000 of real and 8,000 of fake videos.
DATA = Data(videos=1000, reals=200, crops=10, video_mb=2, scored=100, checkpoints=2)
COSTS = Costs(
    detect_s=36,
    crop_s=7.2,
    landmark_ms=3600,
    mask_ms=900,
    list_ms=3600,
    row_us=360_000,
    read_s=18,
    face_s=0.28125,
    train_s=0.0003,
    boxes_kb=5,
    crop_kb=100,
    landmarks_kb=1,
    mask_kb=20,
)
# So fast that only the processors count.
FAST = Machine(cores=10, disk=1e12, files=1e12)


def rows(costs=COSTS, machine=FAST, data=DATA):
    found = plan(data, costs, machine)
    names = ["faces", "crops", "landmarks", "masks", "folds", "training", "scoring"]
    return dict(zip(names, found, strict=True))


def test_hours_of_processors():
    found = rows()
    hours = {name: row.hours for name, row in found.items()}
    assert hours == pytest.approx(
        {
            "faces": 200 * 36 / 36000,
            "crops": 1000 * 7.2 / 36000,
            "landmarks": 2000 * 3.6 / 36000,
            "masks": 8000 * 0.9 / 36000,
            "folds": (1000 * 3.6 + 10_000 * 0.36) / 3600,  # on one core
            "training": 12_000_000 * 0.0003 / 36000,
            "scoring": (100 * 18 + 100 * 32 * 2 * 0.28125) / 36000,
        }
    )
    assert {row.bottleneck for row in found.values()} == {"cores"}
    assert [name for name, row in found.items() if row.work.one_core] == ["folds"]


def test_bytes_and_files():
    found = {name: row.work for name, row in rows().items()}
    assert {name: work.read for name, work in found.items()} == {
        "faces": 200 * 2e6,
        "crops": 1000 * 2e6,
        "landmarks": 2000 * 100e3,
        "masks": 2 * 8000 * 100e3,
        "folds": 0,
        "training": 12_000_000 * 110e3,
        "scoring": 100 * 2e6,
    }
    assert {name: work.written for name, work in found.items()} == {
        "faces": 200 * 5e3,
        "crops": 10_000 * 100e3,
        "landmarks": 2000 * 1e3,
        "masks": 8000 * 20e3,
        "folds": 10_000 * 60,
        "training": 0,
        "scoring": 0,
    }
    assert {name: work.files for name, work in found.items()} == {
        "faces": 200,
        "crops": 11_000,
        "landmarks": 2200,
        "masks": 8800,
        "folds": 2,
        "training": 0,
        "scoring": 0,
    }


@pytest.mark.parametrize(
    ("machine", "bottleneck", "hours"),
    [
        (Machine(cores=1e9, disk=10, files=1e12), "disk", 3000 / 10 / 3600),  # 2000 MB read, 1000 written
        (Machine(cores=1e9, disk=10, files=1e12, network=5), "network", 3000 / 5 / 3600),
        (Machine(cores=1e9, disk=10, files=1e12, network=20), "disk", 3000 / 10 / 3600),
        (Machine(cores=1e9, disk=10, files=11), "files", 1000 / 3600),
        (Machine(cores=2, gpus=8, disk=10, files=1e12), "cores", 1.0),
    ],
)
def test_the_slowest_resource_decides(machine, bottleneck, hours):
    crops = rows(machine=machine)["crops"]
    assert crops.bottleneck == bottleneck
    assert crops.hours == pytest.approx(hours)


def test_gpus_work_where_their_cost_is_known():
    machine = Machine(cores=10, gpus=4, disk=1e12, files=1e12)
    costs = {"gpu_detect_s": 0.9, "gpu_landmark_ms": 7.2, "gpu_face_ms": 9, "gpu_train_ms": 0.12}
    known = plan_scale.replace(COSTS, **costs)
    found = rows(known, machine)
    on_gpu = {name: row.hours for name, row in found.items() if row.bottleneck == "GPUs"}
    assert on_gpu == pytest.approx(
        {
            "faces": 200 * 0.9 / 4 / 3600,
            "landmarks": 2000 * 0.0072 / 4 / 3600,
            "training": 12_000_000 * 0.00012 / 4 / 3600,
            "scoring": 100 * 32 * 2 * 0.009 / 4 / 3600,
        }
    )
    assert {row.bottleneck for row in rows(known).values()} == {"cores"}  # without a GPU
    assert {row.bottleneck for row in rows(machine=machine).values()} == {"cores"}  # without its costs


def test_the_table_of_a_command(capsys):
    flags = ["--videos", "1000", "--reals", "200", "--crops", "10", "--video-mb", "2", "--crop-kb", "100"]
    plan_scale.main([*flags, "--crop-s", "7.2", "--cores", "2", "--disk", "1e9", "--files", "1e9", "--gpus", "3"])
    said = capsys.readouterr().out
    assert said.startswith("1,000 videos (200 real), 10 crops each; 2 cores, 3 GPUs, 1e+09 MB/s")
    (row,) = re.findall(r"^\| 2 crops \|.*$", said, re.MULTILINE)
    assert row == "| 2 crops | 2.0 | - | 2.0 | 1.0 | 11,000 | 1.00 | cores |"
    assert len(re.findall(r"^\| \d ", said, re.MULTILINE)) == 5
    assert "because no --gpu- flag gives their cost on a GPU" in said


def test_every_default_is_in_the_help_and_wrong_values_are_refused():
    done = run_script("benchmarks/plan_scale.py", "--help")
    assert done.returncode == 0, done.stderr
    flat = " ".join(done.stdout.split())
    for kind in (Data, Costs, Machine):
        for item in fields(kind):
            assert f"--{item.name.replace('_', '-')} N" in flat
            assert item.default is None or f"(default: {item.default:,})" in flat
    for wrong in (["--disk", "0"], ["--cores", "0"], ["--videos", "-1"], ["--videos", "nan"], ["--measure", "absent"]):
        done = run_script("benchmarks/plan_scale.py", *wrong)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


@pytest.mark.slow
def test_costs_are_measured_on_given_videos():
    data, costs = plan_scale.measure([ROOT / "tests/data/clip/real.mp4"], "cpu")
    measured = ("detect_s", "crop_s", "landmark_ms", "mask_ms", "boxes_kb", "crop_kb", "landmarks_kb", "mask_kb")
    assert all(getattr(costs, name) > 0 for name in measured)
    assert data.video_mb == (ROOT / "tests/data/clip/real.mp4").stat().st_size / 1e6
    assert data.crops >= 1
    assert costs.landmarks_kb == pytest.approx(0.148)  # a header of 128 bytes, and ten numbers of two
