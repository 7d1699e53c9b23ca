"""The networks: a timm encoder, pooled to one number, the logit of "fake"."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from dfdc.command_line import SettingError, UserError, setting


class ModelError(UserError, ValueError):
    """A network that can't be built, or weights that do not fit it; the message says what to do."""


class Normalizer:
    """Converts batches of bytes to network input, on the network's device.

    Args:
        mean, std: mean and standard deviation of red, green and blue, in 0..1.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: str) -> None:
        self._mean = torch.tensor(mean, device=device).mul_(255).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).mul_(255).view(1, 3, 1, 1)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """RGB uint8 [n, h, w, 3] -> float [n, 3, h, w], channels last."""
        # Permuting [n, h, w, 3] gives a channels-last tensor without a copy.
        return images.permute(0, 3, 1, 2).float().sub(self._mean).div(self._std)


class Classifier(nn.Module):
    """Base class of the networks: normalised float images [n, 3, size, size] -> logits [n, 1]."""

    encoder: Any  # a timm model, with attributes such as head_hidden_size

    def __init__(self, encoder: str, drop_path: float, *, pooled: bool = True) -> None:
        super().__init__()
        self.encoder = create_encoder(encoder, drop_path, pooled=pooled)


class DeepFakeClassifier(Classifier):
    """Encoder, pooling, dropout, one logit; the arguments are those of `build_network`.

    Pooling is the encoder's own in timm: average pooling for EfficientNets; other encoders add a norm after it.
    State dict keys are `encoder.*` and `fc.*`, as in the winners' published files.
    """

    def __init__(self, encoder: str, drop_path: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__(encoder, drop_path)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.encoder.head_hidden_size, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.encoder(images)))


class GlobalWeightedAvgPool2d(nn.Module):
    """Weighted average over the positions of a spatial feature map, with learned weights.

    The weight of a position is exp(sigmoid(w . features)), between 1 and e before normalisation to sum 1. Follows
    Qiu 2018, "Global Weighted Average Pooling Bridges Pixel-level Localization and Image-level Classification"
    (arXiv:1809.08264), in the winners' variant.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, 1, kernel_size=1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """[n, c, h, w] -> [n, c]."""
        weights = torch.softmax(torch.sigmoid(self.conv(maps)).flatten(2), dim=2)
        return (maps.flatten(2) * weights).sum(dim=2)


class DeepFakeClassifierGWAP(Classifier):
    """As DeepFakeClassifier, with `GlobalWeightedAvgPool2d`."""

    def __init__(self, encoder: str, drop_path: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__(encoder, drop_path, pooled=False)
        self.avg_pool = GlobalWeightedAvgPool2d(self.encoder.num_features)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(self.encoder.num_features, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.avg_pool(self.encoder.forward_features(images))))


class DeepFakeClassifierSRM(DeepFakeClassifier):
    """As DeepFakeClassifier, on image noise: three fixed high-pass filters of the steganalysis rich model.

    The filters are second differences in 3x3 and 5x5, and along a line; each uses all three channels. Source: Zhou et
    al. 2018, "Learning Rich Features for Image Manipulation Detection" (CVPR), after Fridrich and Kodovsky 2012 (IEEE
    TIFS 7(3)).
    """

    srm: torch.Tensor  # a buffer

    def __init__(self, encoder: str, drop_path: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__(encoder, drop_path, dropout)
        self.register_buffer("srm", srm_filters())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(self.residual(images))

    def residual(self, images: torch.Tensor) -> torch.Tensor:
        """Float images [n, 3, h, w] -> filter outputs, float32 [n, 3, h, w].

        Always in float32, even under autocast: differences between neighbouring pixels are small compared with the
        pixels. In bfloat16 they lose 4 to 17 % (measured on video frames at 380 x 380).
        """
        with torch.autocast(images.device.type, enabled=False):
            return nn.functional.conv2d(images.float(), self.srm, padding=2)


def srm_filters() -> torch.Tensor:
    """float [3, 3, 5, 5]: filter, channel, row, column; each filter sums to 0."""
    square3 = torch.zeros(5, 5)
    square3[1:4, 1:4] = torch.tensor([[-1.0, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4
    outer, inner = [-1.0, 2, -2, 2, -1], [2.0, -6, 8, -6, 2]
    square5 = torch.tensor([outer, inner, [-2, 8, -12, 8, -2], inner, outer]) / 12
    line = torch.zeros(5, 5)
    line[2, 1:4] = torch.tensor([1.0, -2, 1]) / 2
    return torch.stack([square3, square5, line])[:, None].repeat(1, 3, 1, 1)


NETWORKS = {kind.__name__: kind for kind in (DeepFakeClassifier, DeepFakeClassifierGWAP, DeepFakeClassifierSRM)}
# Dropout rate before the last layer, as in the winners' networks.
DROPOUT = {"DeepFakeClassifier": 0.0, "DeepFakeClassifierGWAP": 0.5, "DeepFakeClassifierSRM": 0.5}


def create_encoder(name: str, drop_path: float, *, pooled: bool = True) -> nn.Module:
    """The timm model `name` with random weights and without its classifier: images -> features [n, head_hidden_size].

    If not `pooled`, call only its forward_features: images -> [n, num_features, h, w].

    Raises:
        ModelError: timm has no such model, or the model does not support drop path.
    """
    try:
        if not timm.is_model(name):  # first, because timm downloads a name such as hf-hub:owner/name
            raise RuntimeError("unknown model")
        encoder = timm.create_model(name, pretrained=False, num_classes=0, drop_path_rate=drop_path or None)
    except RuntimeError as error:
        close = difflib.get_close_matches(name, timm.list_models() + timm.list_pretrained(), 5)
        raise ModelError(
            f"timm has no encoder {name!r} ({error}); similar names: {', '.join(close) or 'none'}"
        ) from None
    except TypeError as error:
        raise ModelError(
            f"encoder {name!r} does not support drop_path {drop_path}: {error}; set drop_path to 0"
        ) from None
    if not pooled and hasattr(encoder, "head"):
        # A norm in the head would never get a gradient, which DistributedDataParallel does not support.
        encoder.head = nn.Identity()
    return encoder


def build_network(
    network: str,
    encoder: str,
    *,
    drop_path: float = 0.0,
    dropout: float | None = None,
    gradient_checkpointing: bool = False,
) -> Classifier:
    """Build a network by its name in the configuration, with random weights and without downloads.

    Args:
        network: a key of NETWORKS.
        encoder: a timm model name.
        drop_path: stochastic depth rate, for encoders that support it.
        dropout: dropout rate before the last layer; None for the default in DROPOUT.
        gradient_checkpointing: see `checkpoint_gradients`.

    Raises:
        ModelError: timm has no such encoder, or the encoder does not support drop path or gradient checkpointing.
    """
    built = NETWORKS[network](encoder, drop_path, DROPOUT[network] if dropout is None else dropout)
    if gradient_checkpointing:
        checkpoint_gradients(built, encoder)
    return built


def checkpoint_gradients(model: Classifier, encoder: str) -> None:
    """Make the encoder recompute its feature maps in the backward pass instead of storing them: less memory, more time.

    Follows Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv:1604.06174). PyTorch restores the
    random state, so recomputation uses the same dropout. BatchNorm would update its running statistics a second time;
    it gets temporary buffers during recomputation instead.

    Raises:
        ModelError: the encoder does not support it.
    """
    try:
        model.encoder.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):  # timm raises AssertionError if it is not supported
        advice = "set gradient_checkpointing to false"
        raise ModelError(f"encoder {encoder!r} has no gradient checkpointing; {advice}") from None
    # Hooks on the whole network survive conversion of its layers to SyncBatchNorm and wrapping in DDP.
    model.register_forward_pre_hook(_before_forward)
    model.register_forward_hook(_after_forward)


def _before_forward(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    _set_recomputing(model, False)


def _after_forward(model: nn.Module, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor) -> None:
    if logits.requires_grad:  # a backward pass starts with the gradient of the logits
        logits.register_hook(lambda gradient: _set_recomputing(model, True))


def _set_recomputing(model: nn.Module, on: bool) -> None:
    """Tell BatchNorm layers whether their next pass is a recomputation."""
    if torch.compiler.is_compiling():
        return  # a compiled network updates its statistics only once
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):
            own = vars(layer)  # nn.Module types its attributes as tensors and modules; these are neither
            if "recomputing" not in own:
                layer.register_forward_pre_hook(_put_statistics_aside)
                layer.register_forward_hook(_bring_statistics_back, always_call=True)  # a recomputation may stop early
            own["recomputing"] = on


def _put_statistics_aside(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    # Not track_running_stats = False or eval: PyTorch checks that both passes save the same tensors for backward.
    if vars(layer)["recomputing"] and not torch.compiler.is_compiling():
        vars(layer)["aside"] = dict(layer.named_buffers(recurse=False))
        for name, buffer in vars(layer)["aside"].items():
            setattr(layer, name, torch.empty_like(buffer))


def _bring_statistics_back(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    if vars(layer)["recomputing"] and not torch.compiler.is_compiling():
        for name, buffer in vars(layer).pop("aside").items():
            setattr(layer, name, buffer)


def load_pretrained(model: Classifier, encoder: str) -> str:
    """Download timm's pretrained weights into the encoder; return a description of them.

    Raises:
        ModelError: there are no such weights, or the download failed.
    """
    try:
        source = timm.create_model(encoder, pretrained=True, num_classes=0)
    except Exception as error:  # the hub raises error classes of several libraries
        raise ModelError(
            f"the pretrained weights of {encoder!r} can't be downloaded ({type(error).__name__}: {error}). Without "
            f"network access, pass a file with {setting('pretrained_path')} FILE, or train from scratch with "
            '"pretrained": false'
        ) from error
    _load_encoder(model, source.state_dict())
    return f"pretrained weights of timm's {encoder}"


def load_pretrained_file(model: Classifier, path: Path) -> str:
    """Load encoder weights from a local file (timm or torchvision format, or safetensors).

    Raises:
        SettingError: the file can't be read, or does not contain all of the encoder's weights.
    """
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            weights = content.get("state_dict", content)
    except Exception as error:
        reason = f"can't be read ({type(error).__name__}: {error})"
        raise SettingError("pretrained_path", path, reason) from error
    try:
        plain = {name.removeprefix("module.").removeprefix("encoder."): value for name, value in weights.items()}
        _load_encoder(model, plain)
    except RuntimeError as error:
        raise SettingError("pretrained_path", path, f"the weights do not fit the encoder: {error}") from None
    return f"encoder weights from {path}"


def _load_encoder(model: Classifier, weights: Mapping[str, torch.Tensor]) -> None:
    """Load encoder weights; extra weights, such as ImageNet's classifier, are ignored, and none may be missing."""
    own = model.encoder.state_dict().keys()
    model.encoder.load_state_dict({name: value for name, value in weights.items() if name in own})


def freeze_encoder(model: Classifier, frozen: bool) -> None:
    """Freeze or unfreeze the encoder's parameters."""
    for parameter in model.encoder.parameters():
        parameter.requires_grad_(not frozen)


def set_training_mode(model: Classifier) -> None:
    """Set training mode, but keep a frozen encoder in evaluation mode, so that its BatchNorm statistics stay fixed."""
    model.train()
    if not any(parameter.requires_grad for parameter in model.encoder.parameters()):
        model.encoder.eval()
