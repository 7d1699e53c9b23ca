"""A spy for each flag of each preprocessing step, and of the driver that runs them."""

import json
import os
import shutil
import subprocess

import pytest
from families import make_family
from helpers import ROOT, write_part
from step_commands import FOLDERS, STEPS, run

from dfdc import layout
from dfdc.command_line import SettingError
from dfdc.rejections import load_rejections
from preprocessing.crop_step import CropStep


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    root = tmp_path_factory.mktemp("family") / "root"
    dataset = make_family(root, count=21)
    for video in dataset.videos.values():
        CropStep(root, "crops", load_rejections(root)).work(video)
    return root


@pytest.fixture
def root(family, tmp_path):
    shutil.copytree(family, tmp_path / "root")
    return tmp_path / "root"


VIDEOS = {
    "detect_original_faces": ["real"],
    "extract_crops": ["real", "fake"],
    "generate_landmarks": ["real"],
    "generate_diffs": ["fake"],
}


@pytest.mark.parametrize("name", STEPS)
def test_every_step_gets_its_root_videos_and_arguments(root, started, name):
    assert run(name, root, "--workers", 3, "--max-failed", 0.3, "--force") == 0
    step, options, videos, skipped, _ = started[0]
    assert step.root == root
    assert (options.workers, options.max_failed, options.force) == (3, 0.3, True)
    assert step.name == name
    assert [video.id for video in videos] == VIDEOS[name]
    assert list(skipped) == []


@pytest.mark.parametrize("name", ["extract_crops", "generate_landmarks", "generate_diffs"])
def test_crops_dir_arrives(root, started, name):
    (root / "crops").rename(root / "crops two")
    run(name, root, "--crops-dir", "crops two")
    step, _, videos, *_ = started[0]
    assert step.crops_dir == "crops two"
    assert [video.id for video in videos] == VIDEOS[name]
    with pytest.raises(SettingError, match="crops_dir bboxes"):
        run(name, root, "--crops-dir", "bboxes")


@pytest.mark.parametrize("name", STEPS)
def test_leftovers_of_a_killed_step_go(root, started, name):
    (root / FOLDERS[name]).mkdir(exist_ok=True)
    left = root / FOLDERS[name] / ".real.part-99999999-1"
    left.mkdir()
    run(name, root)
    assert not left.exists()


@pytest.mark.parametrize("name", STEPS)
def test_rejected_videos_are_skipped_by_every_step(root, started, name):
    (root / layout.REJECTED_NAME).write_text("video,frame,face,reason\nreal,,,two people\n")
    run(name, root)
    _, _, videos, skipped, _ = started[0]
    assert videos == []
    reasons = {
        "real": "rejected in rejected.csv: two people",
        "fake": "its original real is rejected in rejected.csv: two people",
    }
    expected = {"detect_original_faces": {"real"}, "generate_landmarks": {"real"}, "generate_diffs": {"fake"}}
    assert dict(skipped) == {video: reasons[video] for video in expected.get(name, {"real", "fake"})}


@pytest.mark.parametrize("name", STEPS)
def test_a_rejected_csv_that_cant_be_read_stops_every_step(root, started, name):
    (root / layout.REJECTED_NAME).write_text("film,frame,face\n")
    with pytest.raises(layout.DataError, match=r"rejected\.csv"):
        run(name, root)
    assert started == []


@pytest.mark.parametrize("name", STEPS)
def test_what_the_data_set_lacks_is_skipped(tmp_path, started, name):
    part = write_part(
        tmp_path / "part",
        {"absent.mp4": {"label": "REAL"}, "orphan.mp4": {"label": "FAKE", "original": "absent.mp4"}},
    )
    (part / "orphan.mp4").write_bytes(b"x")
    run(name, tmp_path)
    skipped = dict(started[0][3])
    real, fake = {"absent"}, {"orphan"}
    about = {"detect_original_faces": real, "generate_landmarks": real, "generate_diffs": fake}
    assert skipped.keys() == about.get(name, real | fake)


# ----------------------------------------------------------------------------------------------- the driver
@pytest.fixture
def driver(tmp_path):
    """Run preprocess_data.sh with a Python that only notes what it was called with; returns script -> arguments."""
    log, fake = tmp_path / "calls.jsonl", tmp_path / "venv" / "bin" / "python"
    fake.parent.mkdir(parents=True)
    fake.write_text(
        "#!/usr/bin/env -S python3 -SE\nimport json, os, sys\n"
        f"print(json.dumps(sys.argv[1:]), file=open({str(log)!r}, 'a'))\n"
        "if sys.argv[1].endswith('extract_crops.py') and '8' in sys.argv: os.kill(os.getpid(), 9)\n"
        "sys.exit(1 if sys.argv[1].endswith('generate_diffs.py') and '7' in sys.argv else 0)\n"
    )
    fake.chmod(0o755)
    data = tmp_path / "data root"
    (data / "part").mkdir(parents=True)
    (data / "part" / "metadata.json").touch()

    def run_driver(*arguments, cwd=tmp_path):
        log.unlink(missing_ok=True)
        environment = {**os.environ, "VENV": str(tmp_path / "venv")}
        command = [str(ROOT / "preprocess_data.sh"), str(data), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)
        lines = log.read_text().splitlines() if log.exists() else []
        calls, checked = {}, []
        for script, *given in map(json.loads, lines):
            assert given[:2] == ["--root-dir", str(data)]
            if given[-1] == "--check-options":  # what the last step will be called with
                assert not calls
                checked = given[2:-1]
                continue
            calls[script.split("/")[-1].removesuffix(".py")] = given[2:]
        assert checked == calls.get("generate_folds", checked)
        return done, calls

    return run_driver


ALL = (*STEPS, "generate_folds", "report")


def test_the_driver_runs_all_steps_and_the_report_without_arguments(driver):
    done, calls = driver()
    assert done.returncode == 0
    assert calls == {name: [] for name in ALL}
    assert list(calls) == list(ALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "reaches", "as_what"),
    [
        (["--workers", "3"], ALL[:4], ["--workers", "3"]),
        (["--max-failed", "0.2"], ALL[:4], ["--max-failed", "0.2"]),
        (["--engine", "ray"], ALL[:4], ["--engine", "ray"]),
        (["--ray-address", "head:6379"], ALL[:4], ["--ray-address", "head:6379"]),
        (["--force"], ALL[:4], ["--force"]),
        (["--prune"], ALL[:4], ["--prune"]),
        (["--prune", "part 1", "part_2"], ALL[:4], ["--prune", "part 1", "part_2"]),
        (["--device", "cpu"], ("detect_original_faces", "generate_landmarks"), ["--device", "cpu"]),
        (["--detector-scale", "0.5"], ("detect_original_faces",), ["--detector-scale", "0.5"]),
        (["--png-level", "9"], ("extract_crops", "generate_diffs"), ["--png-level", "9"]),
        (["--crops-dir", "-x y"], ALL[1:], ["--crops-dir=-x y"]),
        (["--n_splits", "4"], ("generate_folds",), ["--n_splits", "4"]),
        (["--n-splits", "4"], ("generate_folds",), ["--n-splits", "4"]),
        (["--seed", "5"], ("generate_folds",), ["--seed", "5"]),
        (["--similar", "off"], ("generate_folds",), ["--similar", "off"]),
        (["--val-ids", "none"], ("generate_folds",), ["--val-ids", "none"]),
        (["--val-ids", "/a b/ids"], ("generate_folds",), ["--val-ids", "/a b/ids"]),
        (["--force-folds"], ("generate_folds",), ["--force"]),
    ],
)
def test_each_option_of_the_driver_reaches_its_steps_and_no_other(driver, given, reaches, as_what):
    done, calls = driver(*given)
    assert done.returncode == 0, done.stderr
    assert calls == {name: as_what if name in reaches else [] for name in ALL}


def test_a_shard_ends_after_step_4_without_the_page_and_says_what_to_run(driver, tmp_path):
    page = tmp_path / "data root" / "report" / "index.html"
    page.parent.mkdir()
    page.touch()
    done, calls = driver("--shard", "2/3", "--workers", "3")
    assert done.returncode == 0, done.stderr
    assert calls == {name: ["--workers", "3", "--shard", "2/3"] for name in STEPS}
    assert "Shard 2/3 is done. After all shards, run the same command without --shard and --force" in done.stdout
    assert page.exists()


def test_a_relative_hold_out_is_where_the_user_is(driver, tmp_path):
    (tmp_path / "deep er").mkdir()
    _, calls = driver("--val-ids", "my ids.txt", cwd=tmp_path / "deep er")
    assert calls["generate_folds"] == ["--val-ids", f"{tmp_path}/deep er/my ids.txt"]


def test_wrong_options_of_the_driver_are_named(driver):
    for given, said in (
        (["--n-splitz", "3"], "unknown argument '--n-splitz'"),
        (["--seed"], "--seed needs a value"),
        (["--shard"], "--shard needs a value"),
        (["--png-level", "12"], "--png-level 12: give a number from 0 to 9"),
    ):
        done, calls = driver(*given)
        assert (done.returncode, calls) == (2, {})
        assert said in done.stderr


def test_a_step_that_fails_ends_the_run_with_its_page(driver):
    done, calls = driver("--png-level", "7")
    assert done.returncode == 1
    assert list(calls) == [*STEPS, "report"]
    assert done.stderr.endswith("preprocess_data.sh: stopped in step 4 with status 1\n")


@pytest.mark.parametrize("more", [(), ("--force",)])
def test_after_a_step_was_killed_the_run_says_how_to_resume(driver, more):
    done, calls = driver("--png-level", "8", *more)
    assert done.returncode == 137
    assert list(calls) == ["detect_original_faces", "extract_crops", "report"]
    advice = "run the same command again to resume"
    advice += " (without --force, which would start over)" if more else ""
    assert done.stderr.endswith(f"preprocess_data.sh: stopped in step 2 with status 137; {advice}\n")


def test_an_old_page_does_not_outlive_the_beginning_of_a_run(driver, tmp_path):
    """Had it been killed, the page would go on to say that all is well."""
    page = layout.report_path(tmp_path / "data root")
    page.parent.mkdir()
    page.write_text("All five steps ran to their end.")
    driver()  # whose report writes nothing here
    assert not page.exists()
    page.write_text("All five steps ran to their end.")
    driver("--unknown")
    assert page.exists()  # it has not begun


def test_a_folder_without_metadata_is_left_as_it_is(driver, tmp_path):
    (tmp_path / "data root" / "part" / "metadata.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    done, calls = driver()
    assert (done.returncode, calls) == (2, {})
    assert "contains a metadata.json. Your own videos need one: docs/preprocessing.md" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "data root" / "metadata.json").touch()  # a part itself: step 5 says so
    assert "generate_folds" in driver()[1]


def test_what_the_driver_passes_on_the_steps_take(monkeypatch, root, started):
    """The options above, given to the real scripts."""
    for name in STEPS:
        run(name, root, "--workers", 1, "--max-failed", 1, "--force", "--prune")
    for name in ("extract_crops", "generate_landmarks", "generate_diffs"):
        run(name, root, "--crops-dir=crops")
    assert len(started) == 7
