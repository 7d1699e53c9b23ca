"""Networks (networks/model.py)."""

import copy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from scipy.signal import correlate2d
from timm.layers import convert_sync_batchnorm

from dfdc.command_line import SettingError
from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD
from networks import model

TINY, CONVNEXT = "test_efficientnet", "test_convnext"


def tiny(**options):
    torch.manual_seed(0)
    return model.build_network("DeepFakeClassifier", TINY, **options)


def test_unknown_encoder_names_similar_ones():
    with pytest.raises(model.ModelError, match=r"efficientnet_b9.*similar names: .*efficientnet_b"):
        model.build_network("DeepFakeClassifier", "efficientnet_b9")


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "timm/resnet18", "", "\0"])
def test_an_encoder_is_never_taken_from_elsewhere(monkeypatch, name):
    """timm would download a name with hf-hub, also without pretrained weights."""
    monkeypatch.setattr(timm, "create_model", None)
    with pytest.raises(model.ModelError, match="timm has no encoder"):
        model.build_network("DeepFakeClassifier", name)


def test_pretrained_without_network_says_what_to_do(monkeypatch):
    real = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("Name or service not known")
        return real(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(model.ModelError, match=r"can't be downloaded .*pretrained_path FILE"):
        model.load_pretrained(tiny(), TINY)


@pytest.mark.parametrize(("network", "encoder"), [("DeepFakeClassifier", TINY), ("DeepFakeClassifierGWAP", CONVNEXT)])
def test_all_pretrained_weights_reach_the_encoder(monkeypatch, network, encoder):
    torch.manual_seed(1)
    source = timm.create_model(encoder, num_classes=0)
    own = model.build_network(network, encoder)
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)) or source)
    assert encoder in model.load_pretrained(own, encoder)
    assert asked == [(encoder, {"pretrained": True, "num_classes": 0})]
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in own.encoder.state_dict().items())
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: torch.nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_pretrained(own, encoder)


def test_pretrained_from_a_file(tmp_path):
    torch.manual_seed(9)
    source = timm.create_model(TINY)  # with its ImageNet classifier, as published weights have it
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    network = tiny()
    assert "weights.pth" in model.load_pretrained_file(network, path)
    assert torch.equal(network.encoder.conv_stem.weight, source.conv_stem.weight)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(SettingError, match=r"^pretrained_path .*do not fit the encoder"):
        model.load_pretrained_file(network, path)


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_t46_a_file_of_pretrained_weights_runs_no_code(tmp_path):
    torch.save({"state_dict": Touches(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(SettingError, match=r"^pretrained_path .*evil.pth: can't be read"):
        model.load_pretrained_file(tiny(), tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_normalising_is_imagenets():
    pixel = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    expected = [(v / 255 - m) / s for v, m, s in zip((0, 128, 255), IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    found = model.Normalizer(IMAGENET_MEAN, IMAGENET_STD, "cpu")(pixel)
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert found.dtype == torch.float32
    assert found.shape == (1, 3, 1, 1)


def test_t40_a_frozen_encoders_batchnorm_is_frozen_as_well():
    network = tiny()
    model.freeze_encoder(network, True)
    model.set_training_mode(network)
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    network(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())
    assert all(p.grad is None for p in network.encoder.parameters())
    assert network.fc.weight.grad is not None
    model.freeze_encoder(network, False)
    model.set_training_mode(network)
    network(torch.randn(4, 3, 64, 64))
    assert any(not torch.equal(value, before[name]) for name, value in network.encoder.state_dict().items())


@pytest.mark.parametrize("network", sorted(model.NETWORKS))
@pytest.mark.parametrize("encoder", [TINY, CONVNEXT])
def test_every_network_trains_all_its_parameters(network, encoder):
    torch.manual_seed(0)
    built = model.build_network(network, encoder, dropout=0.1)
    logits = built(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 1)
    logits.sum().backward()
    without = [name for name, parameter in built.named_parameters() if parameter.grad is None]
    assert without == []


def test_gwap_weighs_places_between_1_and_e():
    pool = model.GlobalWeightedAvgPool2d(4)
    maps = torch.randn(2, 4, 5, 3)
    scores = torch.sigmoid(torch.einsum("c,nchw->nhw", pool.conv.weight[0, :, 0, 0], maps) + pool.conv.bias).exp()
    weights = scores / scores.sum((1, 2), keepdim=True)
    assert torch.allclose(pool(maps), (maps * weights[:, None]).sum((2, 3)), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "own"), [("DeepFakeClassifier", 0.0), ("DeepFakeClassifierGWAP", 0.5), ("DeepFakeClassifierSRM", 0.5)]
)
def test_dropout_is_the_winners_where_none_is_asked_for(name, own):
    assert model.build_network(name, TINY).dropout.p == own
    assert model.build_network(name, TINY, dropout=0.0).dropout.p == 0
    built = model.build_network(name, TINY, dropout=0.3)
    assert built.dropout.p == 0.3
    given = []
    built.fc.register_forward_pre_hook(lambda layer, inputs: given.append(inputs[0]))
    built(torch.randn(40, 3, 32, 32))
    assert (given[0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)


# The three filters as Zhou et al. 2018 print them.
SRM = [
    np.array([[0, 0, 0, 0, 0], [0, -1, 2, -1, 0], [0, 2, -4, 2, 0], [0, -1, 2, -1, 0], [0, 0, 0, 0, 0]]) / 4,
    np.array([[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]) / 12,
    np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, -2, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]) / 2,
]


def test_srm_sees_noise_and_no_flat_colour():
    torch.manual_seed(0)
    network = model.build_network("DeepFakeClassifierSRM", TINY).eval()
    ramp = torch.arange(64.0).expand(1, 3, 64, 64) * 0.01  # second differences see no slope either
    for plain in (torch.full((1, 3, 64, 64), 0.7), torch.full((1, 3, 64, 64), -2.0), ramp):
        residual = network.residual(plain)
        assert residual.shape == plain.shape
        assert residual[:, :, 2:-2, 2:-2].abs().max() < 1e-5
    noise = torch.randn(2, 3, 40, 50)
    found = network.residual(noise)
    for picture, residual in zip(noise.numpy(), found.numpy(), strict=True):
        for kernel, plane in zip(SRM, residual, strict=True):
            expected = sum(correlate2d(colour, kernel, mode="same") for colour in picture)
            assert np.abs(plane - expected).max() < 1e-5


def test_srm_is_all_that_the_encoder_gets():
    torch.manual_seed(0)
    network = model.build_network("DeepFakeClassifierSRM", TINY).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(images), network.fc(network.encoder(network.residual(images))))
    assert "srm" in network.state_dict()
    assert all(name.startswith(("encoder.", "fc.")) for name, _ in network.named_parameters())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_srms_residual_is_float32_under_autocast(kind):
    torch.manual_seed(0)
    network = model.build_network("DeepFakeClassifierSRM", TINY).eval()
    images = torch.rand(1, 3, 64, 64) * 0.05 + 2  # bright, with little noise
    seen = []
    network.encoder.conv_stem.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    with torch.autocast("cpu", kind):
        network(images)
        rounded = network.residual(images.to(kind))
    network(images)
    assert [maps.dtype for maps in seen] == [torch.float32, torch.float32]
    assert (seen[0] - seen[1]).abs().max() < 1e-6
    assert rounded.dtype == torch.float32
    assert (rounded - seen[1])[..., 2:-2, 2:-2].abs().max() > 1e-3  # a residual of rounded pictures is another


def steps(network, count=2):
    """Gradients and buffers after passes in training mode that add up, as accumulation does."""
    torch.manual_seed(5)
    network.train()
    for _ in range(count):
        network(torch.randn(4, 3, 64, 64)).square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    return gradients, {name: buffer.clone() for name, buffer in network.named_buffers()}


def pair(network="DeepFakeClassifier", encoder=TINY, **options):
    """The same network without gradient checkpointing, and with."""
    built = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        built.append(model.build_network(network, encoder, gradient_checkpointing=checkpointing, **options))
    return built


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.allclose(value.float(), other[name].float(), atol=1e-6, rtol=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(model.NETWORKS))
@pytest.mark.parametrize("encoder", [TINY, "test_resnet"])
def test_gradient_checkpointing_changes_no_gradient_and_no_statistics(network, encoder):
    plain, checkpointed = pair(network, encoder, drop_path=0.4, dropout=0.5)
    assert_same(steps(plain), steps(checkpointed))
    tracked = [buffer.item() for name, buffer in checkpointed.named_buffers() if name.endswith("num_batches_tracked")]
    assert set(tracked) == {2}
    assert plain.state_dict().keys() == checkpointed.state_dict().keys()
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(plain.eval()(images), checkpointed.eval()(images), atol=1e-6)


def test_gradient_checkpointing_computes_again_what_it_does_not_keep():
    kept = []
    for network, passes in zip(pair(), (1, 2), strict=True):
        calls, sizes = [], []
        network.encoder.blocks[1][0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            logits = network.train()(torch.randn(4, 3, 64, 64))
        logits.sum().backward()
        assert len(calls) == passes
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]


def test_gradient_checkpointing_keeps_working_after_validation_and_a_copy():
    plain, checkpointed = pair(drop_path=0.4)
    images = torch.randn(2, 3, 64, 64)
    for network in (plain, checkpointed):
        steps(network, 1)
        with torch.inference_mode():
            network.eval()(images)
        network.train()(images)  # a pass without a backward pass
    twins = [copy.deepcopy(network) for network in (plain, checkpointed)]
    assert_same(steps(plain), steps(checkpointed))
    assert torch.equal(twins[0].eval()(images), twins[1].eval()(images))
    assert_same(steps(twins[0]), steps(twins[1]))


def test_gradient_checkpointing_of_a_frozen_encoder():
    networks = pair()
    for network in networks:
        model.freeze_encoder(network, True)
        model.set_training_mode(network)
        network(torch.ones(4, 3, 64, 64)).sum().backward()
        model.freeze_encoder(network, False)
    assert torch.equal(networks[0].fc.weight.grad, networks[1].fc.weight.grad)
    assert_same(steps(networks[0])[1:], steps(networks[1])[1:])


def test_gradient_checkpointing_outlives_the_conversion_to_syncbn_and_ddp():
    plain, checkpointed = (convert_sync_batchnorm(network) for network in pair(drop_path=0.4, dropout=0.5))
    assert isinstance(checkpointed.encoder.bn1, torch.nn.SyncBatchNorm)
    assert_same(steps(plain), steps(checkpointed))  # without a process group it runs on a CPU
    plain, checkpointed = pair(drop_path=0.4, dropout=0.5)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = [torch.nn.parallel.DistributedDataParallel(network) for network in (plain, checkpointed)]
        assert_same(steps(wrapped[0]), steps(wrapped[1]))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("has_the_method", [True, False])
def test_an_encoder_without_gradient_checkpointing_says_what_to_do(monkeypatch, has_the_method):
    encoder = "dla46_c" if has_the_method else TINY
    if not has_the_method:
        monkeypatch.delattr(type(timm.create_model(TINY)), "set_grad_checkpointing")
    with pytest.raises(model.ModelError, match=f"{encoder}.*set gradient_checkpointing to false"):
        model.build_network("DeepFakeClassifier", encoder, gradient_checkpointing=True)
