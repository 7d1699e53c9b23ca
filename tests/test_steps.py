"""Running a step over videos (dfdc/steps.py): what is left to do, failures, exit status."""

import errno
import json
import os
import re
from pathlib import Path

import pytest
from behaving import Behaving, run
from helpers import write_part

from dfdc import layout, steps
from dfdc.artifacts import Stamp
from dfdc.command_line import SettingError, UsageError, UserError
from dfdc.ledger import StepRun, read_rows, read_run
from dfdc.shards import WHOLE, Shard
from dfdc.step_command import RunOptions
from dfdc.workers import Failed
from preprocessing import detect_original_faces


def test_one_bad_video_never_stops_the_others(tmp_path, capsys):
    bad = ["dies-1", "crashes-1", "fails-1", "unreadable-1", "full-27", "skipped-1", "partly-1", "empty-1"]
    good = [f"good-{index}" for index in range(12)]
    status, ledger = run(tmp_path, [*good[:6], *bad, *good[6:]])
    assert status == 0
    assert {path.stem for path in tmp_path.glob("*.done")} == {*good, "partly-1", "empty-1"}
    assert ledger[("dies-1", "failed")] == "its worker process died 3 times (exit code -9)"
    assert ledger[("full-27", "failed")] == "/somewhere: No space left on device"
    assert ledger[("empty-1", "failed")] == "nothing in it"
    assert "KeyError" in ledger[("crashes-1", "failed")]
    assert "behaving.py" in ledger[("crashes-1", "failed")]
    assert ledger[("fails-1", "failed")] == "for a reason"
    assert ledger[("unreadable-1", "failed")] == "zero bytes"
    assert ledger[("skipped-1", "skipped")] == "no partner"
    assert ledger[("partly-1", "incomplete")] == "half of it; late"
    assert ledger[("elsewhere", "skipped")] == "its original is not on disk"
    assert len(ledger) == 9
    said = capsys.readouterr()
    assert "a_step: 20 videos (0 were complete), 28 things; 6 failed, 2 skipped, 1 incomplete" in said.out
    assert "  failed: fails-1: for a reason" in said.err
    assert read_run(layout.ledger_path(tmp_path, "a_step")) == StepRun(20, 20, True)


def test_t61_what_cant_be_judged_now_is_left_and_counted(tmp_path):
    """A disk that is away, or something unforeseen in a stamp, costs no other video, and nothing is done anew."""
    status, ledger = run(tmp_path, ["away-1", "odd-1", "good-1"])
    assert status == 0
    assert ledger[("away-1", "failed")] == f"{tmp_path}/away-1.mp4: No such file or directory"
    assert ledger[("odd-1", "failed")].startswith("KeyError: 'a key that is not there' (behaving.py:")
    assert {path.stem for path in tmp_path.glob("*.done")} == {"good-1"}
    assert run(tmp_path, ["away-1", "good-1"], fresh=["good-1"], max_failed=0.4)[0] == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_stops_the_step_and_not_one_video_after_the_other(tmp_path, number):
    with pytest.raises(OSError, match="No space left on device") as error:
        run(tmp_path, [f"full-{number}", *[f"good-{index}" for index in range(30)]], workers=1)
    assert error.value.filename == "/somewhere"
    assert len(list(tmp_path.glob("*.done"))) < 30
    assert read_run(layout.ledger_path(tmp_path, "a_step")).finished is False


def test_too_many_failures_exit_1_with_a_message(tmp_path, capsys):
    assert run(tmp_path, ["fails-1", *[f"good-{i}" for i in range(9)]], max_failed=0.1)[0] == 0
    assert run(tmp_path, ["fails-1", *[f"good-{i}" for i in range(9)]], max_failed=0.09)[0] == 1
    assert "1 of 10 videos failed, more than max_failed 0.09 allows" in capsys.readouterr().err


@pytest.mark.parametrize("skipped", [[], [("a", "not on disk")]])
def test_reasons_are_pointed_at_where_there_are_some(tmp_path, capsys, skipped):
    steps.run_step(Behaving(tmp_path), RunOptions(workers=1), [], skipped)
    assert ("  reasons: " in capsys.readouterr().out) == bool(skipped)


def test_skipped_is_no_failure(tmp_path):
    assert run(tmp_path, ["skipped-1", "skipped-2"], max_failed=0.0)[0] == 0


def test_t17_finished_work_is_counted_but_not_redone(tmp_path, capsys):
    run(tmp_path, ["good-1", "good-2"], fresh=["good-1"])
    assert [path.stem for path in tmp_path.glob("*.done")] == ["good-2"]
    assert "2 videos (1 were complete), 7 things" in capsys.readouterr().out
    run(tmp_path, ["good-1", "good-2"], fresh=["good-1"], force=True)
    assert len(list(tmp_path.glob("*.done"))) == 2


def test_bad_fraction_and_device_are_usage_errors(tmp_path):
    with pytest.raises(SettingError, match="max_failed 7: expected a fraction from 0 to 1"):
        run(tmp_path, [], max_failed=7)
    with pytest.raises(SettingError, match="device tpu: unknown"):
        run(tmp_path, ["good-1"], fresh=["good-1"], device="tpu")
    with pytest.raises(SettingError, match="workers -1: use a number of at least 1"):
        run(tmp_path, ["good-1"], fresh=["good-1"], device="auto", workers=-1)


def test_another_engine_can_do_the_work(tmp_path):
    asked = []

    def engine(task, items):
        asked.append((task.name, [item.id for item in items]))
        for item in items:
            yield item, Failed("no machine") if item.id == "good-2" else task.check(item) or Stamp({}, {"things": 3})

    status, ledger = run(tmp_path, ["good-1", "good-2", "good-3"], fresh=["good-1"], engine=engine, device="auto")
    assert status == 0
    assert asked == [("a_step", ["good-2", "good-3"])]
    assert ledger == {("good-2", "failed"): "no machine", ("elsewhere", "skipped"): "its original is not on disk"}
    assert not list(tmp_path.glob("*.done"))


def test_a_given_engine_does_the_work_of_a_whole_run(tmp_path):
    part = write_part(tmp_path / "part_0", {"good-1.mp4": {"label": "REAL"}})
    (part / "good-1.mp4").write_bytes(b"x")
    asked = []

    def engine(task, items):
        asked.append((task.name, [item.id for item in items]))
        yield from ((item, Stamp({}, {"things": 3})) for item in items)

    assert Behaving(tmp_path).run(RunOptions(), engine) == 0
    assert asked == [("a_step", ["good-1"])]
    assert not list(tmp_path.glob("*.done"))


def test_a_whole_run_selects_prunes_and_works(tmp_path):
    names = ("good-1", "obstacle-1", "rejected-1")
    part = write_part(tmp_path / "part_0", {f"{name}.mp4": {"label": "REAL"} for name in names})
    metadata = json.loads((part / "metadata.json").read_text())
    metadata |= {"fake-1.mp4": {"label": "FAKE", "original": "good-1.mp4"}, "away.mp4": {"label": "REAL"}}
    metadata["away_fake.mp4"] = {"label": "FAKE", "original": "away.mp4"}
    (part / "metadata.json").write_text(json.dumps(metadata))
    for name in (*names, "fake-1"):
        (part / f"{name}.mp4").write_bytes(b"x")
    (tmp_path / "rejected.csv").write_text("video,frame,face\nrejected-1,,\n")
    left = tmp_path / "things" / ".good-1.part-99999999-1"
    left.mkdir(parents=True)
    assert Behaving(tmp_path).run(RunOptions(workers=1, prune=("part 7", "part 8"))) == 0
    assert [path.stem for path in tmp_path.glob("*.done")] == ["good-1"]
    assert (tmp_path / "pruned").read_text() == "part 7 part 8"
    assert not left.exists()
    rows = read_rows(layout.ledger_path(tmp_path, "a_step"))
    assert {(video, outcome) for video, outcome, _ in rows} == {
        (name, "skipped") for name in ("away", "obstacle-1", "rejected-1")
    }
    (tmp_path / "pruned").unlink()
    Behaving(tmp_path).run(RunOptions(workers=1))
    assert not (tmp_path / "pruned").exists()


def test_a_step_that_does_not_say_what_it_does_is_none():
    with pytest.raises(TypeError, match="abstract"):
        steps.VideoStep(Path("x"))


# ------------- bars
class Bar(list):
    """What a progress bar was made with, and how far it came."""

    def __init__(self, iterable=None, **options):
        super().__init__(iterable or [])
        self.options, self.steps, self.shown = options, 0, {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self):
        self.steps += 1

    def set_postfix(self, **shown):
        self.shown = shown


def test_the_bars_say_what_is_done_and_of_how_many(tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr(steps, "progress_bar", lambda *a, **options: bars.append(Bar(*a, **options)) or bars[-1])
    run(tmp_path, ["good-1", "good-2", "fails-1"], fresh=["good-1"])
    check, work = bars
    assert check.options == {"total": 3, "desc": "a_step: checking", "unit": "video", "delay": 3}
    assert work.options == {"total": 2, "desc": "a_step", "unit": "video"}
    assert work.steps == 2
    assert work.shown == {"failed": 1, "refresh": False}


def test_pytorch_is_loaded_only_where_there_is_something_to_do(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(steps, "list_devices", lambda name: asked.append(name) or ["cpu"])
    run(tmp_path, ["good-1"], fresh=["good-1"], device="auto")
    assert asked == []
    run(tmp_path, ["good-1"], fresh=["good-1"], device="cpu")  # named: a wrong name is told even so
    assert asked == ["cpu"]
    run(tmp_path, ["good-1", "good-2"], fresh=["good-1"], device="auto")
    assert asked == ["cpu", "auto"]
    seconds = [float(text) for text in re.findall(r"incomplete; (\d+\.\d) s", capsys.readouterr().out)]
    assert len(seconds) == 3
    assert max(seconds) < 300


def test_a_step_without_crops_does_not_ask_where_they_are(tmp_path):
    write_part(tmp_path / layout.CROPS_DIR, {"a.mp4": {"label": "REAL"}})
    assert detect_original_faces.main(["--root-dir", str(tmp_path)]) == 0


def test_t70_a_second_run_of_a_step_is_refused_and_touches_nothing_of_the_first(tmp_path):
    """It used to remove the unfinished folders of the first, which then failed."""
    part = tmp_path / "part"
    part.mkdir()
    (part / "metadata.json").write_text('{"good-1.mp4": {"label": "REAL"}}')
    (part / "good-1.mp4").write_bytes(b"x")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    step = Behaving(tmp_path)
    with step.only_run():
        lock = tmp_path / "failures" / ".a_step.lock"
        assert lock.is_file()
        with pytest.raises(
            UsageError, match=rf"^another run of this step is working on .* \(process {os.getpid()} on "
        ):
            step.run(RunOptions(workers=1, force=True))
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert step.run(RunOptions(workers=1)) == 0


def test_a_folder_that_is_no_dataset_gets_no_lock(tmp_path):
    with pytest.raises(UserError):
        Behaving(tmp_path).run(RunOptions(workers=1))
    assert list(tmp_path.iterdir()) == []


def test_shards_of_a_step_run_together_but_not_beside_a_run_of_all_videos(tmp_path):
    step, first, second = Behaving(tmp_path), Shard(1, 2), Shard(2, 2)
    with step.only_run(first), step.only_run(second):
        for shard in (WHOLE, first):
            with pytest.raises(UsageError, match="another run of this step is working on"), step.only_run(shard):
                raise AssertionError("two at once")
    with step.only_run():
        for shard in (WHOLE, first):
            with pytest.raises(UsageError, match="another run of this step is working on"), step.only_run(shard):
                raise AssertionError("two at once")
    with step.only_run(first):
        pass
    assert list(tmp_path.iterdir()) == []
