"""From a video or photo to its faces: frames, detection, persons, crops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dfdc.detector_settings import detector_scale
from dfdc.faces import FaceDetector
from dfdc.imaging import crop_face
from dfdc.text import plural
from dfdc.tracking import ShotCuts, Tracker, looks_of
from dfdc.video import VideoError
from prediction.decoding import Decoder, Reading
from prediction.settings import FRAMES_PER_VIDEO, DetectorScale
from prediction.verdict import Face, Status, Verdict

# If frames were lost, a verdict needs at least this number of frames, and this share of those requested.
LEAST_FRAMES, LEAST_PART = 8, 0.25

Emit = Callable[[np.ndarray], None]
Frame = tuple[int, np.ndarray]


def find_faces(
    path: Path, filename: str, decoder: Decoder, detector: FaceDetector, scale: DetectorScale, emit: Emit
) -> Verdict:
    """Read a video, and pass the crop of each face to `emit`. An error becomes the status, never a score.

    Args:
        decoder: reads the file; no other thread may use it at the same time.
        scale: the detector's scale, see `dfdc.detector_settings.detector_scale`.
        emit: called with the crop of each face, RGB uint8 [h, w, 3], in frame order; it may block.

    Returns:
        the verdict so far; its `faces` match the crops, and have no scores yet.
    """
    verdict = Verdict(filename, Status.OK, path=str(path))
    try:
        with decoder.read(path, FRAMES_PER_VIDEO) as reading:
            _search(reading, verdict, detector, scale, emit)
        _judge_reading(verdict, reading)
    except VideoError as error:
        verdict.end(Status.UNREADABLE, error.reason)
    except TimeoutError as error:
        verdict.end(Status.TIMED_OUT, str(error))
    except Exception as error:  # one video must not end the run; its status and the exit status report the failure
        verdict.fail(error)
    return verdict


def _search(reading: Reading, verdict: Verdict, detector: FaceDetector, setting: DetectorScale, emit: Emit) -> None:
    opened = reading.opened
    verdict.picture, verdict.notes = opened.picture, list(opened.notes)
    verdict.frame_count, verdict.frames_per_second = opened.frame_count, opened.frames_per_second
    # In a long video, the frames are seconds apart, but the persons stay the same.
    tracker, cuts = Tracker(max_gap=max(50, opened.frame_count // 4)), ShotCuts()
    for batch in _batches(reading.frames(), detector, setting):
        height, width = batch[0][1].shape[:2]
        if not verdict.sizes or verdict.sizes[-1][1:] != [width, height]:
            verdict.sizes.append([batch[0][0], width, height])
        found = detector.detect([frame for _, frame in batch], detector_scale(setting, width, height))
        verdict.frames_read += len(batch)
        to_first = np.tile([verdict.sizes[0][1] / width, verdict.sizes[0][2] / height], 2)
        for (number, frame), faces in zip(batch, found, strict=True):
            cut = [(index, crop_face(frame, box)) for index, box in enumerate(faces.boxes)]
            crops = {index: crop for index, crop in cut if crop is not None}  # an invalid box costs only its crop
            looks = looks_of(list(crops.values()))
            people = tracker.update(number, faces.boxes[list(crops)] * to_first, looks, cut=cuts.is_cut(frame))
            for (index, crop), person in zip(crops.items(), people, strict=True):
                box, sureness = faces.boxes[index], round(float(faces.scores[index]), 4)
                corners = [round(float(corner), 2) for corner in box]
                inside = round(_part_inside(box, width, height), 4)
                verdict.faces.append(Face(number, person, corners, sureness, inside))
                emit(crop.copy())  # a view would keep the whole frame in memory


def _part_inside(box: np.ndarray, width: int, height: int) -> float:
    """Return the share of a box within the frame, 0..1."""
    x1, y1, x2, y2 = (float(corner) for corner in box)
    within = max(0.0, min(x2, width) - max(x1, 0.0)) * max(0.0, min(y2, height) - max(y1, 0.0))
    return within / max((x2 - x1) * (y2 - y1), 1e-9)


def _batches(frames: Iterator[Frame], detector: FaceDetector, setting: DetectorScale) -> Iterator[list[Frame]]:
    """Yield batches of frames of equal size, as many as the detector takes at once."""
    batch: list[Frame] = []
    for number, frame in frames:
        height, width = frame.shape[:2]
        if batch and frame.shape != batch[0][1].shape:
            yield batch
            batch = []
        batch.append((number, frame))
        if len(batch) >= detector.batch_size(width, height, detector_scale(setting, width, height)):
            yield batch
            batch = []
    if batch:
        yield batch


def _judge_reading(verdict: Verdict, reading: Reading) -> None:
    """Set the status by the number of frames read."""
    wanted, read = reading.opened.wanted, verdict.frames_read
    verdict.frames_lost = reading.lost
    if reading.lost:
        lost = f"{len(reading.lost)} of {wanted} frames could not be decoded"
        if read < LEAST_FRAMES or read < LEAST_PART * wanted:
            verdict.end(Status.DAMAGED, f"{lost}; only {plural(read, 'frame')} could be read")
            return
        verdict.status, verdict.reason = Status.PARTIAL, lost
    elif wanted < FRAMES_PER_VIDEO and not verdict.picture:
        verdict.status, verdict.reason = Status.TOO_SHORT, f"only {wanted} frames; all were read"
    if not verdict.faces:
        seen = "photo" if verdict.picture else f"{read} frames read"
        verdict.end(Status.NO_FACE, f"no face detected in the {seen}")
