"""Heat maps: Grad-CAM over an encoder's last spatial feature map, with the library grad-cam.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (ICCV):
the weight of channel k is the mean of d logit / d A_k over all positions, and the map is ReLU(sum_k weight_k A_k).

The feature map is the result of timm's forward_features, which every encoder has, so no layer name is needed. The
gradient stops there: a heat map costs a forward pass, and no memory for a backward pass through the encoder.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from pytorch_grad_cam import GradCAM

from dfdc.imaging import center_pad, isotropic_resize, tighten
from networks.ensemble import Ensemble
from networks.torch_model import TorchModel


def make_heatmap(model: torch.nn.Module, images: torch.Tensor) -> np.ndarray | None:
    """The regions of an image that raised its score.

    Args:
        model: a network of networks/model.py on the device of `images`; below fp32, under autocast.
        images: normalised float32 [1, 3, size, size].

    Returns:
        float32 [size, size] in 0..1: 1 at the strongest position, all 0 if no position raised the score. None if the
        encoder has no spatial feature map (for example a plain vector).
    """
    encoder = model.encoder
    stage = _feature_stage(encoder)
    # Into the instance's __dict__, which precedes the class's method; a submodule would not.
    vars(encoder)["forward_features"] = stage
    try:
        with GradCAM(model, [stage], reshape_transform=lambda maps: _channels_first(maps, encoder)) as cam:
            result = cam(images, targets=[lambda logits: logits[0]])[0]
    except _NoMap:
        return None
    finally:
        del vars(encoder)["forward_features"]
        model.zero_grad(set_to_none=True)
    return np.clip(np.nan_to_num(result), 0, 1).astype(np.float32)


class _NoMap(ValueError):
    """The encoder has no spatial feature map."""


def _feature_stage(encoder: Any) -> torch.nn.Module:
    """The encoder's forward_features as a module that Grad-CAM can hook, with its output as a leaf."""
    compute = encoder.forward_features

    class Stage(torch.nn.Module):
        def forward(self, images: torch.Tensor, **options: Any) -> torch.Tensor:  # some encoders pass a mask
            with torch.no_grad():
                maps = compute(images, **options)
            _channels_first(maps, encoder)
            return maps.float().requires_grad_()

    return Stage()


def _channels_first(maps: Any, encoder: Any) -> torch.Tensor:
    """A copy as [n, c, h, w] of feature maps or their gradient, which may be [n, h, w, c] or tokens [n, t, c].

    Raises:
        _NoMap: they are not spatial.
    """
    if not isinstance(maps, torch.Tensor) or maps.ndim not in (3, 4):
        raise _NoMap
    if maps.ndim == 3:  # tokens; the first may be class tokens
        tokens = maps[:, getattr(encoder, "num_prefix_tokens", 0) :]
        side = int(tokens.shape[1] ** 0.5)
        if side < 2 or side * side != tokens.shape[1]:
            raise _NoMap
        maps = tokens.reshape(len(maps), side, side, -1)
        return maps.permute(0, 3, 1, 2).clone()
    if maps.shape[1] != encoder.num_features and maps.shape[3] == encoder.num_features:
        maps = maps.permute(0, 3, 1, 2)
    if maps.shape[1] != encoder.num_features:
        raise _NoMap
    return maps.clone()  # later layers may work in place, and Grad-CAM keeps a view


def look(ensemble: Ensemble, index: int, crop: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The input of checkpoint `index` for a crop, and its heat map.

    Args:
        ensemble: its PyTorch networks are used in their precision.
        crop: RGB uint8 [h, w, 3], cut with a third of the box as margin.

    Returns:
        the crop with the checkpoint's own margin, RGB uint8 [h', w', 3]; its heat map, float32 [h', w'] in 0..1, or
        None if the network is an ONNX file or has no spatial feature map.
    """
    spec, model = ensemble.specs[index], ensemble.models[index]
    seen = tighten(crop, spec.margin_part)
    if not isinstance(model, TorchModel):
        return seen, None
    small = isotropic_resize(seen, spec.size)
    model.network.requires_grad_(False)  # the gradient needed is that of the feature maps
    with model.autocast():
        heat = make_heatmap(model.network, model.normalized(center_pad(small, spec.size)[None]))
    if heat is None:
        return seen, None
    height, width = small.shape[:2]
    top, left = (spec.size - height) // 2, (spec.size - width) // 2  # the position chosen by center_pad
    inner = heat[top : top + height, left : left + width]
    return seen, cv2.resize(inner, (seen.shape[1], seen.shape[0]), interpolation=cv2.INTER_LINEAR)
