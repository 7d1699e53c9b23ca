"""The winners' published checkpoints: which there are, and how one comes from a server to its place.

A file is received under a hidden name, with the server's version of it (ETag) beside it, so that a stopped download
resumes and never joins two versions. It gets its own name once it has proved to be a B7 checkpoint.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import zipfile
from collections.abc import Generator, Sequence
from pathlib import Path

import requests
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema
from tqdm import tqdm

from dfdc.artifacts import sha256_of, write_bytes
from dfdc.command_line import UserError
from dfdc.progress import progress_bar
from dfdc.text import printable
from networks.checkpoint import CheckpointError, load_model
from networks.files import CHECKSUM_SUFFIX

_ENCODER = "tf_efficientnet_b7.ns_jft_in1k"
_NAME = "final_{}_DeepFakeClassifier_tf_efficientnet_b7_ns_0_{}"
# Seed and epoch. https://github.com/selimsef/dfdc_deepfake_challenge, download_weights.sh
_SUBMITTED = ((111, 36), (555, 19), (777, 29), (777, 31), (888, 37), (888, 40), (999, 23))
SEVEN = tuple(_NAME.format(*pair) for pair in _SUBMITTED)
FIVE = tuple(_NAME.format(*pair) for pair in dict(_SUBMITTED).items())  # a later epoch replaces an earlier one

_ATTEMPTS = 5  # in a row that bring nothing
_WAIT_S = 2.0  # before the second attempt; twice as long before each further one
_TIMEOUT_S = 30.0  # to connect, and between two pieces of a file
_PIECE = 1 << 16  # bytes; of a piece that is cut nothing is kept
_SPARE = 100 << 20  # bytes to leave free on the disk


class DownloadError(UserError):
    """A checkpoint that could not be downloaded; the message names the file or address, and what to do."""

    status = 1


def download(names: Sequence[str], folder: Path, url: str) -> None:
    """Put the files `names` of the address `url` into `folder`, and say for each what was done.

    A file that is there already is compared with its stored SHA-256, or checked and given one.

    Raises:
        DownloadError: the server, the network, the disk or a file is at fault. Finished files stay, and an unfinished
            one is resumed by the next call.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _only_download(folder):
        for number, name in enumerate(names, 1):
            target = folder / name
            if target.exists():
                said = _compare(target)
            else:
                _fetch(f"{url.rstrip('/')}/{name}", target, f"{number}/{len(names)}")
                said = "downloaded"
            print(f"{printable(target)}: {said}", flush=True)


@contextlib.contextmanager
def _only_download(folder: Path) -> Generator[None]:
    """Hold the folder's lock, so that two downloads never write one file."""
    with (folder / ".download.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(f"{folder}: another download writes there; wait for its end") from None
        yield


def _compare(target: Path) -> str:
    """Compare a file with its stored SHA-256; check one without, and store it."""
    stored, found = _checksum_file(target), sha256_of(target)
    if stored.is_file():
        if stored.read_text().split()[:1] != [found]:
            raise DownloadError(
                f"{target}: its SHA-256 is not the one in {stored.name}. Remove both files and run the command again"
            )
        return "is there, with the SHA-256 of its download"
    _check(target)
    _store(stored, found, target.name)
    return "is there, and is a B7 checkpoint"


def _checksum_file(target: Path) -> Path:
    return target.with_name(target.name + CHECKSUM_SUFFIX)


def _store(path: Path, checksum: str, name: str) -> None:
    write_bytes(path, f"{checksum}  {name}\n".encode())  # the form of sha256sum


def _check(path: Path, source: str = "") -> None:
    """Open `path` as a B7 checkpoint, every byte of it.

    Raises:
        DownloadError: it is damaged, or something else; `source` says where it came from.
    """
    advice = f"; {source} may not hold the file, look at it in a browser" if source else "; remove it and run again"
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise DownloadError(f"{path}: the checksum of its part {printable(damaged)} is wrong{advice}")
        encoder = load_model(path, mapped=True)[1].spec.encoder
    except (CheckpointError, zipfile.BadZipFile) as error:
        raise DownloadError(f"{error}{advice}") from error
    if encoder != _ENCODER:
        raise DownloadError(f"{path}: a checkpoint of {encoder}, not of {_ENCODER}{advice}")


def _fetch(url: str, target: Path, count: str) -> None:
    """Receive a file, check it and put it in place; resume where an earlier call stopped."""
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
                raise DownloadError(f"{url}: no address of a web server ({error})") from error
            except requests.RequestException as error:
                cut = isinstance(error, requests.exceptions.ChunkedEncodingError)
                reason = "the connection was cut" if cut else error
                attempts = 1 if _size(part) > had else attempts + 1
                if attempts == _ATTEMPTS:
                    raise DownloadError(
                        f"{url}: {reason}. {_size(part)} bytes are kept; run the same command again to resume"
                    ) from error
                bar.write(f"{target.name}: {reason}; next attempt in {_WAIT_S * 2 ** (attempts - 1):g} s")
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


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path, version: Path, bar: tqdm) -> None:
    """One request: append to `part` what is missing, or begin anew where the server has another version.

    Raises:
        requests.RequestException: what a further attempt may mend.
        DownloadError: what it will not.
    """
    known = version.read_text() if version.is_file() else ""
    have = _size(part) if known else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        if response.status_code == 416:  # nothing is missing, or the file became shorter: not to be told apart
            part.unlink()
            raise requests.ConnectionError("the server has no more than was received; beginning anew")
        if response.status_code == 429 or response.status_code >= 500:
            raise requests.ConnectionError(f"the server answered {response.status_code} {response.reason}")
        if response.status_code not in (200, 206):
            raise DownloadError(
                f"{url}: the server answered {response.status_code} {response.reason}; check the address"
            )
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError(f"{url}: a web page came instead of a checkpoint; look at it in a browser")
        if response.status_code == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            version.unlink()
            raise requests.ConnectionError("the server sent another part than requested; beginning anew")
        start = have if response.status_code == 206 else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        _require_space(part, total - start if total else 0)
        if not start:
            part.unlink(missing_ok=True)  # before the new version is noted: the two must never be joined
        tag = response.headers.get("ETag", "")
        version.write_text("" if tag.startswith("W/") else tag)  # a weak one does not promise the same bytes
        bar.total, bar.n = total, start
        with part.open("ab") as file:
            for piece in response.iter_content(_PIECE):
                file.write(piece)
                bar.update(len(piece))
            file.flush()
            os.fsync(file.fileno())
    if total is not None and _size(part) != total:
        raise requests.ConnectionError(f"{_size(part)} of {total} bytes came")


def _require_space(part: Path, need: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if free < need + _SPARE:
        raise DownloadError(f"{part.parent}: {free >> 20} MB are free, but {(need + _SPARE) >> 20} MB are needed")
