"""The runner with PyTorch (dfdc/mtcnn_torch.py): its fast layout changes nothing, and it resizes like Pillow."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from dfdc.mtcnn_torch import TorchRunner


def test_other_layouts_give_the_same(monkeypatch):
    pictures = torch.rand((1, 120, 130, 3), generator=torch.Generator().manual_seed(0)) * 2 - 1
    blocked = TorchRunner("cpu")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    dense = TorchRunner("cpu")
    with blocked.context():
        assert blocked.propose(pictures, -np.inf) == pytest.approx(dense.propose(pictures, -np.inf), abs=2e-5)


@pytest.mark.parametrize("scale", [0.5, 0.33, 2.0])
def test_resizing_is_pillows(scale):
    portrait = np.ascontiguousarray(skimage.data.astronaut())
    size = int(512 * scale), int(512 * scale)
    expected = np.asarray(Image.fromarray(portrait).resize(size, Image.Resampling.BICUBIC)).astype(int)
    apart = np.abs(TorchRunner("cpu").resize(portrait, scale).astype(int) - expected)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 5e-3


def test_a_gpu_computes_in_full_float32(monkeypatch):
    """Not in TF32, cuDNN's default, which moves corners by pixels."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with TorchRunner("cpu").context():
        assert torch.backends.cudnn.enabled
        assert not torch.backends.cudnn.allow_tf32
        assert torch.is_inference_mode_enabled()
    assert torch.backends.cudnn.allow_tf32
