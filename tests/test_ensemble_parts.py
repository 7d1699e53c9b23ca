"""What an ensemble does with batches, types, threads and compiled networks (networks/ensemble.py); in seconds."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scoring_runs import make_checkpoint

from dfdc.imaging import fit
from networks import ensemble as ensemble_module
from networks import onnx_model, torch_model
from networks.ensemble import COMPILE_FROM, Ensemble, common_thresholds, worth_compiling
from networks.model import Normalizer
from networks.spec import ModelSpec


def some_crops(count=7):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (60 + index, 50, 3), dtype=np.uint8) for index in range(count)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Checkpoints `a`, `b` of one kind, `c` of another size, and `d` of another encoder; all with lively scores."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, (name, encoder, size) in enumerate(
        (
            ("a", "test_efficientnet", 64),
            ("b", "test_efficientnet", 64),
            ("c", "test_efficientnet", 96),
            ("d", "test_resnet", 64),
        )
    ):
        make_checkpoint(folder, name, encoder, size=size, seed=seed, bias=0.3 * seed - 0.4)
    return folder


@pytest.fixture
def ensemble(weights):
    made = Ensemble([weights / name for name in "abcd"], "cpu")
    yield made
    made.close()


def by_hand(ensemble, index, crop):
    """Of one crop, without batches, threads or types."""
    spec = ensemble.specs[index]
    images = torch.from_numpy(fit(crop, spec.size)[None])
    normalizer = Normalizer(spec.normalize.mean, spec.normalize.std, "cpu")
    with torch.inference_mode():
        return torch.sigmoid(ensemble.models[index].network(normalizer(images)))[0, 0].item()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_are_those_of_each_crop_by_itself_in_their_order(ensemble, batch_size):
    ensemble.batch_size = batch_size
    crops = some_crops()
    scores = ensemble.score(crops)
    assert scores.shape == (4, 7)
    assert scores.dtype == np.float32
    for index in range(4):
        expected = [by_hand(ensemble, index, crop) for crop in crops]
        assert scores[index] == pytest.approx(expected, abs=1e-6)
    assert len(np.unique(scores)) == scores.size  # or the order would not show


def test_t12_a_batch_without_memory_is_tried_in_halves(ensemble, monkeypatch):
    crops = some_crops()
    expected = ensemble.score(crops)
    ensemble.batch_size, seen = 4, []
    logits = ensemble.models[1].logits

    def small(images):
        seen.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return logits(images)

    monkeypatch.setattr(ensemble.models[1], "logits", small)
    assert ensemble.score(crops) == pytest.approx(expected, abs=1e-6)
    assert sorted(seen) == [1] * 7 + [2] * 3 + [3, 4]

    def none(images):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(ensemble.models[1], "logits", none)
    with pytest.raises(torch.OutOfMemoryError):
        ensemble.score(crops)


def test_a_cpu_takes_a_crop_at_a_time_in_as_many_threads_as_there_are_cores(weights, monkeypatch):
    for cores, threads in ((1, 1), (3, 3), (64, 8)):
        monkeypatch.setattr(ensemble_module, "available_cores", lambda cores=cores: cores)
        made = Ensemble([weights / "a"], "cpu")
        assert (made.batch_size, made.threads) == (1, threads)
        used = []
        monkeypatch.setattr(torch, "set_num_threads", used.append)
        made.score(some_crops(2))
        assert set(used) == {max(1, cores // threads)}
        made.close()


@pytest.mark.slow
def test_compiled_networks_share_a_program_by_kind_and_keep_their_weights(ensemble, monkeypatch):
    crops = some_crops()
    expected = ensemble.score(crops)
    # In place of the compiler, PyTorch puts the weights into the shared network itself: one thread at a time.
    monkeypatch.setattr(ensemble, "_pool", ThreadPoolExecutor(1))
    compiled, shapes = [], []

    def compile_(call):
        compiled.append(call)

        def program(weights, images):
            shapes.append((images.shape[0], images.is_contiguous(memory_format=torch.channels_last)))
            return call(weights, images)

        return program

    monkeypatch.setattr(torch, "compile", compile_)
    ensemble.batch_size, ensemble.compiled = 3, True
    assert ensemble.score(crops) == pytest.approx(expected, abs=1e-6)
    assert ensemble.score(crops[:2]) == pytest.approx(expected[:, :2], abs=1e-6)
    assert len(compiled) == 3  # a and b share one
    assert set(shapes) == {(3, True)}  # never another, which would be compiled anew


def test_compiling_is_measured_by_two_batches_for_each_thread(ensemble, monkeypatch):
    counts = []
    monkeypatch.setattr(ensemble, "score", lambda crops: counts.append((len(crops), crops[0].shape)))
    ensemble.batch_size, ensemble.threads = 3, 2
    ensemble.compile(only_if_faster=True)
    assert counts == [(12, (64, 64, 3))] * 4


def test_compiling_that_was_asked_for_is_not_measured_and_its_failure_is_an_error(ensemble, monkeypatch):
    counts = []
    monkeypatch.setattr(ensemble, "score", lambda crops: counts.append(len(crops)))
    assert ensemble.compile(only_if_faster=False) == "compiled"
    assert ensemble.compiled
    assert len(counts) == 2

    def fail(crops):
        raise OSError("no compiler\nmany lines")

    monkeypatch.setattr(ensemble, "score", fail)
    with pytest.raises(RuntimeError, match=r"can't be compiled \(OSError: no compiler\)$"):
        ensemble.compile(only_if_faster=False)
    assert ensemble.compile(only_if_faster=True).endswith("(OSError: no compiler); continuing without")
    assert not ensemble.compiled


@pytest.mark.parametrize(
    ("device", "precision", "batch", "threads", "keeps"),
    [
        ("cpu", "fp32", 1, 2, True),
        ("cuda:1", "fp32", ensemble_module._GPU_BATCH, 1, False),
        ("cuda:1", "fp16", ensemble_module._GPU_BATCH, 1, False),
    ],
)
def test_a_gpu_takes_large_batches_in_one_thread(monkeypatch, device, precision, batch, threads, keeps):
    kept, limited = [], []
    stub = SimpleNamespace(spec=ModelSpec("DeepFakeClassifier", "test_resnet", 64), holdout=None)
    monkeypatch.setattr(onnx_model, "OnnxModel", lambda path, where, cores: stub)
    monkeypatch.setattr(ensemble_module, "keep_freed_memory", lambda: kept.append(1))
    monkeypatch.setattr(ensemble_module, "available_cores", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", limited.append)
    made = Ensemble([ensemble_module.Path("x.onnx")], device, precision)
    assert (made.batch_size, made.threads, bool(kept)) == (batch, threads, keeps)
    made._pool.submit(int).result()
    assert bool(limited) == keeps
    made.close()


class Noting:
    """In place of a checkpoint on a GPU: notes its batches, and the threads that run them."""

    spec, holdout = ModelSpec("DeepFakeClassifier", "test_resnet", 64), None

    def __init__(self, path, device, precision, programs, batch):
        self.batch, self.seen = batch, []

    def logits(self, images):
        self.seen.append((len(images), threading.get_ident()))
        return np.zeros(len(images), np.float32)


@pytest.mark.parametrize(("device", "warmed"), [("cuda:1", 1), ("cpu", 0)])
def test_a_gpus_networks_are_warmed_up_in_the_thread_that_will_run_them(monkeypatch, device, warmed):
    """cuDNN keeps its choice of kernels for each thread and batch size."""
    monkeypatch.setattr(torch_model, "TorchModel", Noting)
    made = Ensemble([ensemble_module.Path("x"), ensemble_module.Path("y")], device, "fp32")
    made.warm_up()
    made.score(some_crops(2))
    made.close()
    for model in made.models:
        assert model.batch == made.batch_size
        assert [size for size, _ in model.seen[:warmed]] == [1] * warmed
        assert sum(size for size, _ in model.seen[warmed:]) == 2
        if warmed:
            assert len({thread for _, thread in model.seen}) == 1


def test_closing_waits_for_no_warm_up_that_has_not_begun(monkeypatch):
    begun, closing = threading.Event(), threading.Event()

    class Slow(Noting):
        def logits(self, images):
            begun.set()
            assert closing.wait(60)
            return super().logits(images)

    monkeypatch.setattr(torch_model, "TorchModel", Slow)
    made = Ensemble([ensemble_module.Path("x"), ensemble_module.Path("y")], "cuda:1", "fp32")
    shutdown = made._pool.shutdown
    monkeypatch.setattr(made._pool, "shutdown", lambda: closing.set() or shutdown())
    made.warm_up()
    assert begun.wait(60)
    made.close()
    assert [len(model.seen) for model in made.models] == [1, 0]


def test_for_a_gpu_faces_are_resized_in_several_threads(monkeypatch):
    waiting, threads = threading.Barrier(2, timeout=60), set()

    def slow(crop, size):
        threads.add(threading.get_ident())
        waiting.wait()
        return fit(crop, size)

    monkeypatch.setattr(torch_model, "TorchModel", Noting)
    monkeypatch.setattr(ensemble_module, "available_cores", lambda: 2)
    made, crops = Ensemble([ensemble_module.Path("x")], "cuda:1", "fp32"), some_crops(4)
    expected = np.stack([fit(crop, 64) for crop in crops])
    monkeypatch.setattr(ensemble_module, "fit", slow)
    ((_, images),) = made._inputs(crops).items()
    made.close()
    assert np.array_equal(images, expected)
    assert len(threads) == 2
    assert not threads & {thread.ident for thread in threading.enumerate()}


def specs(*kinds):
    return [ModelSpec(*kind.split()[:2], int(kind.split()[2])) for kind in kinds]


@pytest.mark.parametrize(
    ("kinds", "least"),
    [
        (["N e 64"], COMPILE_FROM),
        (["N e 64"] * 5, COMPILE_FROM // 5),
        (["N e 64", "N e 96"], COMPILE_FROM),
        (["N e 64", "N f 64"], COMPILE_FROM),
        (["N e 64", "M e 64"], COMPILE_FROM),
        (["N e 64", "N e 64", "N e 64", "N f 64"], COMPILE_FROM // 2),
    ],
)
def test_compiling_pays_from_so_many_faces_of_a_kind_on(kinds, least):
    assert worth_compiling(least, specs(*kinds))
    assert not worth_compiling(least - 1, specs(*kinds))


def test_compiling_nothing_never_pays():
    assert not worth_compiling(10**9, [])


def test_thresholds_that_differ_are_all_named():
    usual, strict, odd = ((0.7, 0.8, 0.8), (0.8, 0.9, 0.95), (0.1, 0.2, 0.3))
    made = [SimpleNamespace(detector_thresholds=limits) for limits in (usual, strict, odd, usual)]
    with pytest.raises(ValueError, match="score with them separately") as error:
        common_thresholds(made, "abcd")
    for said in ("d: (0.7, 0.8, 0.8)", "b: (0.8, 0.9, 0.95)", "c: (0.1, 0.2, 0.3)"):
        assert said in str(error.value)
    assert common_thresholds([made[0], made[3]], "ad") == usual


def test_closing_ends_the_threads(weights):
    before = set(threading.enumerate())
    made = Ensemble([weights / "a"], "cpu")
    made.score(some_crops(3))
    assert set(threading.enumerate()) - before
    made.close()
    assert not set(threading.enumerate()) - before


def test_checkpoints_of_one_name_have_names_of_their_own(weights, tmp_path):
    (tmp_path / "b").symlink_to(weights / "b")
    made = Ensemble([weights / "a", weights / "b", tmp_path / "b"], "cpu")
    assert made.names == ["a", f"{weights.name}/b", f"{tmp_path.name}/b"]
    assert [model.spec.encoder for model in made.compilable] == ["test_efficientnet"] * 3
    made.close()


@pytest.mark.parametrize(("cores", "share"), [(1, 1), (3, 1), (16, 2), (64, 8)])
def test_onnx_files_get_their_share_of_the_cores_and_are_never_compiled(monkeypatch, cores, share):
    given = []

    class Stub:
        spec, holdout = ModelSpec("DeepFakeClassifier", "test_resnet", 64), None

        def __init__(self, path, device, threads):
            given.append((path.name, device, threads))

        def logits(self, images):
            return np.zeros(len(images), np.float32)

    def never(call):
        raise AssertionError("compiled")

    monkeypatch.setattr(onnx_model, "OnnxModel", Stub)
    monkeypatch.setattr(ensemble_module, "available_cores", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(torch, "compile", never)
    made = Ensemble([ensemble_module.Path("x.onnx")], "cpu", "bf16")
    made.compiled = True
    assert made.score(some_crops(2)).tolist() == [[0.5, 0.5]]
    assert given == [("x.onnx", "cpu", share)]
    assert made.compilable == []
    made.close()
