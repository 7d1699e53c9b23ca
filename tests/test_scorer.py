"""Scoring from another program (prediction/scorer.py)."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from helpers import ROOT, numbered_frames, run_script
from PIL import Image
from scoring_runs import details, run

from dfdc.video import write_video
from networks.ensemble import Ensemble
from networks.spec import CheckpointError
from prediction import Floors, Scorer, Verdict, score
from prediction import scorer as scorer_module

pytestmark = pytest.mark.slow

CLIP = Path(__file__).parent / "data" / "clip"


@pytest.fixture(scope="module")
def clips():
    found = sorted(CLIP.rglob("*.mp4"))
    assert len(found) >= 2
    return found


def test_it_gives_what_the_command_writes_and_leaves_nothing_behind(weights, clips, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = [weights / "a", weights / "b"]
    found = score(clips, models, device="cpu", strategy="smooth")
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert all(isinstance(verdict, Verdict) for verdict in found)
    assert [verdict.filename for verdict in found] == [str(path) for path in clips]
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{path}\n" for path in clips))
    run(weights, clips[0], tmp_path / "o.csv", "--list", listing, "--strategy", "smooth")
    written = {video["path"]: video for video in details(tmp_path / "o.csv")["videos"]}
    for verdict in found:
        other = written[verdict.path]
        assert verdict.score == pytest.approx(other["score"], abs=1e-6)
        assert verdict.doubts == other["doubts"]
        assert [face.box for face in verdict.faces] == [face["box"] for face in other["faces"]]


def test_a_scorer_keeps_its_checkpoints_between_calls_and_takes_paths_in_any_order(weights, clips, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("text")
    told = []
    with Scorer([str(weights / "a")], device="cpu", strategy="mean") as scorer:
        loaded = scorer.ensemble.models[0]
        first = scorer.score([str(broken), clips[1], clips[0], clips[1]], tell=told.append)
        again = scorer.score(path for path in (clips[0],))
        assert scorer.ensemble.models[0] is loaded
        assert scorer.score([]) == []
    assert [verdict.status for verdict in first] == ["unreadable", first[1].status, first[2].status, first[1].status]
    assert first[1] is first[3]
    assert first[2].score == again[0].score
    assert sorted(verdict.filename for verdict in told) == sorted({verdict.filename for verdict in first})


def test_networks_are_warmed_up_once_all_else_works(weights, monkeypatch):
    warmed = []
    monkeypatch.setattr(Ensemble, "warm_up", lambda ensemble: warmed.append(ensemble))
    with Scorer([weights / "a"], device="cpu") as scorer:
        assert warmed == [scorer.ensemble]

    def broken(thresholds, device):
        raise CheckpointError("no detector")

    monkeypatch.setattr(scorer_module, "FaceDetector", broken)
    with pytest.raises(CheckpointError, match="no detector"):
        Scorer([weights / "a"], device="cpu")
    assert len(warmed) == 1


def test_threads_that_share_a_scorer_wait_for_each_other(weights, clips):
    found = {}
    with Scorer([weights / "a"], device="cpu") as scorer:
        threads = [
            threading.Thread(target=lambda path=path: found.update({path: scorer.score([path])[0]})) for path in clips
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {path: verdict.path for path, verdict in found.items()} == {path: str(path) for path in clips}


def test_floors_are_the_callers(weights, clips):
    with Scorer([weights / "a"], device="cpu", floors=Floors(faces=33, side=1000)) as scorer:
        (verdict,) = scorer.score(clips[:1])
    assert verdict.doubts[:2] == ["few faces", "small faces"]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"models": []}, ValueError, "no checkpoint; give"),
        ({"models": ["absent"]}, CheckpointError, "absent: no such checkpoint"),
        ({"models": "absent"}, TypeError, "give a list of paths, not 'absent'"),
        ({"strategy": "max"}, ValueError, "'max' is unknown; choose one of confident, mean, person-max, smooth"),
        ({"detector_scale": 5}, ValueError, "detector_scale 5"),
        ({"detector_scale": "half"}, ValueError, "detector_scale 'half'"),
        ({"device": "tpu"}, ValueError, "tpu"),
        ({"precision": "int8"}, ValueError, "int8"),
        ({"precision": "fp16", "device": "cpu"}, ValueError, "fp16 is for GPUs"),
    ],
)
def test_wrong_use_is_an_exception_that_names_it(weights, change, error, said):
    with pytest.raises(error, match=said):
        score([], **{"models": [weights / "a"], **change})


def test_a_checkpoint_is_not_counted_twice(weights, tmp_path):
    shutil.copy(weights / "a", tmp_path / "another name")
    with pytest.raises(ValueError, match="is the same checkpoint as"):
        Scorer([weights / "a", tmp_path / "another name"], device="cpu")


def test_a_scorer_that_is_closed_or_called_from_its_own_callback_says_so(weights, clips):
    with Scorer([weights / "a"], device="cpu") as scorer:
        with pytest.raises(TypeError, match=r"give a list of paths, not 'a\.mp4'"):
            scorer.score("a.mp4")
        with pytest.raises(RuntimeError, match="must not call its own Scorer"):
            scorer.score(clips[:1], tell=lambda verdict: scorer.score(clips))
        assert scorer.score(clips[:1])[0].judged
    with pytest.raises(RuntimeError, match="this Scorer is closed"):
        scorer.score(clips[:1])


def test_files_that_are_not_there_are_named_before_anything_is_scored(weights, clips):
    with (
        Scorer([weights / "a"], device="cpu") as scorer,
        pytest.raises(FileNotFoundError, match=r"1 of 2 files are missing, .*absent\.mp4"),
    ):
        scorer.score([clips[0], "absent.mp4"], tell=lambda verdict: pytest.fail("scored"))


def test_a_script_without_a_guard_can_use_it(weights, tmp_path):
    write_video(tmp_path / "v.mp4", numbered_frames(3))
    script = tmp_path / "own.py"
    script.write_text(
        "import json\n"
        "from prediction import score\n"
        f"found = score([{str(tmp_path / 'v.mp4')!r}], [{str(weights / 'a')!r}], device='cpu')\n"
        "print(json.dumps([verdict.status for verdict in found]))\n"
    )
    done = run_script(script, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == ["no face"]


def test_compiling_is_asked_for_by_the_number_of_faces_to_come(weights, monkeypatch):
    asked = []
    monkeypatch.setattr(scorer_module, "worth_compiling", lambda faces, kinds: asked.append(faces) or faces > 40)
    with Scorer([weights / "a"], device="cpu") as scorer:
        paths = [Path("a.mp4"), Path("b.jpg"), Path("c.heic")]
        assert not scorer.should_compile("auto", paths)
        assert scorer.should_compile("auto", [*paths, Path("d.mov")])
        assert asked == [34, 66]
        assert scorer.should_compile("on", [])
        assert not scorer.should_compile("off", paths * 99)
        monkeypatch.setattr(type(scorer.ensemble), "compilable", [])  # ONNX files only
        assert not scorer.should_compile("on", paths)


def test_the_examples_of_the_documentation_run_as_typed(weights, clips, tmp_path):
    section = (ROOT / "docs/scoring.md").read_text().split("## From another program")[1]
    first, *others = [block.split("```")[0] for block in section.split("```python\n")[1:]]
    assert len(others) == 2
    (tmp_path / "weights").mkdir()
    for name, source in (("one", "a"), ("two", "b")):
        shutil.copy(weights / source, tmp_path / "weights" / name)
    shutil.copy(clips[0], tmp_path / "a.mp4")
    Image.new("RGB", (64, 64)).save(tmp_path / "b.jpg")
    (tmp_path / "videos").mkdir()
    shutil.copy(clips[0], tmp_path / "videos/c.mp4")
    before = set(tmp_path.rglob("*"))

    def typed(text):
        done = run_script("-c", text, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    *names, scored, unscored = typed(first)
    assert sorted(names) == ["a.mp4", "b.jpg"]
    assert 0 <= float(scored.split()[0]) <= 1
    assert unscored.startswith("no face ")
    assert set(tmp_path.rglob("*")) == before
    assert typed("".join(others))[-1] == "{<Status.TOO_SHORT: 'too short'>: 1} True"
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"submission.csv", "submission.json"}
