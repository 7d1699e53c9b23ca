"""What scoring makes of fixed files, version by version: results that move need a new SCORING_VERSION (T65, T67).

tests/data/clip has a plain clip and a fake of it; tests/data/odd the same in HLG, squeezed, of two sizes, as a photo of
12 bits and as one with a transparent edge.

    python -m pytest tests/test_scoring_version.py --record     records what it makes today

The networks return what they are shown (scoring_runs.py), so that pixels, crops and sizes count and PyTorch does not.
"""

import json
from pathlib import Path

import pytest
from scoring_runs import NETWORKS, SIZES, make_checkpoint, replace_networks

from prediction import Scorer
from prediction.progress import SCORING_VERSION

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent / "data"
RECORD = DATA / "scoring.json"
CORNERS = 0.02  # pixels; other processors add up in another order
SHOWN = 0.002


@pytest.fixture
def made(tmp_path, monkeypatch):
    for name, size in SIZES.items():
        make_checkpoint(tmp_path, name, size=size)
    replace_networks(monkeypatch)
    paths = [path for folder in ("clip", "odd") for path in sorted((DATA / folder).iterdir())]
    paths = [path for path in paths if path.suffix != ".json"]
    with Scorer([tmp_path / name for name in NETWORKS], device="cpu", precision="fp32", strategy="smooth") as scorer:
        verdicts = scorer.score(paths)
    return {
        path.name: {
            "status": verdict.status,
            "score": verdict.score,
            "doubts": verdict.doubts,
            "notes": verdict.notes,
            "sizes": verdict.sizes,
            "faces": [[face.frame, face.person, *face.box, face.detector, *face.scores] for face in verdict.faces],
        }
        for path, verdict in zip(paths, verdicts, strict=True)
    }


def test_t65_t67_scores_that_move_need_a_new_version(made, request):
    known = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    if request.config.getoption("--record"):
        RECORD.write_text(json.dumps({**known, str(SCORING_VERSION): made}, indent=1) + "\n")
        pytest.skip("recorded")
    assert str(SCORING_VERSION) in known, f"nothing is recorded for version {SCORING_VERSION}; see the top of this file"
    assert max(map(int, known)) == SCORING_VERSION, "SCORING_VERSION went back"
    told = f"scoring makes something else than version {SCORING_VERSION} did: raise SCORING_VERSION, and record"
    expected = known[str(SCORING_VERSION)]
    assert made.keys() == expected.keys()
    for name, video in expected.items():
        found = made[name]
        for key in ("status", "doubts", "notes", "sizes"):
            assert found[key] == video[key], told
        assert found["score"] == pytest.approx(video["score"], abs=SHOWN), told
        assert [face[:2] for face in found["faces"]] == [face[:2] for face in video["faces"]], told
        for now, then in zip(found["faces"], video["faces"], strict=True):
            assert now[2:6] == pytest.approx(then[2:6], abs=CORNERS), told
            assert now[6:] == pytest.approx(then[6:], abs=SHOWN), told


def test_the_odd_files_are_what_they_should_be(made):
    assert made["squeezed.mp4"]["sizes"] == made["hlg.mp4"]["sizes"] == [[0, 864, 280]]
    assert made["sizes.ts"]["sizes"] == [[0, 576, 186], [3, 864, 280]]
    for name, note in (("hlg.mp4", "HLG"), ("squeezed.mp4", "resampled to square"), ("12_bits.png", "of which 12")):
        assert note in made[name]["notes"][0]
        assert "unusual pictures" in made[name]["doubts"]
    assert all(video["faces"] for video in made.values())


def test_the_clip_has_two_people_and_scores_that_differ(made):
    faces = made["real.mp4"]["faces"]
    assert {face[1] for face in faces} == {0, 1}
    assert max(face[7] for face in faces) - min(face[7] for face in faces) > 0.05
