"""A checkpoint that PyTorch runs: precision, layout of its weights, compiled programs (networks/torch_model.py)."""

import numpy as np
import pytest
import torch
from scoring_runs import make_checkpoint

from networks import torch_model
from networks.model import Normalizer, build_network
from networks.torch_model import Programs, TorchModel, _settle


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    make_checkpoint(folder, "a", bias=-0.4)
    return folder / "a"


def some_images(count):
    return np.random.default_rng(count).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 3])
def test_logits_are_those_of_the_network(checkpoint, count):
    model, images = TorchModel(checkpoint, "cpu", "fp32"), some_images(count)
    found = model.logits(images)
    assert (found.shape, found.dtype) == ((count,), np.float32)
    normalizer = Normalizer(model.spec.normalize.mean, model.spec.normalize.std, "cpu")
    with torch.inference_mode():
        expected = make_checkpoint(checkpoint.parent, "again", bias=-0.4)(normalizer(torch.from_numpy(images)))
    assert found == pytest.approx(expected[:, 0].numpy(), abs=1e-6)
    assert (model.spec.encoder, model.spec.size, model.holdout) == ("test_efficientnet", 64, None)
    assert not model.network.training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_layers_go_to_the_precision_and_norms_stay_exact(checkpoint, precision):
    made = TorchModel(checkpoint, "cpu", precision)
    kinds = {torch.nn.Conv2d: set(), torch.nn.Linear: set(), torch.nn.BatchNorm2d: set()}
    for module in made.network.modules():
        for kind, found in kinds.items():
            if isinstance(module, kind):
                tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
                found |= {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    lower = torch.bfloat16 if precision == "bf16" else torch.float32
    assert list(kinds.values()) == [{lower}, {lower}, {torch.float32}]
    with made.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == lower
    assert made.logits(some_images(2)).dtype == np.float32


def test_settling_copies_and_puts_the_channels_last():
    network = build_network("DeepFakeClassifier", "test_efficientnet")
    before = {name: (value.data_ptr(), value.clone()) for name, value in network.state_dict().items()}
    settled = _settle(network, torch.float32, "cpu")
    assert settled is network
    for name, value in settled.state_dict().items():
        pointer, old = before[name]
        assert value.data_ptr() != pointer
        assert torch.equal(value, old)
        if value.ndim == 4:
            assert value.is_contiguous(memory_format=torch.channels_last)
    kept = torch.nn.Conv2d(1, 1, 1)
    kept.register_buffer("count", torch.tensor(3))
    assert _settle(kept, torch.bfloat16, "cpu").count.dtype == torch.int64


@pytest.mark.parametrize(
    ("device", "precision", "tf32"), [("cpu", "fp32", True), ("cuda:1", "fp32", False), ("cuda:1", "fp16", True)]
)
def test_fp32_on_a_gpu_is_without_tf32(checkpoint, monkeypatch, device, precision, tf32):
    monkeypatch.setattr(torch_model, "_settle", lambda network, dtype, where: network)
    monkeypatch.setattr(torch_model, "Normalizer", lambda mean, std, where: where)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    TorchModel(checkpoint, device, precision)
    assert torch.backends.cudnn.allow_tf32 is tf32  # else fp32 would keep 10 bits of 23


def test_a_program_is_bound_to_its_weights_once(checkpoint, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call: compiled.append(call) or call)
    programs = Programs()
    one, other = (TorchModel(checkpoint, "cpu", "fp32", programs) for _ in range(2))
    first, second = programs.get(one), programs.get(other)
    assert programs.get(one) is first
    assert second is not first
    assert len(compiled) == 1  # of one kind


@pytest.mark.parametrize(("count", "shape"), [(1, 4), (4, 4), (5, 5)])
def test_a_batch_is_padded_to_the_shape_that_was_compiled(checkpoint, monkeypatch, count, shape):
    shapes = []

    def compile_(call):
        def program(weights, images):
            shapes.append((len(images), images.is_contiguous(memory_format=torch.channels_last)))
            return call(weights, images)

        return program

    monkeypatch.setattr(torch, "compile", compile_)
    model, images = TorchModel(checkpoint, "cpu", "fp32"), some_images(count)
    expected = model.logits(images)
    assert shapes == []
    model.compiled, model.batch = True, 4
    found = model.logits(images)
    assert shapes == [(shape, True)]
    assert found.shape == (count,)
    assert found == pytest.approx(expected, abs=1e-6)


def out_of_memory_from(model, most, error):
    """Let `model` fail with `error` for more than `most` images; returns the sizes of its batches."""
    sizes, run = [], model.network.forward

    def forward(images):
        assert images.is_contiguous(memory_format=torch.channels_last)
        sizes.append(len(images))
        if len(images) > most:
            raise error
        return run(images)

    model.network.forward = forward
    return sizes


@pytest.mark.parametrize(("batch", "count", "shape"), [(1, 1, 1), (1, 3, 3), (4, 1, 4), (4, 4, 4), (4, 5, 5)])
def test_a_gpus_batches_have_one_size(checkpoint, batch, count, shape):
    model, images = TorchModel(checkpoint, "cpu", "fp32", batch=batch), some_images(count)
    expected = TorchModel(checkpoint, "cpu", "fp32").logits(images)
    sizes = out_of_memory_from(model, 99, None)
    found = model.logits(images)
    assert sizes == [shape]
    assert found.shape == (count,)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("count", "most", "tried"), [(1, 2, [8, 4, 2]), (3, 3, [8, 4, 3]), (3, 4, [8, 4])])
def test_t12_padding_that_does_not_fit_shrinks(checkpoint, monkeypatch, count, most, tried):
    """A single face must not fail because of the black images beside it."""
    model, images = TorchModel(checkpoint, "cpu", "fp32", batch=8), some_images(count)
    expected = TorchModel(checkpoint, "cpu", "fp32").logits(images)
    sizes, emptied = out_of_memory_from(model, most, torch.OutOfMemoryError("CUDA out of memory")), []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(len(sizes)))
    assert model.logits(images) == pytest.approx(expected, abs=1e-6)
    assert model.logits(images) == pytest.approx(expected, abs=1e-6)
    assert sizes == [*tried, tried[-1]]  # the size that fits is kept
    assert emptied == list(range(1, len(tried)))  # before each further try


@pytest.mark.parametrize(
    ("count", "error", "tried"),
    [(1, torch.OutOfMemoryError("CUDA out of memory"), [4, 2, 1]), (1, RuntimeError("a broken kernel"), [4])],
)
def test_other_errors_and_images_that_do_not_fit_are_the_callers(checkpoint, count, error, tried):
    model = TorchModel(checkpoint, "cpu", "fp32", batch=4)
    sizes = out_of_memory_from(model, 0, error)
    with pytest.raises(type(error)):
        model.logits(some_images(count))
    assert sizes == tried
