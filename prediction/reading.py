"""From a video (or a picture) to its faces: frames, detection, persons, crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dfdc import layout
from dfdc.faces import FaceDetector, Tracker, detector_scale
from dfdc.imaging import crop_face, read_picture
from dfdc.video import VideoError, VideoReader
from prediction.verdict import Verdict

FRAMES_PER_VIDEO = 32

Emit = Callable[[dict[str, Any], np.ndarray], None]


def frame_numbers(frame_count: int, wanted: int = FRAMES_PER_VIDEO) -> list[int]:
    """`wanted` frame numbers evenly from first to last, truncated to int; a shorter clip is read whole, once."""
    return sorted({int(number) for number in np.linspace(0, frame_count - 1, min(wanted, frame_count))})


def find_faces(path: Path, filename: str, detector: FaceDetector, scale_setting: str | float, emit: Emit) -> Verdict:
    """Read a video and hand each of its faces to `emit`; what goes wrong becomes the status, never a score.

    Args:
        emit: called with each face (frame, person, box in full-size pixels, detector) and its crop, RGB uint8
            [h, w, 3], in the order of frames; it may wait.

    Returns:
        the verdict so far; its `faces` are those that were handed out.
    """
    verdict = Verdict(filename, "ok", path=str(path))
    try:
        if layout.is_picture(path):
            _find_in_picture(path, verdict, detector, scale_setting, emit)
        else:
            _find_in_video(path, verdict, detector, scale_setting, emit)
        if not verdict.faces:
            verdict.status = "no face"
            verdict.reason = f"no face found in the {verdict.frames_read} frames that were read"
    except VideoError as error:
        verdict.status, verdict.reason = "unreadable", error.reason
        verdict.faces = []
    except Exception as error:  # one video must not end the run; the status and the exit status say that it failed
        verdict.fail(error)
    return verdict


def _find_in_picture(path: Path, verdict: Verdict, detector: FaceDetector, setting: str | float, emit: Emit) -> None:
    try:
        picture = read_picture(path)
    except OSError as error:
        raise VideoError(path, f"not a readable picture: {error.strerror or 'unknown format, or damaged'}") from error
    height, width = picture.shape[:2]
    verdict.frame_count = 1
    _take(verdict, [(0, picture)], detector, detector_scale(setting, width, height), Tracker(), emit)


def _find_in_video(path: Path, verdict: Verdict, detector: FaceDetector, setting: str | float, emit: Emit) -> None:
    with VideoReader(path) as reader:
        scale = detector_scale(setting, reader.width, reader.height)
        size = detector.batch_size(reader.width, reader.height, scale)
        # Frames lie seconds apart in a long video, and the person is the same.
        tracker = Tracker(max_gap=max(50, reader.frame_count // 4))
        numbers = frame_numbers(reader.frame_count)
        verdict.frame_count, verdict.frames_per_second = reader.frame_count, round(reader.fps, 3)
        for batch in _batches(reader.frames(numbers), size):
            _take(verdict, batch, detector, scale, tracker, emit)
        verdict.frames_lost = list(reader.lost)
    if verdict.frames_lost:
        verdict.status = "partial"
        verdict.reason = f"{len(verdict.frames_lost)} of {len(numbers)} frames can't be decoded"
    elif len(numbers) < FRAMES_PER_VIDEO:
        verdict.status, verdict.reason = "too short", f"only {len(numbers)} frames; all were read"


def _take(
    verdict: Verdict,
    batch: list[tuple[int, np.ndarray]],
    detector: FaceDetector,
    scale: float,
    tracker: Tracker,
    emit: Emit,
) -> None:
    verdict.frames_read += len(batch)
    for (number, frame), faces in zip(batch, detector.detect([f for _, f in batch], scale), strict=True):
        people = tracker.update(number, faces.boxes)
        for person, box, probability in zip(people, faces.boxes, faces.scores, strict=True):
            crop = crop_face(frame, box)
            if crop is None:
                continue  # a box that holds no picture costs that crop, not the video
            face = {
                "frame": number,
                "person": person,
                "box": [round(float(corner), 2) for corner in box],
                "detector": round(float(probability), 4),
            }
            verdict.faces.append(face)
            emit(face, crop.copy())  # the frame itself must not stay in memory


def _batches(items: Iterator, size: int) -> Iterator[list]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
