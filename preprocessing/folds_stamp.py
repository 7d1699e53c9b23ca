"""Options and folds of an earlier step 5, read from its stamp or from a folds.csv without a stamp.

A score is meaningful only if the model never saw the hold-out. Therefore a hold-out is permanent: later runs use the
options and folds of the first run until the user changes them with --force.
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

VERSION: Final = 1  # of the stamp format and of the fold assignment


@dataclass(frozen=True)
class Options:
    """Options that decide folds.csv, besides the data.

    Attributes:
        n_splits: number of folds, excluding the hold-out of `val_ids`.
        seed: seed of the row order.
        val_ids: sorted ids of the videos held out as fold 0; None: folds consist of whole parts.
        crops_dir: folder of the crops, in DATA_ROOT.
        similar: largest distance in bits of similar crops, for the leak check; None disables this check.
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
    """Content of the stamp file beside a folds.csv.

    Attributes:
        version: version of this format.
        assignment: the assigned folds; with `val_ids`, the numbers in folds.csv are higher by one.
        digest: digest of the listed videos, folds and crops, without paths, so that the dataset can be moved.
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
    """Return the path of the stamp of the folds.csv `target`."""
    return target.with_name(f".{target.name}{artifacts.STAMP_NAME}")


def read_folds_stamp(path: Path) -> FoldsStamp | None:
    """Return the stamp; None if it is missing, invalid or from another version.

    Raises:
        OSError: the stamp exists but can't be read.
    """
    kept = artifacts.read_json(path)
    try:
        # Require every key: a default for a missing key could remove a hold-out.
        parts = ((kept, FoldsStamp), (kept["options"], Options), (kept["assignment"], Assignment))
        whole = all(part.keys() >= {key.name for key in fields(kind)} for part, kind in parts)
        return _STAMP.validate_python(kept) if whole else None
    except (KeyError, TypeError, AttributeError, ValueError):
        return None


def listed_digest(listings: Iterable[Listing], options: Options) -> str:
    """Return a digest of all inputs of folds.csv and of the leak check."""
    rows = [(x.video.id, x.video.label, x.video.source, x.family, x.fold, x.content) for x in listings]
    return identity.digest_of([(VERSION, options.seed, options.similar), rows])


def choose_options(given: Mapping[str, Any], earlier: Options, *, force: bool) -> Options:
    """Return the earlier options updated with `given` (fields of `Options`).

    Raises:
        UsageError: a given option differs, without `force`; the message lists the differences.
    """
    options = replace(earlier, **given)
    old, new = asdict(earlier), asdict(options)
    # `similar` decides whether folds.csv is written, but not its content.
    other = [name for name in old if old[name] != new[name] and name != "similar"]
    changes = [f"{setting(name)} from {_shown(name, old[name])} to {_shown(name, new[name])}" for name in other]
    if changes and not force:
        raise UsageError(
            f"folds.csv was made with other options, and a hold-out must not change by accident. This run would change "
            f"{'; '.join(changes)}. Omit the option to keep the old value, or change it with {by_force()}"
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
    """Infer options and folds from a folds.csv without a stamp; other options come from `given` or the defaults.

    Fold 0 counts as a hold-out of single videos if it splits a part. Otherwise, relatives of its videos may be missing
    from the file. If they number at least half of its videos, the case is ambiguous: their crops may be newer.

    Args:
        rows: rows of the file.
        listed: ids of the videos that can be listed now.
        given: fields of `Options` from the command line.

    Raises:
        ValueError: the file belongs to another dataset, or this step did not write it.
        UsageError: it is ambiguous whether fold 0 is a hold-out.
    """
    folds = _video_folds(rows, dataset)
    videos = dataset.videos | {name: skipped.video for name, skipped in dataset.skipped.items()}
    zero = tuple(sorted(name for name, fold in folds.items() if fold == 0))
    part_folds: dict[str, set[int]] = defaultdict(set)  # keyed by the original's part, so that families count too
    for name, fold in folds.items():
        part_folds[videos.get(videos[name].source, videos[name]).part].add(fold)
    originals_held = {videos[name].source for name in zero}
    split = any(0 in found and len(found) > 1 for found in part_folds.values())
    left_out = sum(name not in folds and videos[name].source in originals_held for name in listed)
    if zero and not split and 2 * left_out >= len(zero) and "val_ids" not in given:
        raise UsageError(
            f"folds.csv has no stamp of this version, and {plural(left_out, 'relative')} of the videos in its fold 0 "
            f"can be listed but are missing from it. If {setting('val_ids')} made fold 0, pass the same file again; "
            f"otherwise pass {setting('val_ids')} none"
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
    """Return the fold of each video; ValueError: rows contradict metadata.json, or it lists none of the videos."""
    videos = dataset.videos | {name: skipped.video for name, skipped in dataset.skipped.items()}
    folds: dict[str, int] = {}
    for row in rows:
        video = videos.get(row.video)
        if video is None:
            continue
        if (row.label, row.original) != (int(video.label == FAKE), video.source):
            raise ValueError(f"label or original of {row.video} differs from metadata.json")
        if row.fold < 0 or folds.setdefault(row.video, row.fold) != row.fold:
            raise ValueError(f"{row.video} is in several folds or in a negative fold")
    if not folds:
        raise ValueError("no metadata.json lists any of its videos")
    return folds
