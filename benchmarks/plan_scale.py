"""Hours, bytes and files of each step for a dataset of any size, from the cost of a video and of a crop.

    python benchmarks/plan_scale.py --cores 64 --disk 400 --network 1000
    python benchmarks/plan_scale.py --cores 64 --measure VIDEO.mp4 VIDEO.mp4

Nothing of that size is run. Each cost is a flag; the defaults were measured (benchmarks/RESULTS.md, "The full set,
planned"). --measure measures the costs of steps 1 to 4 on this machine first, on one core or with --device cuda. It
uses each given video as an original, and a re-encoded copy of it as a fake. Give videos like yours: costs grow with
length and frame size.

A step takes as long as its slowest resource, the bottleneck: processors, disk, files (each is created and synced) or
network. All figures are of all machines together, perfectly balanced. Reads count even if the file is in memory. GPUs
are used where their cost is known; those costs have no default, because none was measured.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dfdc.devices import keep_freed_memory, limit_threads
from dfdc.layout import FAKE, REAL, Video
from dfdc.video import VideoReader, write_video

SEEDS, EPOCHS, STEPS, BATCH = 5, 40, 2500, 24  # train.sh with configs/b7.json on two GPUs
FRAMES = 32  # of a video that predict_folder.py scores; one face each
ROW_BYTES = 60  # of folds.csv
GB, TB = 1e9, 1e12


def setting(default: float | None, text: str, *, above_0: bool = False) -> Any:
    """A field that is also a flag."""
    return field(default=default, metadata={"help": text, "above_0": above_0})


@dataclass(frozen=True)
class Data:
    """How much there is; the defaults are the DFDC training set."""

    videos: float = setting(119_000, "videos")
    reals: float = setting(19_000, "how many of them are REAL")
    crops: float = setting(34, "crops per video")
    video_mb: float = setting(3.95, "megabytes per video")
    scored: float = setting(10_000, "videos to score with predict_folder.py")
    checkpoints: float = setting(5, "checkpoints that score them")


@dataclass(frozen=True)
class Costs:
    """Seconds of one core or one GPU, and sizes."""

    detect_s: float = setting(4.3, "step 1: core-seconds per REAL video")
    crop_s: float = setting(2.4, "step 2: core-seconds per video, with its crops")
    landmark_ms: float = setting(14.5, "step 3: core-milliseconds per crop of a REAL video")
    mask_ms: float = setting(21.3, "step 4: core-milliseconds per crop of a FAKE")
    list_ms: float = setting(0.8, "step 5: milliseconds per video; it uses one core")
    row_us: float = setting(4.2, "step 5: microseconds per crop")
    read_s: float = setting(1.9, "scoring: core-seconds per video to decode it and detect faces")
    face_s: float = setting(0.5, "scoring: core-seconds per face and checkpoint (EfficientNet-B7, fp32)")
    train_s: float = setting(1.6, "training: core-seconds per crop (EfficientNet-B7)")
    gpu_detect_s: float | None = setting(None, "step 1: GPU-seconds per REAL video")
    gpu_landmark_ms: float | None = setting(None, "step 3: GPU-milliseconds per crop")
    gpu_face_ms: float | None = setting(None, "scoring: GPU-milliseconds per face and checkpoint")
    gpu_train_ms: float | None = setting(None, "training: GPU-milliseconds per crop")
    boxes_kb: float = setting(5.5, "kilobytes of boxes per REAL video")
    crop_kb: float = setting(116, "kilobytes per crop")
    landmarks_kb: float = setting(0.15, "kilobytes of landmarks per crop")
    mask_kb: float = setting(38.6, "kilobytes per mask")


@dataclass(frozen=True)
class Machine:
    """What all machines have together."""

    cores: float = setting(2, "CPU cores", above_0=True)
    gpus: float = setting(0, "GPUs")
    disk: float = setting(500, "megabytes per second that the storage reads or writes", above_0=True)
    files: float = setting(5800, "files per second that the storage creates and syncs", above_0=True)
    network: float | None = setting(None, "megabytes per second to the storage (default: a local disk)", above_0=True)


@dataclass(frozen=True)
class Work:
    """What a step has to do.

    Attributes:
        core_s: core-seconds; None if GPUs do the work.
        gpu_s: GPU-seconds; None if there is no GPU or no figure for it.
        one_core: whether it can't be divided.
    """

    name: str
    core_s: float
    gpu_s: float | None = None
    read: float = 0.0  # bytes
    written: float = 0.0
    files: float = 0.0
    one_core: bool = False


@dataclass(frozen=True)
class Row:
    """A step with the hours that each resource needs for it."""

    work: Work
    hours_by: dict[str, float]

    @property
    def bottleneck(self) -> str:
        return max(self.hours_by, key=self.hours_by.__getitem__)

    @property
    def hours(self) -> float:
        return self.hours_by[self.bottleneck]


def list_work(data: Data, costs: Costs) -> list[Work]:
    """What each step has to do."""
    fakes, video, crop = data.videos - data.reals, data.video_mb * 1e6, costs.crop_kb * 1e3
    all_crops, real_crops, pairs = (count * data.crops for count in (data.videos, data.reals, fakes))
    faces = data.scored * FRAMES * data.checkpoints
    trained = SEEDS * EPOCHS * STEPS * BATCH
    mask = costs.mask_kb * 1e3

    def on_gpu(count: float, each: float | None) -> float | None:
        return None if each is None else count * each

    return [
        Work(
            "1 faces",
            data.reals * costs.detect_s,
            on_gpu(data.reals, costs.gpu_detect_s),
            read=data.reals * video,
            written=data.reals * costs.boxes_kb * 1e3,
            files=data.reals,
        ),
        Work(
            "2 crops",
            data.videos * costs.crop_s,
            read=data.videos * video,
            written=all_crops * crop,
            files=all_crops + data.videos,  # one stamp per folder; so below
        ),
        Work(
            "3 landmarks",
            real_crops * costs.landmark_ms / 1e3,
            on_gpu(real_crops / 1e3, costs.gpu_landmark_ms),
            read=real_crops * crop,
            written=real_crops * costs.landmarks_kb * 1e3,
            files=real_crops + data.reals,
        ),
        Work(
            "4 masks",
            pairs * costs.mask_ms / 1e3,
            read=2 * pairs * crop,
            written=pairs * mask,
            files=pairs + fakes,
        ),
        Work(
            "5 folds",
            data.videos * costs.list_ms / 1e3 + all_crops * costs.row_us / 1e6,
            written=all_crops * ROW_BYTES,
            files=2,
            one_core=True,
        ),
        Work(
            "training, 5 seeds",
            trained * costs.train_s,
            on_gpu(trained / 1e3, costs.gpu_train_ms),
            read=trained * (crop + mask / 2),  # half of the crops are fakes and have a mask
        ),
        Work(
            f"scoring, {data.scored:,.0f} videos",
            data.scored * costs.read_s + faces * costs.face_s,
            on_gpu(faces / 1e3, costs.gpu_face_ms),
            read=data.scored * video,
        ),
    ]


def plan(data: Data, costs: Costs, machine: Machine) -> list[Row]:
    """The hours of each step by resource."""
    rows = []
    for work in list_work(data, costs):
        moved = (work.read + work.written) / 1e6
        seconds = {"disk": moved / machine.disk, "files": work.files / machine.files}
        if machine.network is not None:
            seconds["network"] = moved / machine.network
        if machine.gpus and work.gpu_s is not None:
            seconds["GPUs"] = work.gpu_s / machine.gpus
        else:
            seconds["cores"] = work.core_s / (1 if work.one_core else machine.cores)
        rows.append(Row(work, {name: value / 3600 for name, value in seconds.items()}))
    return rows


def show(rows: Sequence[Row], data: Data, costs: Costs, machine: Machine) -> None:
    """Print the plan as a table, and what it needs in all."""
    where = "a local disk" if machine.network is None else f"{machine.network:g} MB/s of network"
    print(
        f"{data.videos:,.0f} videos ({data.reals:,.0f} real), {data.crops:g} crops each; {machine.cores:g} cores, "
        f"{machine.gpus:g} GPUs, {machine.disk:g} MB/s and {machine.files:g} files/s of disk, {where}\n"
    )
    print("| step | core-hours | GPU-hours | GB read | GB written | files | hours | bottleneck |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        work, on_gpu = row.work, "GPUs" in row.hours_by
        spent = ("-", f"{(work.gpu_s or 0) / 3600:,.1f}") if on_gpu else (f"{work.core_s / 3600:,.1f}", "-")
        sizes = f"{work.read / GB:,.1f} | {work.written / GB:,.1f} | {work.files:,.0f}"
        why = f"{row.bottleneck} (one)" if work.one_core and row.bottleneck == "cores" else row.bottleneck
        print(f"| {work.name} | {spent[0]} | {spent[1]} | {sizes} | {row.hours:,.2f} | {why} |")
    steps = rows[:5]
    longest = max(steps, key=lambda row: row.hours)
    written, files = sum(row.work.written for row in steps), sum(row.work.files for row in steps)
    print(
        f"\nsteps 1 to 5: {sum(row.hours for row in steps):,.1f} hours, of which step {longest.work.name} takes "
        f"{longest.hours:,.1f} ({longest.bottleneck}); {written / TB:.2f} TB and {files:,.0f} files beside "
        f"{data.videos * data.video_mb * 1e6 / TB:.2f} TB of videos"
    )
    if machine.gpus and None in (costs.gpu_detect_s, costs.gpu_landmark_ms, costs.gpu_face_ms, costs.gpu_train_ms):
        print("Steps with core-hours run on the CPU here, because no --gpu- flag gives their cost on a GPU.")


# ------------------------------------------------------------------------------------------- measuring
def measure(videos: Sequence[Path], device: str) -> tuple[Data, Costs]:
    """Measure steps 1 to 4 on `videos`: averages per video and per crop, as far as they don't depend on the dataset.

    Each step's work is called as in one of its workers, for the first video once more before, unmeasured.
    """
    from preprocessing.crop_step import CropStep
    from preprocessing.detect_step import DetectStep
    from preprocessing.diff_step import DiffStep
    from preprocessing.landmark_step import LandmarkStep

    keep_freed_memory()
    limit_threads(1)
    gpu = device.startswith("cuda")
    with tempfile.TemporaryDirectory(prefix="plan_scale_") as folder:
        root = Path(folder)
        reals, fakes = make_families(root, videos)
        everything = [*reals, *fakes]
        steps = [DetectStep(root, "auto"), CropStep(root, "crops"), LandmarkStep(root), DiffStep(root, "crops")]
        seconds = []
        for step, work_on in zip(steps, (reals, everything, reals, fakes), strict=True):
            step.start(device)
            step.work(work_on[0])
            clock = time.perf_counter if gpu else time.process_time
            started = clock()
            for video in work_on:
                step.work(video)
            seconds.append(clock() - started)
        boxes, crops, landmarks, masks = (
            measure_files(root / name) for name in ("bboxes", "crops", "landmarks", "diffs")
        )
    detect, landmark = seconds[0] / len(reals), 1e3 * seconds[2] / landmarks[0]
    found: dict[str, float] = {
        ("gpu_detect_s" if gpu else "detect_s"): detect,
        ("gpu_landmark_ms" if gpu else "landmark_ms"): landmark,
        "crop_s": seconds[1] / len(everything),
        "mask_ms": 1e3 * seconds[3] / masks[0],
        "boxes_kb": boxes[1] / boxes[0] / 1e3,
        "crop_kb": crops[1] / crops[0] / 1e3,
        "landmarks_kb": landmarks[1] / landmarks[0] / 1e3,
        "mask_kb": masks[1] / masks[0] / 1e3,
    }
    data = Data(
        crops=crops[0] / len(everything), video_mb=sum(path.stat().st_size for path in videos) / len(videos) / 1e6
    )
    return data, Costs(**found)


def make_families(root: Path, videos: Sequence[Path]) -> tuple[list[Video], list[Video]]:
    """The given videos as originals in a DATA_ROOT, and a re-encoded copy of each as its fake."""
    part = root / "part"
    part.mkdir()
    reals, fakes = [], []
    for number, path in enumerate(videos):
        (part / f"real{number}.mp4").symlink_to(path.resolve())
        real = Video(f"real{number}", part / f"real{number}.mp4", part.name, REAL, None)
        fake = Video(f"fake{number}", part / f"fake{number}.mp4", part.name, FAKE, real.id)
        with VideoReader(path) as reader:
            frames = (np.asarray(frame) for _, frame in reader.frames())
            write_video(fake.path, frames, fps=float(reader.fps or 30))
        reals.append(real)
        fakes.append(fake)
    return reals, fakes


def measure_files(folder: Path) -> tuple[int, int]:
    """Number and bytes of the files under `folder`, without stamps."""
    sizes = [path.stat().st_size for path in folder.rglob("[!.]*") if path.is_file()]
    return len(sizes), sum(sizes)


# ---------------------------------------------------------------------------------------- command line
def amount(text: str, *, above_0: bool = False) -> float:
    """argparse type: a finite number of at least 0, or above 0."""
    value = float(text)
    if not (math.isfinite(value) and value >= 0) or (above_0 and not value):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number {'above' if above_0 else 'of at least'} 0")
    return value


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for kind in (Data, Machine, Costs):
        group = parser.add_argument_group((kind.__doc__ or "").rstrip("."))
        for item in fields(kind):
            default = "" if item.default is None else f" (default: {item.default:,})"
            flag = f"--{item.name.replace('_', '-')}"
            parse = partial(amount, above_0=item.metadata["above_0"])
            group.add_argument(flag, type=parse, metavar="N", help=item.metadata["help"] + default)
    group = parser.add_argument_group("measuring")
    text = "measure the costs of steps 1 to 4 on these videos; flags take precedence"
    group.add_argument("--measure", type=Path, nargs="+", default=[], metavar="VIDEO", help=text)
    group.add_argument("--device", default="cpu", help="measure steps 1 and 3 on cpu or cuda (default: cpu)")
    args = parser.parse_args(argv)
    missing = [str(path) for path in args.measure if not path.is_file()]
    if missing:
        parser.error(f"no such video: {', '.join(missing)}")
    return args


def settle(known: Any, args: argparse.Namespace) -> Any:
    """`known` with the values of the flags that were given."""
    given = {item.name: getattr(args, item.name) for item in fields(known)}
    return replace(known, **{name: value for name, value in given.items() if value is not None})


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    data, costs = Data(), Costs()
    if args.measure:
        data, costs = measure(args.measure, args.device)
        shown = (
            f"--{item.name.replace('_', '-')} {getattr(costs, item.name):.3g}"
            for item in fields(costs)
            if getattr(costs, item.name) != item.default
        )
        print(f"costs: {' '.join(shown)} --crops {data.crops:.3g} --video-mb {data.video_mb:.3g}\n")
    data, costs, machine = settle(data, args), settle(costs, args), settle(Machine(), args)
    show(plan(data, costs, machine), data, costs, machine)


if __name__ == "__main__":
    main()
