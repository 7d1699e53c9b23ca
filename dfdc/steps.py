"""One command for every preprocessing step: arguments, what is left to do, the ledger, the exit status.

A step says which videos it works on, how to tell a finished one, and what to do for one video; this module and
dfdc/workers.py do the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dfdc.command_line import UsageError
from dfdc.devices import DEVICE_HELP, available_cores
from dfdc.layout import REJECTED_NAME, Video, ledger_path
from dfdc.ledger import Ledger
from dfdc.progress import disk_map, progress_bar
from dfdc.workers import Outcome, SkipVideo, do_all, outcome_of


class Step:
    """What one preprocessing step is; its settings are its attributes. It is pickled on its way to the workers.

    A stamp is a dict with `made` (counts by kind), `notes` (what the artifact lacks), `failed` (a reason, or None), and
    what the artifact was made from.
    """

    name = ""  # the script's, and its ledger's
    preload: tuple[str, ...] = ("cv2",)  # what every worker needs: imported once, and workers are forked from there

    def check(self, video: Video) -> dict | None:
        """The stamp of the artifact of `video` if it is complete and fresh; None if it is to be made.

        Raises:
            FailVideo, OSError: what it was made from can't be read just now. Nothing is known then, and all is left.
        """
        raise NotImplementedError

    def start(self, device: str) -> None:
        """Make ready in a worker, on its device."""

    def work(self, video: Video) -> dict:
        """Make the artifact of `video` in a worker; return its stamp.

        Raises:
            SkipVideo, FailVideo, VideoError: it can't be made. What was there before stays, if what it was made from
                can't be read or is the same; an artifact of another video goes.
        """
        raise NotImplementedError


def step_parser(
    doc: str, *, crops: bool = False, device: bool = False, png: bool = False, workers: bool = True
) -> argparse.ArgumentParser:
    """The arguments that every step takes; `doc` is the script's docstring.

    Args:
        workers: whether the step makes an artifact of each video, in worker processes.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "folder in which the dfdc_train_part_* folders lie; artifacts are written there"
    parser.add_argument("--root-dir", type=Path, required=True, metavar="DATA_ROOT", help=where)
    if crops:
        parser.add_argument("--crops-dir", default="crops", help="folder of the crops, in DATA_ROOT (crops)")
    if workers:
        many = "processes, at most one per core (all cores; where --device uses GPUs, one for each)"
        parser.add_argument("--workers", type=int, default=0, metavar="N", help=many)
    if device:
        parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    if png:
        level = "compression of the PNGs, all lossless: 0 (twice the size of 1) to 9 (a tenth smaller, and slow) (1)"
        parser.add_argument("--png-level", type=int, choices=range(10), default=1, metavar="0..9", help=level)
    parser.add_argument("--force", action="store_true", help="redo what is already complete")
    if not workers:
        return parser
    prune = (
        "remove this step's artifacts of videos that are in no metadata.json any more; if a part that folds.csv knows "
        "is not here now, only when that part is named: --prune PART"
    )
    parser.add_argument("--prune", nargs="*", metavar="PART", help=prune)
    parser.add_argument("--max-failed", type=float, default=0.05, metavar="FRACTION",
                        help="exit with status 1 if a larger part of the videos fails (0.05)")  # fmt: skip
    return parser


def worker_count(requested: int, devices: Sequence[str]) -> int:
    """How many workers: at least 1, at most one per core.

    Args:
        requested: the user's --workers; 0 for what suits the machine.
        devices: the devices they share; on GPUs one worker each is the default.

    Raises:
        UsageError: a negative number.
    """
    if requested < 0:
        raise UsageError(f"--workers {requested}: give a number from 1 on, or leave it out")
    cores = available_cores()
    if requested > cores:
        print(f"--workers {requested}: there are {cores} cores, so {cores} are used", file=sys.stderr)
    default = len(devices) if devices[0].startswith("cuda") else cores
    return max(1, min(requested or default, cores))


def list_devices(name: str) -> list[str]:
    """The devices that `--device` means: every visible GPU for `cuda` (and `auto` with one), else the one named."""
    from dfdc.devices import resolve_device

    try:
        device = resolve_device(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if device != "cuda":
        return [device]
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


@dataclass
class _Tally:
    ledger: Ledger
    made: Counter = field(default_factory=Counter)
    failed: int = 0

    def take(self, video: Video, outcome: Outcome) -> None:
        """Count an outcome of a video that was looked at."""
        self.ledger.looked_at(video.id)
        if isinstance(outcome, str):
            self._fail(video, outcome)
        elif isinstance(outcome, SkipVideo):
            self.ledger.add(video.id, "skipped", str(outcome))
        else:
            self.made.update(outcome["made"])
            if outcome["failed"]:
                self._fail(video, outcome["failed"])
            if outcome["notes"]:
                self.ledger.add(video.id, "incomplete", "; ".join(outcome["notes"]))

    def _fail(self, video: Video, reason: str) -> None:
        self.failed += 1
        self.ledger.add(video.id, "failed", reason)


def run_step(step: Step, args: argparse.Namespace, videos: Sequence[Video], skipped: Sequence[tuple[str, str]]) -> int:
    """Do what is missing or stale of `step`, keep its ledger, print what came out; return the exit status.

    Args:
        args: root_dir, workers, force, max_failed and, where the step uses one, device.
        videos: the step's videos; those finished already are counted but not done again.
        skipped: (video, why the data set does not allow it); goes to the ledger.
    """
    devices = list_devices(args.device) if hasattr(args, "device") and args.device != "auto" else None
    workers = worker_count(args.workers, devices or ["cpu"])  # now, so that wrong values are told even if all is done
    if not 0 <= args.max_failed <= 1:
        raise UsageError(f"--max-failed {args.max_failed}: a fraction from 0 to 1 is expected, such as 0.05")
    started = time.monotonic()
    ledger = Ledger(ledger_path(args.root_dir, step.name), len(videos))
    ledger.skip(skipped)
    tally = _Tally(ledger)

    todo, complete = (list(videos), 0) if args.force else _left_to_do(step, videos, tally)
    if todo:
        if devices is None and hasattr(args, "device"):  # auto: PyTorch is loaded only now that there is work
            devices = list_devices(args.device)
            workers = min(workers, worker_count(args.workers, devices))
        outcomes = do_all(step, todo, workers, devices or ["cpu"])
        with contextlib.closing(outcomes), progress_bar(total=len(todo), desc=step.name, unit="video") as bar:
            for video, outcome in outcomes:
                tally.take(video, outcome)
                bar.update()
                if tally.failed:
                    bar.set_postfix(failed=tally.failed, refresh=False)
    ledger.finish()
    return _conclude(step.name, ledger, tally, len(videos), complete, args.max_failed, time.monotonic() - started)


def _left_to_do(step: Step, videos: Sequence[Video], tally: _Tally) -> tuple[list[Video], int]:
    """The videos whose artifact is missing or stale, and how many are complete; all but the former are counted."""

    def look(video: Video) -> Outcome | None:
        return outcome_of(step.check, video)

    todo, complete = [], 0
    checked = disk_map(look, videos)
    bar = progress_bar(checked, total=len(videos), desc=f"{step.name}: checking", unit="video", delay=3)
    for video, outcome in zip(videos, bar, strict=True):
        if outcome is None:
            todo.append(video)
        else:
            tally.take(video, outcome)
            complete += isinstance(outcome, dict)
    return todo, complete


def _conclude(
    name: str, ledger: Ledger, tally: _Tally, videos: int, complete: int, max_failed: float, seconds: float
) -> int:
    """Print what came out; the exit status."""
    counts = ledger.counts()
    made = ", ".join(f"{number} {kind}" for kind, number in tally.made.items()) or "nothing made"
    print(
        f"{name}: {videos} videos ({complete} were complete), {made}; {counts['failed']} failed, "
        f"{counts['skipped']} skipped, {counts['incomplete']} incomplete; {seconds:.1f} s"
    )
    if counts:
        print(f"  reasons: {ledger.path}")
    for video, reason in ledger.rows("failed"):
        print(f"  failed: {video}: {reason}", file=sys.stderr)
    if videos and counts["failed"] > max_failed * videos:
        print(
            f"{name}: {counts['failed']} of {videos} videos failed, more than --max-failed {max_failed:g} "
            f"allows. Look at {ledger.path}; mend those videos, name them in {REJECTED_NAME}, or raise --max-failed",
            file=sys.stderr,
        )
        return 1
    return 0
