"""The winners' published checkpoints: their names, and a resumable download.

A file is downloaded under a hidden name, with the server's version of it (ETag) beside it. So a stopped download can be
resumed, and two versions are never joined. The file gets its final name after it is validated as a B7 checkpoint.
"""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import requests
from requests.exceptions import ChunkedEncodingError, InvalidSchema, InvalidURL, MissingSchema, Timeout
from tqdm import tqdm

from dfdc import locks
from dfdc.artifacts import sha256_of, write_bytes
from dfdc.command_line import UserError
from dfdc.progress import progress_bar
from dfdc.text import printable
from networks.checkpoint import load_model
from networks.files import CHECKSUM_SUFFIX
from networks.spec import CheckpointError

_ENCODER = "tf_efficientnet_b7.ns_jft_in1k"
_NAME = "final_{}_DeepFakeClassifier_tf_efficientnet_b7_ns_0_{}"
# Seed and epoch. https://github.com/selimsef/dfdc_deepfake_challenge, download_weights.sh
_SUBMITTED = ((111, 36), (555, 19), (777, 29), (777, 31), (888, 37), (888, 40), (999, 23))
SEVEN = tuple(_NAME.format(*pair) for pair in _SUBMITTED)
FIVE = tuple(_NAME.format(*pair) for pair in dict(_SUBMITTED).items())  # a later epoch replaces an earlier one

_ATTEMPTS = 5  # consecutive attempts without new data
_WAIT_S = 2.0  # before the first retry; doubled for each further one
_TIMEOUT_S = 30.0  # to connect, and between two chunks of a file
_PIECE = 1 << 16  # chunk size in bytes; an incomplete chunk is discarded
_SPARE = 100 << 20  # bytes to keep free on the disk


class DownloadError(UserError):
    """A checkpoint that could not be downloaded; the message names the file or URL and says what to do."""

    status = 1


def download(names: Sequence[str], folder: Path, url: str) -> None:
    """Download the files `names` from `url` to `folder`, and print a line for each.

    An existing file is verified against its stored SHA-256; without one, it is validated and its SHA-256 stored.

    Raises:
        DownloadError: an error of the server, network, disk or file. Complete files are kept, and the next call
            resumes an incomplete one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locks.only_one(folder / ".download.lock", partial(_refusal, folder)):
        for number, name in enumerate(names, 1):
            target = folder / name
            if target.exists():
                said = _compare(target)
            else:
                print(f"{number} of {len(names)}: {printable(target)}", flush=True)
                _fetch(f"{url.rstrip('/')}/{name}", target, f"{number}/{len(names)}")
                said = "downloaded"
            print(f"{printable(target)}: {said}", flush=True)


def _refusal(folder: Path, owner: str) -> DownloadError:
    return DownloadError(f"{folder}: another download is writing here ({owner}); wait until it ends")


def _compare(target: Path) -> str:
    """Verify a file against its stored SHA-256; without one, validate the file and store its SHA-256."""
    stored, found = _checksum_file(target), sha256_of(target)
    if stored.is_file():
        if stored.read_text().split()[:1] != [found]:
            raise DownloadError(
                f"{target}: its SHA-256 differs from the one in {stored.name}. Remove both files and run this again"
            )
        return "already there, SHA-256 verified"
    _check(target)
    _store(stored, found, target.name)
    return "already there, a valid B7 checkpoint"


def _checksum_file(target: Path) -> Path:
    return target.with_name(target.name + CHECKSUM_SUFFIX)


def _store(path: Path, checksum: str, name: str) -> None:
    write_bytes(path, f"{checksum}  {name}\n".encode())  # the format of sha256sum


def _check(path: Path, source: str = "") -> None:
    """Validate that `path` is a B7 checkpoint; reads the whole file.

    Raises:
        DownloadError: it is corrupt or something else; `source` is the URL it came from.
    """
    advice = f"; {source} may not be the file, open it in a browser" if source else "; remove it and run again"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise DownloadError(f"{path}: its member {printable(damaged)} has a wrong checksum{advice}")
        encoder = load_model(path, mapped=True)[1].spec.encoder
    except (CheckpointError, zipfile.BadZipFile) as error:
        raise DownloadError(f"{error}{advice}") from error
    if encoder != _ENCODER:
        raise DownloadError(f"{path}: a checkpoint of {encoder}, not of {_ENCODER}{advice}")


def _fetch(url: str, target: Path, count: str) -> None:
    """Download a file, resuming an earlier call; validate it and move it to its final name."""
    part = target.with_name(f".{target.name}.part")
    version = target.with_name(f".{target.name}.etag")
    attempts = 0
    with progress_bar(unit="B", unit_scale=True, unit_divisor=1024, desc=f"{count} {target.name}") as bar:
        while True:
            had = _size(part)
            try:
                _receive(url, part, version, bar)
                break
            except (InvalidURL, InvalidSchema, MissingSchema) as error:
                raise DownloadError(f"{url}: not a valid HTTP URL ({error})") from error
            except requests.RequestException as error:
                reason = _reason(error)
                attempts = 1 if _size(part) > had else attempts + 1
                if attempts == _ATTEMPTS:
                    raise DownloadError(
                        f"{url}: {reason}. {_size(part)} bytes are kept; run the same command again to resume"
                    ) from error
                bar.write(f"{target.name}: {reason}; retrying in {_WAIT_S * 2 ** (attempts - 1):g} s")
                time.sleep(_WAIT_S * 2 ** (attempts - 1))
    try:
        _check(part, url)
    except DownloadError:
        part.unlink()
        version.unlink(missing_ok=True)
        raise
    checksum = sha256_of(part)
    part.replace(target)
    _store(_checksum_file(target), checksum, target.name)
    version.unlink(missing_ok=True)


def _reason(error: requests.RequestException) -> str:
    """One line that says why a request failed."""
    if isinstance(error, ChunkedEncodingError):
        return "the connection was interrupted"
    if isinstance(error, Timeout):
        return f"no answer within {_TIMEOUT_S:g} s"
    cause = getattr(error.args[0], "reason", None) if error.args else None  # of urllib3, in many words
    return f"no connection ({str(cause).rpartition(': ')[2]})" if cause else str(error)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path, version: Path, bar: tqdm) -> None:
    """Send one request: append the missing bytes to `part`, or start over if the server has another version.

    Raises:
        requests.RequestException: a transient error; retry.
        DownloadError: a permanent error.
    """
    known = version.read_text() if version.is_file() else ""
    have = _size(part) if known else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        if response.status_code == 416:
            if response.headers.get("Content-Range") == f"bytes */{have}":
                return  # complete: an earlier run was stopped before it validated the file
            part.unlink(missing_ok=True)
            raise requests.ConnectionError("the server has no further bytes; starting over")
        if response.status_code == 429 or response.status_code >= 500:
            raise requests.ConnectionError(f"the server answered {response.status_code} {response.reason}")
        if response.status_code not in (200, 206):
            raise DownloadError(
                f"{url}: the server answered {response.status_code} {response.reason}; check the address"
            )
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError(f"{url}: received a web page instead of a checkpoint; open the URL in a browser")
        tag = response.headers.get("ETag", "")
        if response.status_code == 206:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                version.unlink()
                raise requests.ConnectionError("the server sent another range than requested; starting over")
            if tag not in ("", known):  # a server that ignores If-Range
                version.unlink()
                raise requests.ConnectionError("the server has another version of the file; starting over")
        start = have if response.status_code == 206 else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        if not start:
            part.unlink(missing_ok=True)  # before the new version is stored, so that two versions are never joined
        _require_space(part, total - start if total else 0)
        version.write_text("" if tag.startswith("W/") else tag)  # a weak ETag does not guarantee equal bytes
        bar.total = total
        bar.n = bar.initial = bar.last_print_n = start  # bytes of an earlier run must not raise the rate
        with part.open("ab") as file:
            for piece in response.iter_content(_PIECE):
                file.write(piece)
                bar.update(len(piece))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and _size(part) != total:
        raise requests.ConnectionError(f"received only {_size(part)} of {total} bytes")


def _require_space(part: Path, need: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < need + _SPARE:
        raise DownloadError(f"{part.parent}: only {free >> 20} MB are free; {(need + _SPARE) >> 20} MB are needed")
