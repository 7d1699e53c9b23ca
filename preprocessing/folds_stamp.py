"""What an earlier step 5 left behind: the options and folds in its stamp, or in a folds.csv that has none.

A model's score means something only if it never saw what is held out. So a hold-out, once made, stays: the options and
folds of the first run are those of all later ones, until somebody asks for others with --force.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, TypeAdapter

from dfdc import artifacts, identity
from dfdc.command_line import UsageError, setting
from dfdc.folds import FoldsRow
from dfdc.layout import CROPS_DIR, FAKE, Dataset
from dfdc.text import plural
from preprocessing.fold_assignment import Assignment, Listing, by_force
from preprocessing.likeness import NEAR_BITS

VERSION: Final = 1  # of the stamp, and of the way from crops to folds.csv


@dataclass(frozen=True)
class Options:
    """What folds.csv depends on besides the data.

    Attributes:
        n_splits: number of folds, the hold-out of `val_ids` aside.
        seed: decides the order of the rows.
        val_ids: the videos that are held out as fold 0, sorted; None: none but by part.
        crops_dir: folder of the crops, in DATA_ROOT.
        similar: largest distance of near crops in bits, for the leak check; None: that is not looked at.
    """

    n_splits: Annotated[int, Field(ge=2)] = 16
    seed: Annotated[int, Field(ge=0)] = 777
    val_ids: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    crops_dir: str = CROPS_DIR
    similar: Annotated[int, Field(ge=0, le=64)] | None = NEAR_BITS

    def __str__(self) -> str:
        return ", ".join(f"{setting(name)} {_shown(name, value)}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class FoldsStamp:
    """What stands beside a folds.csv.

    Attributes:
        version: of this layout.
        assignment: the folds given out; where `val_ids` are held out, those in the file are one higher.
        digest: of what the file lists, without a path: a data set that is moved is the same.
        file: `identity.fingerprint` of the file.
    """

    version: Literal[1] = field(default=VERSION, kw_only=True)
    options: Options
    assignment: Assignment
    digest: str
    file: dict[str, Any]

    def write(self, path: Path) -> None:
        artifacts.write_json(path, asdict(self))


_STAMP = TypeAdapter(FoldsStamp)


def stamp_path(target: Path) -> Path:
    """Where the stamp of the folds.csv `target` lies."""
    return target.with_name(f".{target.name}{artifacts.STAMP_NAME}")


def read_folds_stamp(path: Path) -> FoldsStamp | None:
    """The stamp; None if there is none, or it is not one that this version writes.

    Raises:
        OSError: it is there, but can't be read.
    """
    kept = artifacts.read_json(path)
    try:
        # All of them: a default in the place of what was lost would take a hold-out back.
        parts = ((kept, FoldsStamp), (kept["options"], Options), (kept["assignment"], Assignment))
        whole = all(part.keys() >= {key.name for key in fields(kind)} for part, kind in parts)
        return _STAMP.validate_python(kept) if whole else None
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


def listed_digest(listings: Iterable[Listing], options: Options) -> str:
    """Digest of all that folds.csv is made from, and of what the leak check looks at."""
    rows = [(x.video.id, x.video.label, x.video.source, x.family, x.fold, x.content) for x in listings]
    return identity.digest_of([(VERSION, options.seed, options.similar), rows])


def choose_options(given: Mapping[str, Any], earlier: Options, *, force: bool) -> Options:
    """The earlier options with those `given` now (fields of `Options`), which may differ only by `force`.

    Raises:
        UsageError: they differ; the message says in what.
    """
    options = replace(earlier, **given)
    old, new = asdict(earlier), asdict(options)
    # What looks alike decides whether folds.csv is written, not what stands in it.
    other = [name for name in old if old[name] != new[name] and name != "similar"]
    changes = [f"{setting(name)} from {_shown(name, old[name])} to {_shown(name, new[name])}" for name in other]
    if changes and not force:
        raise UsageError(
            f"folds.csv was made with other options, and a hold-out must not change by accident. This would change "
            f"{'; '.join(changes)}. Leave that out to keep it, or do it with {by_force()}"
        )
    return options


def _shown(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return f"{plural(len(value), 'video')} ({', '.join(value[:3])}{', ...' if len(value) > 3 else ''})"
    if value is None:
        return "off" if name == "similar" else "none"
    return str(value)


def adopt(
    rows: Sequence[FoldsRow], dataset: Dataset, listed: Iterable[str], given: Mapping[str, Any]
) -> tuple[Options, Assignment]:
    """Options and folds of a folds.csv without a stamp; what it does not tell is as given, or as by default.

    Fold 0 is taken for a hold-out of single videos if it splits a part. If it does not, but many relatives of its
    videos (half as many as these, or more) are not in the file, nobody can tell: they may have got their crops since.

    Args:
        rows: what the file says.
        listed: ids of the videos that can be listed now.
        given: fields of `Options` that stand on the command line.

    Raises:
        ValueError: the file is of another data set, or nothing that this step writes.
        UsageError: whether fold 0 is a hold-out can't be told.
    """
    folds = _video_folds(rows, dataset)
    videos = dataset.videos | {name: skipped.video for name, skipped in dataset.skipped.items()}
    zero = tuple(sorted(name for name, fold in folds.items() if fold == 0))
    part_folds: dict[str, set[int]] = defaultdict(set)  # by the part of a video's original, so that families count too
    for name, fold in folds.items():
        part_folds[videos.get(videos[name].source, videos[name]).part].add(fold)
    originals_held = {videos[name].source for name in zero}
    split = any(0 in found and len(found) > 1 for found in part_folds.values())
    left_out = sum(name not in folds and videos[name].source in originals_held for name in listed)
    if zero and not split and 2 * left_out >= len(zero) and "val_ids" not in given:
        raise UsageError(
            f"folds.csv has no stamp of this version, and {plural(left_out, 'relative')} of the videos in its fold 0 "
            f"can be listed but are not in it. Was fold 0 made by {setting('val_ids')}? Then give that again, else "
            f"{setting('val_ids')} none"
        )
    held = zero if zero and (split or given.get("val_ids") == zero) else None

    counts: dict[str, Counter[int]] = defaultdict(Counter)
    assignment = Assignment()
    for name, fold in folds.items():
        if held is not None and fold == 0:
            continue
        source, base = videos[name].source, fold - (held is not None)
        if assignment.originals.setdefault(source, base) != base:
            raise ValueError(f"{source} and its fakes are in several folds")
        counts[videos.get(source, videos[name]).part].update([base])
    assignment.parts = {part: min(found, key=lambda fold: (-found[fold], fold)) for part, found in counts.items()}
    used = max(assignment.originals.values(), default=0) + 1
    n_splits = given.get("n_splits", 0)
    unknown = {name: value for name, value in given.items() if name in ("seed", "crops_dir", "similar")}
    n_splits = n_splits if n_splits >= used else max(used, Options.n_splits)
    return Options(n_splits=n_splits, val_ids=held, **unknown), assignment


def _video_folds(rows: Sequence[FoldsRow], dataset: Dataset) -> dict[str, int]:
    """The fold of each video in metadata.json; ValueError: that says something else, or has none of the videos."""
    videos = dataset.videos | {name: skipped.video for name, skipped in dataset.skipped.items()}
    folds: dict[str, int] = {}
    for row in rows:
        video = videos.get(row.video)
        if video is None:
            continue
        if (row.label, row.original) != (int(video.label == FAKE), video.source):
            raise ValueError(f"label and original of {row.video} are not those of metadata.json")
        if row.fold < 0 or folds.setdefault(row.video, row.fold) != row.fold:
            raise ValueError(f"{row.video} is in several folds, or in one below 0")
    if not folds:
        raise ValueError("no metadata.json names one of its videos")
    return folds
