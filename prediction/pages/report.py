"""A page to look at for each verdict, and an index: what `predict_folder.py --report DIR` writes.

DIR/index.html, and DIR/videos/ with one page per video; each is one file that works without a network. Only the few
frames that are shown are read again, one video at a time, so that memory does not grow with a video's length.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from dfdc import artifacts, identity
from dfdc.devices import package_versions
from dfdc.imaging import crop_face, encode_jpeg, isotropic_resize
from dfdc.video import VideoError
from networks.ensemble import Ensemble
from prediction.decoding import Decoder, DecoderMemoryError, DecodingError
from prediction.pages import views
from prediction.pages.heatmap import look
from prediction.pages.views import FaceCard, Made, Pictures
from prediction.verdict import Face, Verdict

_PAGE = re.compile(r"[A-Za-z0-9-]+-[0-9a-f]{12}\.html")  # as `page_name` makes them
SHOWN_FACES = 4
FACE_SIDE, THUMBNAIL_SIDE, INDEX_SIDE = 400, 180, 96  # pixels, the longer side
PACKAGES = ("torch", "torchvision", "timm", "facenet-pytorch", "numpy", "opencv-python-headless", "av", "grad-cam")


def make_report(
    folder: Path, verdicts: Sequence[Verdict], settings: dict[str, Any], ensemble: Ensemble, files: Mapping[str, Any]
) -> Path:
    """Write the pages; the index comes last, so that what it links to is there.

    Args:
        folder: made where it is not there; an earlier report's pages are replaced, or go if this one has no such video.
        verdicts: as in submission.json.
        settings: of the run.
        ensemble: of the checkpoints, in the order of the faces' scores; it makes the heat maps.
        files: the fingerprint of each video when it was scored, by name (see `Progress`).

    Returns:
        the path of the index.

    Raises:
        OSError: a page can't be written.
    """
    versions = {"Python": platform.python_version(), **package_versions(PACKAGES, "of unknown version")}
    hashes = dict(zip(ensemble.names, map(artifacts.sha256_of, ensemble.paths), strict=True))
    made = Made(settings, hashes, versions)
    for place in (folder, folder / "videos"):
        artifacts.remove_leftovers(place)
    pages: dict[str, str] = {}
    small: dict[str, bytes] = {}
    with contextlib.closing(Decoder()) as decoder:
        for verdict in tqdm(verdicts, desc="report", unit="video", disable=None):
            name = verdict.filename
            pages[name] = f"videos/{page_name(name)}"
            pictures = read_pictures(verdict, files.get(name), ensemble, decoder)
            if pictures.thumbnails:
                first = next(p.person for p in verdict.persons if p.person in pictures.thumbnails)
                small[name] = _smaller(pictures.thumbnails[first])
            artifacts.write_bytes(folder / pages[name], views.build_video(verdict, pictures, made), durable=False)
    index = folder / "index.html"
    artifacts.write_bytes(index, views.build_index(verdicts, pages, small, made))
    for old in set((folder / "videos").glob("*.html")) - {folder / page for page in pages.values()}:
        if _PAGE.fullmatch(old.name):
            old.unlink()  # of an earlier report: no index leads to it any more
    return index


def page_name(filename: str) -> str:
    """A file name that is safe anywhere and differs for every video, in upper and lower case alike."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", filename).strip("-")[:60]
    return f"{plain or 'video'}-{hashlib.sha256(os.fsencode(filename)).hexdigest()[:12]}.html"


def read_pictures(verdict: Verdict, recorded: Any, ensemble: Ensemble, decoder: Decoder) -> Pictures:
    """The pictures of a video's page, read again; `recorded` is its file's fingerprint when it was scored."""
    if not verdict.faces:
        return Pictures()
    path = Path(verdict.path)
    try:
        if not path.is_file():
            return Pictures("the file is not there any more")
        if not identity.same_file(recorded, path):
            return Pictures("the file has changed since it was scored")
    except OSError as error:
        return Pictures(f"the file can’t be read again ({error.strerror or 'damaged'})")
    suspects = most_suspicious(verdict)
    shown = views.main_persons(verdict)[: views.SHOWN_PERSONS]
    wanted = {face.frame for face in suspects} | {person.thumbnail.frame for person in shown}
    pictures = Pictures()
    found: dict[int, FaceCard] = {}
    try:
        reading = decoder.read(path, sorted(wanted))
        for number, frame in reading.frames():
            for person in shown:
                if person.thumbnail.frame == number:
                    crop = crop_face(frame, person.thumbnail.box)
                    if crop is not None:
                        pictures.thumbnails[person.person] = encode_jpeg(isotropic_resize(crop, THUMBNAIL_SIDE))
            for place, face in enumerate(suspects):
                crop = crop_face(frame, face.box) if face.frame == number else None
                if crop is not None:
                    found[place] = _face_card(verdict, face, crop, ensemble)
    except (VideoError, DecodingError, DecoderMemoryError, TimeoutError) as error:
        return Pictures(f"the file can’t be read again ({error})")
    pictures.faces = [found[place] for place in sorted(found)]
    if not found:
        pictures.fault = "the frames can’t be read again"
    return pictures


def most_suspicious(verdict: Verdict, count: int = SHOWN_FACES) -> list[Face]:
    """The `count` faces with the highest mean score, at most two of a person unless there are too few others.

    Those of passers-by, and what is hardly a face, are left out. Equals come in the order of frames and persons.
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


def _face_card(verdict: Verdict, face: Face, crop: np.ndarray, ensemble: Ensemble) -> FaceCard:
    surest = int(np.argmax(face.scores))
    seen, heat = look(ensemble, surest, crop)
    return FaceCard(
        where=views.where(verdict, face),
        mean=float(np.mean(face.scores)),
        surest=verdict.models[surest].name,
        highest=face.scores[surest],
        picture=encode_jpeg(isotropic_resize(seen, FACE_SIDE)),
        heat=None if heat is None else encode_jpeg(overlay(seen, heat)),
        blank=heat is not None and not heat.any(),
    )


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The picture in grey, enlarged, under its heat map from dark red to pale yellow.

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


def _smaller(jpeg: bytes) -> bytes:
    picture = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    return encode_jpeg(isotropic_resize(picture[..., ::-1], INDEX_SIDE), 78)
