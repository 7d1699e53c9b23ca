"""Reading and scoring side by side (prediction/batches.py), with readers and networks that do as they are told."""

import threading
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from prediction import batches
from prediction.batches import Options, predict, reader_count
from prediction.decoding import Decoder, DecodingError
from prediction.progress import Results
from prediction.verdict import Face, Verdict


class Networks:
    """In place of an Ensemble: a face's score is its crop's grey value; notes the sizes of its batches."""

    names = ("one", "two")

    def __init__(self, batch_size=4, threads=2, fail=None):
        self.batch_size, self.threads, self.fail, self.batches = batch_size, threads, fail, []

    def score(self, crops):
        values = [int(crop[0, 0, 0]) for crop in crops]
        self.batches.append(values)
        if self.fail is not None and self.fail in values:
            raise ArithmeticError("this crop")
        return np.array([values, values], np.float64) / np.array([[200], [250]])


def reading(videos, wait=None):
    """In place of find_faces: each video (name -> grey values) hands out faces of those values."""

    def find_faces(path, name, decoder, detector, scale, emit):
        verdict = Verdict(name, "ok", path=str(path), frames_read=32)
        if wait is not None:
            wait(name)
        if isinstance(videos[name], BaseException):
            raise videos[name]
        for frame, value in enumerate(videos[name]):
            face = Face(frame, 0, [0, 0, 99, 99], 1.0)
            verdict.faces.append(face)
            emit(np.full((2, 2, 3), value, np.uint8))
        if not videos[name]:
            verdict.end("no face", "nobody")
        return verdict

    return find_faces


def run(monkeypatch, videos, networks=None, wait=None, strategy="mean", **options):
    monkeypatch.setattr(batches, "find_faces", reading(videos, wait))
    results = Results({name: Path(name) for name in videos})
    networks = networks or Networks()
    return predict(networks, None, results, Options(strategy=strategy), **options), networks


@pytest.mark.parametrize("readers", [1, 3])
def test_every_face_gets_its_own_score_and_batches_are_full_whichever_videos_they_are_of(monkeypatch, readers):
    rng = np.random.default_rng(readers)
    videos = {f"v{index}": rng.integers(0, 200, rng.integers(0, 40)).tolist() for index in range(30)}
    told = []
    found, networks = run(monkeypatch, videos, readers=readers, tell=told.append)
    assert [verdict.filename for verdict in found] == list(videos)
    for verdict in found:
        values = videos[verdict.filename]
        assert [face.scores for face in verdict.faces] == [
            pytest.approx([value / 200, value / 250]) for value in values
        ]
        assert verdict.status == ("ok" if values else "no face")
        if values:
            assert [model.score for model in verdict.models] == pytest.approx(
                [np.mean(values) / 200, np.mean(values) / 250]
            )
            assert [model.name for model in verdict.models] == ["one", "two"]
    assert sorted(verdict.filename for verdict in told) == sorted(videos)
    assert all(any(verdict is other for other in found) for verdict in told)
    assert sorted(chain(*networks.batches)) == sorted(chain(*videos.values()))
    assert max(map(len, networks.batches)) == 8
    assert np.mean([len(batch) == 8 for batch in networks.batches]) > 0.5


def test_a_video_that_fails_is_found_by_trying_each_by_itself(monkeypatch):
    videos = {f"v{index}": [10 * index] * 5 for index in range(4)}
    found, networks = run(monkeypatch, videos, Networks(fail=20))
    assert [verdict.status for verdict in found] == ["ok", "ok", "error", "ok"]
    assert found[2].reason == "while scoring: ArithmeticError: this crop"
    assert found[2].faces == []
    assert found[3].score == pytest.approx((30 / 200 + 30 / 250) / 2)
    assert any(set(batch) == {20} for batch in networks.batches)


def test_a_video_alone_that_fails_is_not_tried_twice(monkeypatch):
    found, networks = run(monkeypatch, {"v": [20] * 3}, Networks(batch_size=8, fail=20))
    assert found[0].status == "error"
    assert list(chain(*networks.batches)).count(20) == 3


def test_a_score_that_is_no_probability_is_said_to_be_so(monkeypatch):
    found, _ = run(monkeypatch, {"v": [250]})
    assert (found[0].status, found[0].faces) == ("error", [])
    assert found[0].reason.startswith("while combining the scores: ValueError: face scores must be probabilities")


def test_scores_keep_their_digits_near_0(monkeypatch):
    class Sure(Networks):
        def score(self, crops):
            return np.full((2, len(crops)), 1.23456789e-12)

    found, _ = run(monkeypatch, {"v": [1]}, Sure())
    assert found[0].faces[0].scores == [1.234568e-12] * 2


@pytest.mark.parametrize("where", [0, 5])
def test_an_error_of_the_program_ends_the_run_instead_of_waiting_for_ever(monkeypatch, where):
    videos = {f"v{index}": [1] * 3 for index in range(9)}
    videos[f"v{where}"] = SystemError("a bug")
    with pytest.raises(SystemError, match="a bug"):
        run(monkeypatch, videos, readers=2)


def test_readers_wait_while_faces_are_not_taken_and_no_more_videos_are_open_than_need_be(monkeypatch):
    """Memory does not grow with the number of videos: two batches of faces wait, and one video more than readers."""
    begun, most = [], []
    lock = threading.Lock()

    class Slow(Networks):
        def score(self, crops):
            time.sleep(0.02)
            with lock:
                most.append(len(begun))
            return super().score(crops)

    videos = {f"v{index:02}": [1] * 8 for index in range(20)}
    networks = Slow(batch_size=4, threads=1)
    run(monkeypatch, videos, networks, wait=begun.append, readers=1)
    scored = np.cumsum([len(batch) for batch in networks.batches])
    # What was handed out and not scored: what waits (8), a batch on its way (4), and the face that a reader holds.
    for videos_begun, faces_scored in zip(most, scored - 4, strict=False):
        assert 8 * (videos_begun - 1) <= faces_scored + 8 + 4 + 1 + 4


def test_a_video_is_looked_at_before_it_is_read_by_a_reader_with_one_thread(monkeypatch):
    heard = []

    class Hears(Results):
        def begin(self, name):
            heard.append(("begin", name))

    monkeypatch.setattr(
        batches, "find_faces", reading({"v": [1]}, lambda name: heard.append((torch.get_num_threads(), name)))
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    predict(Networks(), None, Hears({"v": Path("v")}), Options())
    torch.set_num_threads(before)
    assert heard == [("begin", "v"), (1, "v")]


def test_what_is_done_is_not_read_again(monkeypatch):
    monkeypatch.setattr(batches, "find_faces", reading({"new": [100]}))
    results = Results({"old": Path("old"), "new": Path("new")})
    results.done["old"] = Verdict("old", "ok", score=0.5)
    found = predict(Networks(), None, results, Options(strategy="mean"))
    assert [verdict.filename for verdict in found] == ["old", "new"]
    assert found[0].score == 0.5
    assert found[1].score == pytest.approx(0.45)
    assert predict(Networks(), None, Results({}), Options()) == []


def test_no_thread_stays_behind(monkeypatch):
    before = threading.active_count()
    run(monkeypatch, {f"v{index}": [1, 2] for index in range(5)}, readers=3)
    with pytest.raises(SystemError):
        run(monkeypatch, {"v": SystemError("a bug"), "w": [1] * 500}, readers=2)
    assert threading.active_count() == before


@pytest.mark.parametrize(("cores", "cpu", "gpu"), [(1, 1, 1), (2, 1, 2), (5, 2, 5), (64, 32, 8)])
def test_how_many_readers(monkeypatch, cores, cpu, gpu):
    monkeypatch.setattr(batches, "available_cores", lambda: cores)
    assert (reader_count("cpu"), reader_count("cuda:1")) == (cpu, gpu)


def test_a_given_decoder_stays_open_except_after_an_error(monkeypatch):
    decoder = Decoder()
    run(monkeypatch, {"a": [1]}, decoder=decoder)
    decoder.send({"path": "/absent", "wanted": 1})  # starts a child
    decoder.close()
    with pytest.raises(ZeroDivisionError):
        run(monkeypatch, {"a": ZeroDivisionError()}, decoder=decoder)
    with pytest.raises(DecodingError, match="stopped"):
        decoder.send({"path": "/absent", "wanted": 1})
