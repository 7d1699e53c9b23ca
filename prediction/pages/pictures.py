"""The images of a video's page: faces of its persons, and its most suspicious faces with their heat maps.

Only the few frames that are shown are decoded again, so memory does not grow with a video's length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dfdc import identity
from dfdc.imaging import crop_face, encode_jpeg, isotropic_resize
from dfdc.video import VideoError
from networks.ensemble import Ensemble
from prediction.decoding import Decoder, DecoderMemoryError, DecodingError
from prediction.pages import views
from prediction.pages.heatmap import look
from prediction.pages.views import FaceCard, Pictures
from prediction.verdict import Face, Verdict

SHOWN_FACES = 4
FACE_SIDE, THUMBNAIL_SIDE = 400, 200  # pixels, the longer side


def find_fault(verdict: Verdict, recorded: Any) -> str:
    """Why the video can't be read again; empty if it can, or if its page needs no image.

    Args:
        recorded: the file's fingerprint when the video was scored.
    """
    if not verdict.faces:
        return ""
    path = Path(verdict.path)
    try:
        if not path.is_file():
            return "the file is missing"
        return "" if identity.same_file(recorded, path) else "the file has changed since it was scored"
    except OSError as error:
        return f"the file can’t be read again ({error.strerror or 'corrupt'})"


def read_pictures(verdict: Verdict, load: Callable[[], Ensemble], decoder: Decoder) -> Pictures:
    """The images of a video's page, from a file that `find_fault` accepts; `load` returns the checkpoints."""
    if not verdict.faces:
        return Pictures()
    suspects = most_suspicious(verdict)
    shown = views.main_persons(verdict)[: views.SHOWN_PERSONS]
    wanted = {face.frame for face in suspects} | {person.thumbnail.frame for person in shown}
    times = views.times_of(verdict, (face.frame for face in suspects))
    pictures = Pictures()
    found: dict[int, FaceCard] = {}
    try:
        reading = decoder.read(Path(verdict.path), sorted(wanted))
        for number, frame in reading.frames():
            for person in shown:
                if person.thumbnail.frame == number:
                    crop = crop_face(frame, person.thumbnail.box)
                    if crop is not None:
                        pictures.thumbnails[person.person] = encode_jpeg(isotropic_resize(crop, THUMBNAIL_SIDE))
            for place, face in enumerate(suspects):
                crop = crop_face(frame, face.box) if face.frame == number else None
                if crop is not None:
                    found[place] = _face_card(verdict, face, times.get(number, ""), crop, load())
    except (VideoError, DecodingError, DecoderMemoryError, TimeoutError) as error:
        return Pictures(f"the file can’t be read again ({error})")
    pictures.faces = [found[place] for place in sorted(found)]
    if not found:
        pictures.fault = "the frames can’t be read again"
    return pictures


def most_suspicious(verdict: Verdict, count: int = SHOWN_FACES) -> list[Face]:
    """The `count` faces with the highest mean score, at most two of a person unless too few others exist.

    Persons of weight 0 are left out. Equal scores keep the order of frames and persons.
    """
    main = {person.person for person in views.main_persons(verdict)}

    def rank(face: Face) -> tuple[float, int, int]:
        return -float(np.mean(face.scores)), face.frame, face.person

    taken: Counter[int] = Counter()
    first, later = [], []
    for face in sorted((face for face in verdict.faces if face.person in main), key=rank):
        taken[face.person] += 1
        (first if taken[face.person] <= 2 else later).append(face)
    return sorted((first + later)[:count], key=rank)


def _face_card(verdict: Verdict, face: Face, time: str, crop: np.ndarray, ensemble: Ensemble) -> FaceCard:
    surest = int(np.argmax(face.scores))
    seen, heat = look(ensemble, surest, crop)
    return FaceCard(
        where=views.where(face, time),
        mean=float(np.mean(face.scores)),
        surest=verdict.models[surest].name,
        highest=face.scores[surest],
        picture=encode_jpeg(isotropic_resize(seen, FACE_SIDE)),
        heat=None if heat is None else encode_jpeg(overlay(seen, heat)),
        blank=heat is not None and not heat.any(),
    )


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The enlarged image in grey under its heat map, from dark red to pale yellow.

    Args:
        picture: RGB uint8 [h, w, 3].
        heat: float32 [h, w] in 0..1.

    Returns:
        RGB uint8, the longer side FACE_SIDE pixels.
    """
    large = isotropic_resize(picture, FACE_SIDE)
    height, width = large.shape[:2]
    value = np.clip(cv2.resize(heat, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    colour = cv2.applyColorMap((value * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(large, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32) * 0.85
    share = value[..., None] * 0.7  # the face stays visible where the map is brightest
    return np.clip(grey * (1 - share) + colour * share + 0.5, 0, 255).astype(np.uint8)


def shrink(jpeg: bytes, side: int) -> bytes:
    """The JPEG with a longer side of `side` pixels."""
    picture = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    return encode_jpeg(isotropic_resize(picture[..., ::-1], side), 78)
