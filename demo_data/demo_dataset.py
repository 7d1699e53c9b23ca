"""Create the files of the demo dataset: plan the videos, load the portraits, render the videos."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image
from pydantic import TypeAdapter

from demo_data.demo_faces import ASTRONAUT_POINTS, Person, Portrait, frames, make_person, make_portrait, make_scene
from demo_data.demo_swaps import GENERATORS, HELD_OUT, swapped_frames
from dfdc import artifacts
from dfdc.command_line import SettingError, UserError, setting
from dfdc.detector_settings import DETECT_THRESHOLDS, detector_scale
from dfdc.faces import FaceDetector
from dfdc.identity import fingerprint
from dfdc.layout import FAKE, METADATA_NAME, REAL, VIDEO_SUFFIXES
from dfdc.pictures import PictureError, read_photo
from dfdc.progress import progress_bar
from dfdc.video import VideoError, VideoReader, write_video
from dfdc.workers import LocalWorkers, worker_count

PARTS = 4
SETTINGS_NAME = "demo.json"
VERSION = 1  # increase when a change alters any pixel
_MIN_EYE_DISTANCE = 20  # pixels in a user's image; the canvas has 48, so smaller faces look blurred


class DemoError(UserError):
    """A video could not be created; the message names it and the reason."""

    status = 1


@dataclass(frozen=True)
class FaceMark:
    """Identity of a file with a user's face, by content only, so that copies match."""

    size: int  # in bytes
    xxh3: str


@dataclass(frozen=True)
class DemoSettings:
    """Settings that decide the content of the videos.

    Attributes:
        version: see VERSION.
        seed, parts, people, fakes, frames: see `make_demo_dataset`.
        faces: file name -> identity of the user's faces; None for the portrait of scikit-image.
    """

    version: int
    seed: int
    parts: int
    people: int
    fakes: int
    frames: int
    faces: dict[str, FaceMark] | None


@dataclass(frozen=True)
class DemoFile:
    """Content of demo.json.

    Attributes:
        generators: name -> description of the generator.
        held_out: the generator that only part 0 uses.
    """

    made_by: str
    generators: dict[str, str]
    held_out: str
    settings: DemoSettings


_FILE = TypeAdapter(DemoFile)


@dataclass(frozen=True)
class Swap:
    """How a fake is made from a real video."""

    generator: str
    donor: int  # number of the person whose face the fake shows
    donor_portrait: int
    number: int  # number of the fake within its part


@dataclass(frozen=True)
class Job:
    """One video to render; it depends only on the job, the seed, the number of frames and the portraits."""

    part: int
    name: str  # file name
    person: int  # number over all parts
    portrait: int
    swap: Swap | None = None  # None: a real video

    @property
    def metadata(self) -> dict[str, str]:
        """Return the metadata.json entry of this video. `generator` and `donor` are not part of the DFDC format."""
        if self.swap is None:
            return {"label": REAL, "split": "train"}
        entry = {"label": FAKE, "split": "train", "original": f"person{self.person:02d}.mp4"}
        return {**entry, "generator": self.swap.generator, "donor": f"person{self.swap.donor:02d}.mp4"}


def part_name(part: int) -> str:
    return f"dfdc_train_part_{part}"


def plan(parts: int, people: int, fakes: int, portraits: int) -> list[Job]:
    """Return the jobs of all videos, part by part.

    No person or donor occurs in two parts. With at least one portrait per part, no portrait does either. Part 0 uses
    all generators, including the held-out one; the other parts use all except that one.
    """
    seen = [name for name in GENERATORS if name != HELD_OUT]
    jobs = []
    for part in range(parts):
        own = range(part, portraits, parts) if portraits >= parts else range(portraits)
        numbers = range(part * people, (part + 1) * people)
        portrait_of = {person: own[index % len(own)] for index, person in enumerate(numbers)}
        jobs += [Job(part, f"person{person:02d}.mp4", person, portrait_of[person]) for person in numbers]
        generators = [HELD_OUT, *seen] if part == 0 else seen
        for number in range(fakes):
            turn, index = divmod(number, people)
            person = numbers[index]
            generator = generators[(number + turn) % len(generators)]
            donor = person if generator == "lipsync" else numbers[(index + 1 + turn % (people - 1)) % people]
            name = f"person{person:02d}_fake{turn}_{generator}.mp4"
            swap = Swap(generator, donor, portrait_of[donor], number)
            jobs.append(Job(part, name, person, portrait_of[person], swap))
    return jobs


# --- portraits ----------------------------------------------------------------------------------------------
def load_portraits(faces: Path | None) -> list[Portrait]:
    """Load the portraits of a folder (SettingError: no usable face); None: the astronaut of scikit-image."""
    if faces is None:
        return [make_portrait(skimage.data.astronaut(), np.array(ASTRONAUT_POINTS))]

    detector = FaceDetector(DETECT_THRESHOLDS)
    portraits, reasons = [], []
    for path in _face_files(faces):
        found = _best_face(path, detector)
        if isinstance(found, str):
            reasons.append(f"{path}: {found}")
            print(f"skipped {reasons[-1]}", file=sys.stderr)
        else:
            portraits.append(make_portrait(*found))
    if not portraits:
        why = "\n  ".join(reasons) or "the folder holds no files"
        raise SettingError(
            "faces",
            faces,
            "no usable face. Add images or videos of one person who looks at the camera, or omit "
            f"{setting('faces')} to use the portrait of scikit-image.\n  {why}",
        )
    return portraits


def _face_files(faces: Path) -> list[Path]:
    if not faces.is_dir():
        raise SettingError("faces", faces, "not a folder; pass a folder with images or videos of faces")
    return sorted(path for path in faces.iterdir() if path.is_file() and not path.name.startswith("."))


def _best_face(path: Path, detector: FaceDetector) -> tuple[np.ndarray, np.ndarray] | str:
    """Return image (uint8 [h, w, 3]) and five landmarks (float [5, 2]) of the only person in a file, or the reason."""
    pictures = _read_video(path) if path.suffix.lower() in VIDEO_SUFFIXES else _read_picture(path)
    if isinstance(pictures, str):
        return pictures
    best, best_score, reason = None, 0.0, ""  # frame with the highest detection score
    for picture in pictures:
        height, width = picture.shape[:2]
        found = detector.detect([picture], detector_scale("auto", width, height))[0]
        sizes = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)
        large = [index for index, size in enumerate(sizes) if size > sizes.max() / 4]
        if len(large) != 1:
            reason = f"{len(large)} faces detected, but exactly one is required"
            continue
        points, score = found.landmarks[large[0]], float(found.scores[large[0]])
        distance = float(((points[1] - points[0]) ** 2).sum() ** 0.5)
        if distance < _MIN_EYE_DISTANCE:
            reason = f"the eyes are {distance:.0f} pixels apart, but at least {_MIN_EYE_DISTANCE} are required"
        elif score > best_score:
            best, best_score = (picture, points), score
    return best or reason


def _read_picture(path: Path) -> list[np.ndarray] | str:
    try:
        upright = Image.fromarray(read_photo(path).pixels)
    except PictureError as error:
        return f"not a readable image or video ({error.reason})"
    upright.thumbnail((1600, 1600))
    return [np.array(upright)]


def _read_video(path: Path) -> list[np.ndarray] | str:
    try:
        with VideoReader(path) as reader:
            wanted = sorted({int(reader.frame_count * share) for share in (0.3, 0.4, 0.5, 0.6, 0.7)})
            return [picture for _, picture in reader.frames(wanted)]
    except VideoError as error:
        return f"not a readable video: {error}"


# --- making it ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class MakeVideo:
    """Render one job; a `dfdc.workers.Task`."""

    out: Path
    seed: int
    frames: int
    portraits: Sequence[Portrait]
    preload = ("demo_data.demo_dataset",)

    def size(self, job: Job) -> int:
        """Return the size in bytes of a video whose decoding takes at least as long as this rendering; for timeouts."""
        return 100_000 * self.frames

    def start(self, device: str) -> None:
        """Nothing to prepare."""

    def work(self, job: Job) -> None:
        """Render one video and write it atomically."""

        def person(number: int, portrait: int) -> Person:
            return make_person(self.portraits[portrait], np.random.default_rng((self.seed, 0, number)))

        # A fake renders its original again instead of reading it: jobs need no order, and nothing is compressed twice.
        scene = make_scene(person(job.person, job.portrait), self.frames, (self.seed, 1, job.person))
        if job.swap is None:
            pictures = (frame for frame, _ in frames(scene))
        else:
            donor, seed = person(job.swap.donor, job.swap.donor_portrait), (self.seed, 2, job.part, job.swap.number)
            pictures = swapped_frames(scene, donor, job.swap.generator, seed)
        write_video(self.out / part_name(job.part) / job.name, pictures, crf=scene.crf)


def make_demo_dataset(
    out: Path,
    *,
    faces: Path | None = None,
    seed: int = 0,
    parts: int = PARTS,
    people: int = 8,
    fakes: int = 8,
    frames: int = 80,
    workers: int = 1,
) -> bool:
    """Create the dataset in `out`, or its missing files.

    Args:
        out: a new or empty folder, or one from an earlier call with the same settings.
        faces: folder of images and videos, one person each; None for the portrait of scikit-image.
        seed: 0 or more; decides the people.
        people, fakes: real videos (one per person, at least 2) and fake videos per part.
        frames: frames per video, at 25 per second.
        workers: processes, at most one per core.

    Returns:
        False if the dataset was already complete.

    Raises:
        SettingError: `out` holds other files, or `faces` holds no usable face.
        DemoError: a video could not be created.
    """
    marks = None if faces is None else {path.name: _identity(path) for path in _face_files(faces)}
    settings = DemoSettings(VERSION, seed, parts, people, fakes, frames, marks)
    begun = _check_folder(out, settings)
    # File names don't depend on the number of portraits, so checking for a complete dataset needs no face detector.
    folders = [out / part_name(part) for part in range(parts)]
    listed = plan(parts, people, fakes, portraits=1)
    missing = {job.name for job in listed if not (out / part_name(job.part) / job.name).is_file()}
    if begun and not missing and all((folder / METADATA_NAME).is_file() for folder in folders):
        return False

    portraits = load_portraits(faces)
    jobs = plan(parts, people, fakes, len(portraits))
    if not begun:
        content = DemoFile("make_demo_dataset.py", GENERATORS, HELD_OUT, settings)
        artifacts.write_json(out / SETTINGS_NAME, asdict(content), indent=1)
    for folder in folders:
        folder.mkdir(exist_ok=True)
        artifacts.remove_leftovers(folder)
    _run([job for job in jobs if job.name in missing], MakeVideo(out, seed, frames, portraits), workers)
    for part, folder in enumerate(folders):  # last: metadata.json marks a complete part
        metadata = {job.name: job.metadata for job in jobs if job.part == part}
        artifacts.write_json(folder / METADATA_NAME, metadata, indent=1)
    return True


def _identity(path: Path) -> FaceMark:
    mark = fingerprint(path)
    return FaceMark(mark["size"], mark["xxh3"])


def _check_folder(out: Path, settings: DemoSettings) -> bool:
    """Return whether an earlier run with these settings created `out`; False for a missing or empty folder."""
    again = f"Choose another folder for {setting('out')}, or remove this one"
    if not out.exists():
        return False
    if not out.is_dir():
        raise SettingError("out", out, "this is a file. Choose a folder that does not exist yet")
    marker = out / SETTINGS_NAME
    if not marker.is_file():
        # If the process was killed while it wrote the first file, only a temporary file exists.
        if set(out.iterdir()) - set(out.glob(f".{SETTINGS_NAME}.*")):
            raise SettingError(
                "out", out, f"the folder holds other files and no {SETTINGS_NAME} of an earlier run. {again}"
            )
        artifacts.remove_leftovers(out)
        return False
    try:
        there = _FILE.validate_python(json.loads(marker.read_bytes())).settings
    except (ValueError, RecursionError):
        raise SettingError("out", out, f"{marker} can't be read. {again}") from None
    pairs = [(key.name, getattr(there, key.name), getattr(settings, key.name)) for key in fields(DemoSettings)]
    changed = [f"{name} {_short(old)} instead of {_short(new)}" for name, old, new in pairs if old != new]
    if changed:
        shown = ", ".join(changed)
        raise SettingError("out", out, f"the folder holds a dataset with other settings ({shown}). {again}")
    return True


def _short(value: Any) -> str:
    return f"{len(value)} files" if isinstance(value, dict) else str(value)


def _run(jobs: Sequence[Job], task: MakeVideo, workers: int) -> None:
    """Render all videos; stop at the first failure."""
    if not jobs:
        return
    outcomes = LocalWorkers(worker_count(workers, ["cpu"]))(task, jobs)
    with contextlib.closing(outcomes), progress_bar(total=len(jobs), desc="demo videos", unit="video") as bar:
        for job, outcome in outcomes:
            if outcome is not None:
                raise DemoError(f"{job.name} could not be created: {outcome.reason}")
            bar.update()
