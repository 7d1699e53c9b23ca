"""The winners' scores: predict_folder.py --detector-scale 0.5 against a plain transcription of their recipe."""

import json

import cv2
import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from helpers import REAL_VIDEOS, on_either_kind
from PIL import Image

import predict_folder
from networks.checkpoint import load_model
from prediction import reading

pytestmark = pytest.mark.slow

FRAMES = 16  # of a video; the winners' 32 take twice as long and go the same way
# Engine and precision, and by how much a score may differ. None is the default: fp32 on a CPU.
WAYS = {
    ("torch", None): 0.001,
    ("openvino", None): 0.001,
    ("onnx", None): 0.001,
    ("torch", "bf16"): 0.02,
    ("openvino", "bf16"): 0.02,
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A B7 file of the winners' form with seeded weights whose scores differ from face to face."""
    import timm

    torch.manual_seed(5)
    encoder = timm.create_model("tf_efficientnet_b7", pretrained=False, num_classes=0)
    weights = {f"module.encoder.{name}": value for name, value in encoder.state_dict().items()}
    # An untrained network says nearly the same of all faces: a last layer that looks at their differences.
    direction = torch.randn(1, 2560)
    weights["module.fc.weight"] = 400 * (direction - direction.mean())
    weights["module.fc.bias"] = torch.zeros(1)
    folder = tmp_path_factory.mktemp("published")
    torch.save({"epoch": 19, "state_dict": weights, "bce_best": 0.1}, folder / "b7")
    return folder


def transcription(path, network):
    """Frames, faces, crops and the rule as the published solution has them, one face at a time in fp32."""
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = set(np.linspace(0, count - 1, FRAMES).astype(int).tolist())
    detector = MTCNN(margin=0, thresholds=[0.7, 0.8, 0.8], device="cpu")
    scores = []
    for number in range(count):
        frame = capture.read()[1]
        if number not in wanted:
            continue
        picture = Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        half = picture.resize([side // 2 for side in picture.size])
        detector.keep_all = True
        boxes = detector.detect(half, landmarks=False)[0]
        for box in [] if boxes is None else boxes:
            x1, y1, x2, y2 = (int(corner * 2) for corner in box)
            margin_x, margin_y = (x2 - x1) // 3, (y2 - y1) // 3
            face = np.asarray(picture)[max(y1 - margin_y, 0) : y2 + margin_y, max(x1 - margin_x, 0) : x2 + margin_x]
            height, width = face.shape[:2]
            longest = max(height, width)
            how = cv2.INTER_CUBIC if longest < 380 else cv2.INTER_AREA
            face = cv2.resize(face, (int(width * 380 / longest), int(height * 380 / longest)), interpolation=how)
            square = np.zeros((380, 380, 3), np.uint8)
            top, left = (380 - face.shape[0]) // 2, (380 - face.shape[1]) // 2
            square[top : top + face.shape[0], left : left + face.shape[1]] = face
            values = torch.from_numpy(square).permute(2, 0, 1).float().div(255)
            mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
            with torch.inference_mode():
                logit = network(((values - mean.view(3, 1, 1)) / std.view(3, 1, 1))[None])
            scores.append(torch.sigmoid(logit).item())
    scores = np.array(scores)
    fakes = int((scores > 0.8).sum())
    if fakes > len(scores) // 2.5 and fakes > 11:
        return scores, scores[scores > 0.8].mean()
    if (scores < 0.2).sum() > 0.9 * len(scores):
        return scores, scores[scores < 0.2].mean()
    return scores, scores.mean()


@on_either_kind
def test_t60_scores_are_the_winners_within_the_agreed_bounds(kind, published, face_clips, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "FRAMES_PER_VIDEO", FRAMES)
    real = [REAL_VIDEOS / "faces" / name for name in ("d3.mp4",)]
    videos, folder = (real, published) if kind == "real" else ([face_clips / "square.mp4"], tmp_path)
    if kind == "generated":  # all scores of the made-up face are near 0, where a difference hardly shows
        content = torch.load(published / "b7", weights_only=True)
        content["state_dict"]["module.fc.bias"] += 2.5
        torch.save(content, folder / "b7")
    network, checkpoint = load_model(folder / "b7")
    assert checkpoint.spec.encoder.startswith("tf_efficientnet_b7")
    found = {}
    for engine, precision in WAYS:
        output = tmp_path / f"{engine} {precision}.csv"
        arguments = [
            "--weights-dir",
            folder,
            "--models",
            "b7",
            "--output",
            output,
            "--device",
            "cpu",
            "--no-report",
            "--compile",
            "off",
            "--detector-scale",
            0.5,
            "--engine",
            engine,
            *(["--precision", precision] if precision else []),
            "--test-dir",
            *videos,
        ]
        assert predict_folder.main([str(value) for value in arguments]) == 0
        content = json.loads(output.with_suffix(".json").read_text())
        assert (content["settings"]["engine"], content["settings"]["precision"]) == (engine, precision or "fp32")
        found[engine, precision] = {row["filename"]: row for row in content["videos"]}
    spread = []
    for path in videos:
        name = path.name
        scores, expected = transcription(path, network)
        spread.append(np.ptp(scores))
        for way, most in WAYS.items():
            assert len(found[way][name]["faces"]) == len(scores) >= FRAMES - 1
            assert abs(found[way][name]["score"] - expected) < most, way
    assert max(spread) > 0.05  # else anything would agree
