"""What tests of scoring share: checkpoints, a detector that finds what it is told, and runs of the command."""

import contextlib
import csv
import json

import numpy as np
import torch
from helpers import no_faces

import predict_folder
from dfdc.faces import Faces
from dfdc.imaging import IMAGENET_MEAN, IMAGENET_STD
from networks.checkpoint import save_checkpoint
from networks.ensemble import Ensemble
from networks.model import build_network
from networks.spec import ModelSpec
from networks.torch_model import TorchModel
from prediction import batches, reading
from prediction.decoding import Decoder
from prediction.progress import Progress


def make_checkpoint(folder, name, encoder="test_efficientnet", size=64, seed=0, bias=0.0):
    torch.manual_seed(seed)
    network = build_network("DeepFakeClassifier", encoder)
    torch.nn.init.constant_(network.fc.bias, bias)
    spec = ModelSpec("DeepFakeClassifier", encoder, size)
    save_checkpoint(folder / name, network, spec, epoch=0, bce_best=0.5, metrics={})
    return network.eval()


def run(weights, videos, output, *more, models=("a", "b")):
    arguments = [
        "--weights-dir",
        weights,
        "--models",
        *models,
        "--test-dir",
        videos,
        "--output",
        output,
        "--device",
        "cpu",
    ]
    pages = [] if "--report" in more else ["--no-report"]
    return predict_folder.main([str(value) for value in (*arguments, *pages, *more)])


def details(output):
    return json.loads(output.with_suffix(".json").read_text())


def csv_rows(output):
    """The rows of a submission.csv."""
    with output.open(newline="") as handle:
        return list(csv.DictReader(handle))


def labels(output):
    """Label by file name, as text, of a submission.csv."""
    return {row["filename"]: row["label"] for row in csv_rows(output)}


class Shows(torch.nn.Module):
    """The mean of one colour over a part of the inner 3/5 of its input, as a probability."""

    def __init__(self, colour, rows, columns):
        super().__init__()
        self.colour, self.rows, self.columns = colour, rows, columns

    def forward(self, images):
        size = images.shape[-1]
        first, last = 0.25 * size, 0.75 * size  # well within the face
        middle = (first + last) / 2
        parts = {"first": (first, 0.9 * middle), "last": (1.1 * middle, last), "all": (first, last)}
        (y1, y2), (x1, x2) = ([int(edge) for edge in parts[name]] for name in (self.rows, self.columns))
        values = images[:, self.colour, y1:y2, x1:x2].float().mean((1, 2))
        values = values * IMAGENET_STD[self.colour] + IMAGENET_MEAN[self.colour]
        return torch.logit(values.clamp(1e-4, 1 - 1e-4))[:, None]


NETWORKS = {"red": Shows(0, "all", "first"), "green": Shows(1, "all", "last"), "blue": Shows(2, "last", "all")}
SIZES = {"red": 64, "green": 96, "blue": 80}


def replace_networks(monkeypatch):
    """Have PyTorch run those of NETWORKS that the checkpoints of an ensemble are named after."""
    load = Ensemble.__init__

    def replaced(self, paths, *rest):
        load(self, paths, *rest)
        for path, model in zip(paths, self.models, strict=True):
            assert isinstance(model, TorchModel)
            model.network = NETWORKS[path.name]

    monkeypatch.setattr(Ensemble, "__init__", replaced)


class FakeDetector:
    """Finds the given boxes in every frame."""

    def __init__(self, boxes, fail=None):
        self.boxes, self.fail = np.asarray(boxes, np.float32).reshape(-1, 4), fail

    def batch_size(self, width, height, scale):
        return 4

    def detect(self, pictures, scale):
        if self.fail:
            raise self.fail
        count = len(self.boxes)
        found = (
            Faces(self.boxes, np.ones(count, np.float32), np.zeros((count, 5, 2), np.float32)) if count else no_faces()
        )
        return [found] * len(pictures)


def predict_with(detector, paths, weights, tmp_path, **options):
    videos = {path.name: path for path in paths}
    progress = Progress(tmp_path / "out.progress", {}, videos)
    return batches.predict(Ensemble([weights / "a"], "cpu"), detector, progress, batches.Options(1.0), **options)


def find_faces(path, detector, emit=lambda crop: None):
    with contextlib.closing(Decoder()) as decoder:
        return reading.find_faces(path, path.name, decoder, detector, 1.0, emit)
