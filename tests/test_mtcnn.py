"""The cascade is the library's (dfdc/mtcnn.py), with each of its runners."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import skimage.data
import torch
from facenet_pytorch import MTCNN
from helpers import REAL_VIDEOS, on_either_kind

from dfdc import bicubic, detector_settings, mtcnn
from dfdc.layout import list_videos
from dfdc.mtcnn import Cascade, choose_runner
from dfdc.mtcnn_openvino import OpenVinoRunner
from dfdc.mtcnn_torch import TorchRunner
from dfdc.video import VideoReader

ALL_THRESHOLDS = [
    detector_settings.DETECT_THRESHOLDS,
    detector_settings.LANDMARK_THRESHOLDS,
    detector_settings.PREDICT_THRESHOLDS,
]


RUNNERS = {"openvino": OpenVinoRunner, "torch": lambda: TorchRunner("cpu")}


@pytest.fixture(scope="module", params=RUNNERS)
def runner(request):
    return RUNNERS[request.param]()


@pytest.fixture(scope="module", params=ALL_THRESHOLDS, ids=["detect", "landmarks", "predict"])
def both(request, runner):
    """The library's detector and ours."""
    return MTCNN(keep_all=True, thresholds=list(request.param), device="cpu"), Cascade(request.param, runner)


@pytest.fixture(scope="module")
def portrait():
    return np.ascontiguousarray(skimage.data.astronaut())


def assert_same_faces(library, found, picture):
    boxes, scores, points = library.detect(picture, landmarks=True)
    assert len(found[0]) == (0 if boxes is None else len(boxes))
    if len(found[0]):
        assert np.abs(found[0] - boxes.astype(float)).max() < 0.01
        assert np.abs(found[1] - scores.astype(float)).max() < 1e-5
        assert np.abs(found[2] - points.astype(float)).max() < 0.01


def half_size_frames(path, count):
    with VideoReader(path) as reader:
        wanted = np.linspace(0, reader.frame_count - 1, count + 2)[1:-1].astype(int).tolist()
        return [bicubic.resize(frame, 0.5) for _, frame in reader.frames(wanted)]


@pytest.mark.slow
@on_either_kind
def test_faces_of_videos_are_the_librarys(kind, both, face_clips):
    """Each real video with one of the thresholds, as the library takes its time."""
    library, cascade = both
    first = ALL_THRESHOLDS.index(tuple(library.thresholds))
    paths = list_videos(REAL_VIDEOS, recursive=True)[first::3] if kind == "real" else list_videos(face_clips)
    count, least = (1, 5) if kind == "real" else (4, 12)
    total = 0
    for path in paths:
        frames = half_size_frames(path, count)
        for frame, found in zip(frames, cascade.detect(frames), strict=True):
            assert_same_faces(library, found, frame)
            total += len(found[0])
    assert total >= least


@pytest.mark.slow
@pytest.mark.parametrize("size", [(512, 512), (301, 207), (700, 900), (20, 20), (21, 400), (95, 64)])
def test_faces_are_the_librarys_at_any_size(both, portrait, size):
    library, cascade = both
    picture = cv2.resize(portrait, size, interpolation=cv2.INTER_AREA)
    assert_same_faces(library, cascade.detect([picture])[0], picture)


@pytest.mark.slow
def test_pictures_of_different_sizes_share_a_batch(portrait, runner):
    cascade = Cascade(detector_settings.LANDMARK_THRESHOLDS, runner)
    crops = [portrait[20 : 220 + step, 130 : 320 - step] for step in range(0, 40, 4)]
    pictures = [*crops, np.zeros((15, 90, 3), np.uint8), portrait, np.zeros((300, 300, 3), np.uint8), crops[0]]
    together = cascade.detect(pictures)
    assert [len(found[0]) for found in together] == [1] * len(crops) + [0, 1, 0, 1]
    for picture, found in zip(pictures, together, strict=True):
        for one, other in zip(cascade.detect([picture])[0], found, strict=True):
            assert one == pytest.approx(other, abs=1e-3)


def test_nothing_but_noise_or_black(runner):
    cascade = Cascade(detector_settings.PREDICT_THRESHOLDS, runner)
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    for boxes, scores, points in cascade.detect([noise, np.zeros_like(noise)]):
        assert boxes.shape[1:] == (4,)
        assert points.shape == (len(scores), 5, 2)


@pytest.mark.slow
def test_other_parts_give_the_same(portrait, runner, monkeypatch):
    cascade = Cascade(detector_settings.DETECT_THRESHOLDS, runner)
    expected = cascade.detect([portrait])[0]
    monkeypatch.setattr(mtcnn, "_TILE_PIXELS", 5000)
    monkeypatch.setattr(mtcnn, "_BOXES_AT_ONCE", 3)
    small = cascade.detect([portrait])[0]
    monkeypatch.setattr(runner, "cached", False)
    whole = cascade.detect([portrait])[0]
    for values in zip(expected, small, whole, strict=True):
        assert values[0] == pytest.approx(values[1], abs=1e-3)
        assert values[0] == pytest.approx(values[2], abs=1e-3)


@pytest.mark.parametrize(
    ("device", "openvino", "kind"),
    [("cpu", True, OpenVinoRunner), ("cpu", False, TorchRunner), ("cuda:1", True, TorchRunner)],
)
def test_the_runner_is_openvino_on_the_cpu_if_it_is_installed(monkeypatch, device, openvino, kind):
    monkeypatch.setattr("dfdc.mtcnn_torch._Network", lambda name, device: None)
    monkeypatch.setattr(mtcnn.importlib.util, "find_spec", lambda name: openvino or None)
    if kind is OpenVinoRunner:
        monkeypatch.setattr("dfdc.mtcnn_openvino._model", lambda name, side: None)
        monkeypatch.setattr("openvino.Core", _NoCore)
    assert isinstance(choose_runner(device), kind)
    assert mtcnn.module_on_cpu() == (OpenVinoRunner if openvino else TorchRunner).__module__


class _NoCore:
    def compile_model(self, *_):
        return self

    def create_infer_request(self):
        return None


def test_detecting_on_the_cpu_loads_no_pytorch():
    code = (
        "import sys, numpy; from dfdc.faces import FaceDetector; "
        "FaceDetector((0.8, 0.8, 0.8)).detect([numpy.zeros((90, 120, 3), numpy.uint8)], 0.5); "
        "print('torch' in sys.modules, 'facenet_pytorch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (7, [4, 2, 1]), (21, [8, 8, 4, 1]), (8, [8])])
def test_parts_are_powers_of_two(count, sizes):
    parts = list(mtcnn._parts(count, 8, even=False))
    assert [part.stop - part.start for part in parts] == sizes
    assert [index for part in parts for index in range(count)[part]] == list(range(count))
    assert [len(range(count)[part]) for part in mtcnn._parts(count, 8, even=True)] == [8] * (count // 8) + (
        [count % 8] if count % 8 else []
    )


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [(325, 577), (1200, 40), (90, 1100), (13, 13)])
def test_tiles_cover_every_place_once(count, size):
    """As many rows of the proposal network's map as the whole picture has."""

    def rows(height):
        return -((height - 2) // -2) - 4

    for whole in (True, False):
        seen = np.zeros((count, rows(size[0])), int)
        for images, tile in mtcnn._tiles(count, *size, whole=whole):
            seen[images, tile.start // 2 : tile.start // 2 + rows(tile.stop - tile.start)] += 1
        assert (seen == 1).all()


def test_area_means_are_pytorchs(portrait, runner):
    tables = mtcnn._Tables([portrait[:333, :207]], runner)
    part = np.asarray(tables.level(tables.groups[0], slice(0, 1), slice(10, 40), (97, 64)))
    floats = torch.from_numpy(portrait[:333, :207].copy()).permute(2, 0, 1)[None].float()
    expected = (torch.nn.functional.interpolate(floats, size=(97, 64), mode="area")[:, :, 10:40] - 127.5) / 128
    assert part == pytest.approx(expected.permute(0, 2, 3, 1).numpy(), abs=1e-5)
    low, high = np.array([[3, 5], [100, 7]]), np.array([[20, 33], [190, 99]])
    cut = np.asarray(tables.cut(np.zeros(2, np.int64), low, high, 24))
    for index in range(2):
        window = floats[:, :, low[index, 1] : high[index, 1], low[index, 0] : high[index, 0]]
        expected = (torch.nn.functional.interpolate(window, size=(24, 24), mode="area") - 127.5) / 128
        assert cut[index] == pytest.approx(expected[0].permute(1, 2, 0).numpy(), abs=1e-5)


@pytest.mark.parametrize(("count", "size"), [(1, 32), (32, 32), (33, 64), (200, 256), (256, 256)])
@pytest.mark.parametrize(("name", "side"), [("rnet", 24), ("onet", 48)])
def test_a_gpu_judges_batches_of_few_sizes(name, side, count, size):
    runner, sizes = TorchRunner("cpu"), []
    pictures = torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = runner.judge(name, pictures)
    network = runner._networks[name]
    runner.cached = False  # as on a GPU
    runner._networks[name] = lambda given: sizes.append(len(given)) or network(given)
    found = runner.judge(name, pictures)
    assert sizes == [size]
    assert found.shape == (count, {"rnet": 6, "onet": 16}[name])
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("cached", "sizes"), [(True, [64, 64, 64, 64, 32, 8, 4]), (False, [256, 44])])
def test_a_gpu_takes_more_boxes_at_once(portrait, runner, monkeypatch, cached, sizes):
    taken = []
    monkeypatch.setattr(runner, "cached", cached)
    monkeypatch.setattr(
        runner, "judge", lambda name, cut: taken.append(len(cut)) or np.zeros((len(cut), 6), np.float32)
    )
    cascade, tables = Cascade((0.6, 0.7, 0.7), runner), mtcnn._Tables([portrait], runner)
    with runner.context():
        cascade._look("rnet", 0.9, tables, np.tile([[10.0, 10, 40, 40]], (300, 1)), np.zeros(300, np.int64), 24)
    assert taken == sizes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_gpu_finds_what_the_cpu_does(portrait):
    pictures = [portrait, portrait[:300, :400], portrait[20:220, 130:320]]
    for on_cpu, on_gpu in zip(
        Cascade(detector_settings.DETECT_THRESHOLDS, OpenVinoRunner()).detect(pictures),
        Cascade(detector_settings.DETECT_THRESHOLDS, TorchRunner("cuda")).detect(pictures),
        strict=True,
    ):
        for one, other in zip(on_cpu, on_gpu, strict=True):
            assert one == pytest.approx(other, abs=0.05)
