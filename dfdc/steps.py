"""Base classes of preprocessing steps, and the runner of per-video steps: pending videos, ledger, exit status."""

from __future__ import annotations

import contextlib
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from dfdc import artifacts, layout, locks
from dfdc.artifacts import Stamp
from dfdc.command_line import UsageError, setting
from dfdc.layout import REJECTED_NAME, Dataset, Video
from dfdc.ledger import Ledger
from dfdc.limits import known_size
from dfdc.progress import disk_map, progress_bar
from dfdc.rejections import Rejections, load_rejections
from dfdc.shards import WHOLE, Shard
from dfdc.step_command import RunOptions
from dfdc.text import shown
from dfdc.workers import Engine, Failed, LocalWorkers, Skipped, list_devices, outcome_of, require_ray, worker_count


class Step(ABC):
    """A preprocessing step; the settings that affect its artifacts are constructor arguments.

    Attributes:
        name: name of the script and the ledger.
        version: version of the artifacts' content; artifacts of an earlier version are stale.
        root: DATA_ROOT.
    """

    name: ClassVar[str]
    version: ClassVar[int]

    def __init__(self, root: Path) -> None:
        self.root = root

    def only_run(self, shard: Shard = WHOLE) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of this step on DATA_ROOT, or on a shard of it, while a block runs.

        Raises:
            UsageError: another run of it works on the same videos; the message names that run.
        """

        def refusal(owner: str) -> UsageError:
            return UsageError(f"another run of this step is working on {self.root} ({owner}); wait until it ends")

        whole = layout.ledger_path(self.root, self.name).with_name(f".{self.name}.lock")
        return locks.only_one(shard.file(whole), refusal, shard.overlapping(whole))

    @abstractmethod
    def run(self, options: RunOptions) -> int:
        """Create missing and stale artifacts, and print a summary; return the exit status.

        Raises:
            UserError: the dataset or a setting is invalid.
        """


class VideoStep(Step):
    """A step that creates one artifact per video; a `dfdc.workers.Task`.

    Attributes:
        labels: labels of the videos that it processes.
        preload: modules that its workers need.
        uses_crops: whether it reads or writes crops.
        crops_dir: name of the crops folder in DATA_ROOT.
    """

    labels: ClassVar[tuple[str, ...]]
    preload: tuple[str, ...] = ("cv2",)
    uses_crops: ClassVar[bool] = True

    def __init__(self, root: Path, crops_dir: str = layout.CROPS_DIR) -> None:
        super().__init__(root)
        self.crops_dir = crops_dir

    @property
    def folder(self) -> Path:
        """Folder of its artifacts."""
        return layout.artifacts_folder(self.root, self.name, self.crops_dir)

    def crops_of(self, name: str) -> Path:
        """Folder of the crops of the video `name`."""
        return layout.crops_path(self.root, name, self.crops_dir)

    @abstractmethod
    def obstacle(self, video: Video) -> str | None:
        """Why `video` can't be processed now: an artifact of an earlier step is missing. None if nothing is missing."""

    @abstractmethod
    def prune(self, dataset: Dataset, gone: Sequence[str]) -> None:
        """Remove artifacts of videos that are no longer in any metadata.json; `gone` lists parts removed for good."""

    @abstractmethod
    def check(self, video: Video) -> Stamp | None:
        """The stamp of the artifact of `video` if it is complete and fresh; None if it must be created.

        Raises:
            UserError, OSError: its inputs can't be read now, so freshness is unknown; the artifact is kept.
        """

    @abstractmethod
    def work(self, video: Video) -> Stamp:
        """Create the artifact of `video` in a worker; return its stamp.

        Raises:
            SkipVideo, UserError, OSError: it can't be created. A previous artifact is kept if its inputs are unreadable
                or unchanged; an artifact of another video is removed.
        """

    def start(self, device: str) -> None:
        """Initialize the step in a worker, on its device."""

    def size(self, video: Video) -> int:
        """File size in bytes."""
        return known_size(video.path)

    @cached_property
    def rejections(self) -> Rejections:
        """The crops and videos rejected by a user."""
        return load_rejections(self.root)

    def select(self, dataset: Dataset, shard: Shard = WHOLE) -> tuple[list[Video], list[tuple[str, str]]]:
        """The videos to process, and (video, reason) for the skipped videos with the step's labels.

        A shard holds whole families, so it never waits for the artifacts of another shard.
        """

        def is_ours(video: Video) -> bool:
            return video.label in self.labels and shard.holds(video.source)

        skipped = [(name, lost.reason) for name, lost in dataset.skipped.items() if is_ours(lost.video)]
        videos = []
        for video in filter(is_ours, dataset.videos.values()):
            reason = self.rejections.whole(video) or self.obstacle(video)
            if reason is None:
                videos.append(video)
            else:
                skipped.append((video.id, reason))
        return videos, skipped

    def run(self, options: RunOptions, engine: Engine | None = None) -> int:
        """See `Step.run`; `engine` does the work, by default that of `options`."""
        dataset = layout.load_dataset(self.root)
        if self.uses_crops:
            layout.check_crops_dir(self.crops_dir, dataset.parts)
        with self.only_run(options.shard):
            videos, skipped = self.select(dataset, options.shard)
            artifacts.remove_leftovers(self.folder)
            if options.prune is not None:
                self.prune(dataset, options.prune)
            status = run_step(self, options, videos, skipped, engine)
            artifacts.remove_leftovers(self.folder)  # of workers that died, and whose videos others have done
            return status


@dataclass
class _Tally:
    """Outcomes of a run so far."""

    name: str
    ledger: Ledger
    videos: int
    complete: int = 0  # before the run
    failed: int = 0
    made: Counter[str] = field(default_factory=Counter)
    begun: float = field(default_factory=time.monotonic)

    def take(self, video: Video, outcome: Stamp | Skipped | Failed) -> None:
        """Count the outcome of a video."""
        self.ledger.looked_at(video.id)
        if isinstance(outcome, Skipped):
            self.ledger.add(video.id, "skipped", outcome.reason)
        elif isinstance(outcome, Failed):
            self._fail(video, outcome.reason)
        else:
            self.made.update(outcome.made)
            if outcome.failed:
                self._fail(video, outcome.failed)
            if outcome.notes:
                self.ledger.add(video.id, "incomplete", "; ".join(outcome.notes))

    def _fail(self, video: Video, reason: str) -> None:
        self.failed += 1
        self.ledger.add(video.id, "failed", reason)

    def conclude(self, max_failed: float) -> int:
        """Print a summary; return the exit status."""
        name, counts = self.name, self.ledger.counts()
        made = ", ".join(f"{number} {kind}" for kind, number in self.made.items()) or "nothing made"
        print(
            f"{name}: {self.videos} videos ({self.complete} were complete), {shown(made)}; {counts['failed']} failed, "
            f"{counts['skipped']} skipped, {counts['incomplete']} incomplete; {time.monotonic() - self.begun:.1f} s"
        )
        if counts:
            print(f"  reasons: {self.ledger.path}")
        for video, reason in self.ledger.rows("failed"):
            print(f"  failed: {video}: {shown(reason)}", file=sys.stderr)
        if not self.videos or counts["failed"] <= max_failed * self.videos:
            return 0
        flag = setting("max_failed")
        print(
            f"{name}: {counts['failed']} of {self.videos} videos failed, more than {flag} {max_failed:g} allows. "
            f"See {self.ledger.path}; repair these videos, list them in {REJECTED_NAME}, or raise {flag}",
            file=sys.stderr,
        )
        return 1


def run_step(
    step: VideoStep,
    options: RunOptions,
    videos: Sequence[Video],
    skipped: Sequence[tuple[str, str]],
    engine: Engine | None = None,
) -> int:
    """Create missing and stale artifacts of `step`, update its ledger, print a summary; return the exit status.

    Args:
        videos: the step's videos; complete ones are counted but not redone.
        skipped: (video, reason) of skipped videos, for the ledger.
        engine: does the work; by default, that of `options`.
    """
    if engine is None and options.device != "auto":  # now, so that invalid values are reported even if all is done
        engine = _open_engine(step, videos, options)
    name = step.name if options.shard.is_whole else f"{step.name}, shard {options.shard}"
    tally = _Tally(name, Ledger(layout.ledger_path(step.root, step.name, options.shard), len(videos)), len(videos))
    tally.ledger.skip(skipped)
    todo = list(videos) if options.force else _left_to_do(step, videos, tally)
    if todo:
        engine = engine or _open_engine(step, videos, options)  # auto loads PyTorch, so only if there is work
        outcomes = engine(step, todo)
        with contextlib.closing(outcomes), progress_bar(total=len(todo), desc=step.name, unit="video") as bar:
            for video, outcome in outcomes:
                tally.take(video, outcome)
                bar.update()
                if tally.failed:
                    bar.set_postfix(failed=tally.failed, refresh=False)
    tally.ledger.finish()
    return tally.conclude(options.max_failed)


def _open_engine(step: VideoStep, videos: Sequence[Video], options: RunOptions) -> Engine:
    if options.engine == "ray":
        require_ray()
        from dfdc.ray_workers import RayWorkers, Shared  # here, because Ray is optional

        # Each of these may be a link, or a disk of its own.
        folders = step.root, *layout.artifact_folders(step.root, step.crops_dir)
        parts = sorted({video.part for video in videos})
        shared = Shared(folders, tuple(step.root / part / layout.METADATA_NAME for part in parts), step.root)
        return RayWorkers(options.ray_address, options.workers, options.device, shared)
    devices = ["cpu"] if options.device is None else list_devices(options.device)
    return LocalWorkers(worker_count(options.workers, devices), devices)


def _left_to_do(step: VideoStep, videos: Sequence[Video], tally: _Tally) -> list[Video]:
    """The videos whose artifact is missing or stale; the others are counted in `tally`."""

    def look(video: Video) -> Stamp | Skipped | Failed | None:
        return outcome_of(step.check, video)

    todo = []
    bar = progress_bar(disk_map(look, videos), total=len(videos), desc=f"{step.name}: checking", unit="video", delay=3)
    for video, outcome in zip(videos, bar, strict=True):
        if outcome is None:
            todo.append(video)
        else:
            tally.take(video, outcome)
            tally.complete += isinstance(outcome, Stamp)
    return todo
