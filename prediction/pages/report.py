"""The report of a run: a page for each verdict and an index, written by `predict_folder.py --report DIR`.

DIR/videos/ has one page per video, DIR/index.html and DIR/index-page-2.html and so on list them. Each page is one file
that needs no network. A video is read again only if its page has to be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dfdc import artifacts
from dfdc.devices import package_versions
from dfdc.progress import progress_bar
from networks.ensemble import Ensemble
from networks.files import sha256
from prediction.decoding import Decoder
from prediction.pages import kept, views
from prediction.pages.index import build_index, index_name
from prediction.pages.pictures import find_fault, read_pictures, shrink
from prediction.pages.views import Made, Pictures
from prediction.verdict import Verdict

_PAGE = re.compile(r"[A-Za-z0-9-]+-[0-9a-f]{12}\.html")  # as `page_name` makes them
_INDEX = re.compile(r"index-page-[0-9]+\.html")
INDEX_SIDE = 96  # pixels, the longer side of a thumbnail in the index
PACKAGES = (
    "torch",
    "openvino",
    "torchvision",
    "timm",
    "facenet-pytorch",
    "numpy",
    "opencv-python-headless",
    "av",
    "grad-cam",
)


def make_report(
    folder: Path,
    verdicts: Sequence[Verdict],
    settings: dict[str, Any],
    warnings: Sequence[str],
    checkpoints: Mapping[str, Path],
    load: Callable[[], Ensemble],
    files: Mapping[str, Any],
) -> Path:
    """Write the pages that differ from those in `folder`; the index comes last, so its links lead to pages.

    Args:
        folder: created if missing; pages of videos that are not in `verdicts` are removed.
        verdicts: as in submission.json.
        settings: the settings of the run.
        warnings: what weakens every verdict, as in submission.json.
        checkpoints: the files by name, in the order of the faces' scores.
        load: returns the ensemble of these checkpoints for the heat maps; called only if a heat map is needed.
        files: the fingerprint of each video when it was scored, by name (see `Progress`).

    Returns:
        the path of the index.

    Raises:
        OSError: a page can't be written.
    """
    versions = {"Python": platform.python_version(), **package_versions(PACKAGES, "of unknown version")}
    made = Made(settings, {name: sha256(path) for name, path in checkpoints.items()}, versions, warnings)
    for place in (folder, folder / "videos"):
        artifacts.remove_leftovers(place)
    pages = {verdict.filename: f"videos/{page_name(verdict.filename)}" for verdict in verdicts}
    small = _write_videos(folder, verdicts, pages, made, load, files)
    index = build_index(verdicts, pages, small, made)
    for name in reversed(index):
        artifacts.write_bytes(folder / name, index[name])
    _remove_others(folder, {*pages.values(), *index})
    return folder / index_name(1)


def page_name(filename: str) -> str:
    """A file name that is safe anywhere and differs for every video, even without regard to case."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", filename).strip("-")[:60]
    return f"{plain or 'video'}-{hashlib.sha256(os.fsencode(filename)).hexdigest()[:12]}.html"


def _write_videos(
    folder: Path,
    verdicts: Sequence[Verdict],
    pages: Mapping[str, str],
    made: Made,
    load: Callable[[], Ensemble],
    files: Mapping[str, Any],
) -> dict[str, bytes]:
    """Write the pages of videos that changed; return the thumbnails of all videos for the index, by name."""
    small: dict[str, bytes] = {}
    todo: list[tuple[Verdict, str, str]] = []  # with the fault of its file, and the digest of its page
    for verdict in verdicts:
        name, recorded = verdict.filename, files.get(verdict.filename)
        fault = find_fault(verdict, recorded)
        digest = kept.digest_of_page(verdict, made, recorded, fault)
        page = kept.read_kept(folder / pages[name], digest)
        if page is None:
            todo.append((verdict, fault, digest))
        elif page.thumbnail:
            small[name] = shrink(page.thumbnail, INDEX_SIDE)
    load = cache(load)
    with contextlib.closing(Decoder()) as decoder:
        for verdict, fault, digest in progress_bar(todo, desc="report", unit="page"):
            pictures = Pictures(fault) if fault else read_pictures(verdict, load, decoder)
            lead = views.lead_thumbnail(verdict, pictures)
            if lead:
                small[verdict.filename] = shrink(lead, INDEX_SIDE)
            # A failed read may be transient: without a digest, the next run retries it.
            stored = "" if pictures.fault and not fault else digest
            data = views.build_video(verdict, pictures, made, stored)
            artifacts.write_bytes(folder / pages[verdict.filename], data, durable=False)
    return small


def _remove_others(folder: Path, current: set[str]) -> None:
    """Remove pages of an earlier report that no index links to any more."""
    for old in [*(folder / "videos").glob("*.html"), *folder.glob("index-page-*.html")]:
        name = old.relative_to(folder).as_posix()
        if name not in current and (_INDEX if old.parent == folder else _PAGE).fullmatch(old.name):
            old.unlink()
