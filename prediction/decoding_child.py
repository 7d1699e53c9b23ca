"""The child process of decoding.py: it decodes the files that the parent requests, and exits with the parent."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from dfdc import layout
from dfdc.children import end_with_parent
from dfdc.devices import keep_freed_memory, limit_threads
from dfdc.identity import regular
from dfdc.video import VideoError, VideoReader
from prediction.decoding import Opened


def frame_numbers(frame_count: int, wanted: int) -> list[int]:
    """Return `wanted` frame numbers, evenly from first to last, truncated to int; of a shorter clip, all."""
    return sorted({int(number) for number in np.linspace(0, frame_count - 1, min(wanted, frame_count))})


def _serve(connection: Connection) -> None:
    connection.send_bytes(b"ready")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        path = Path(request["path"])
        try:
            answer = {"lost": _send_frames(connection, path, request["wanted"])}
        except MemoryError as error:
            answer = {"memory": str(error) or "not enough memory to decode the file"}
        except VideoError as error:
            answer = {"memory" if isinstance(error.__cause__, MemoryError) else "unreadable": error.reason}
        except BrokenPipeError:
            return
        except Exception as error:  # becomes the file's status in the parent
            answer = {"error": f"{type(error).__name__}: {error}"}
        connection.send_bytes(json.dumps(answer).encode())


def _send_frames(connection: Connection, path: Path, wanted: int | list[int]) -> list[int]:
    """Send the properties of the file, and its frames; return the numbers of the frames not decoded."""

    def send(number: int, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        connection.send_bytes(json.dumps({"number": number, "height": height, "width": width}).encode())
        connection.send_bytes(np.ascontiguousarray(picture).reshape(-1).data)

    def begin(*values: Any) -> None:
        connection.send_bytes(json.dumps({"opened": asdict(Opened(*values))}).encode())

    try:
        regular(path)  # a pipe would never end
    except OSError as error:
        raise VideoError(path, f"can't be opened: {error.strerror}") from error
    if layout.is_picture(path):
        from dfdc import pictures  # here: it takes 8 MiB, which videos do not need

        if pictures.is_still(path):
            try:
                photo = pictures.read_photo(path)
            except pictures.PictureError as error:
                raise VideoError(path, f"not a readable image: {error.reason}") from error
            begin(True, 1, 0.0, 1, photo.notes)
            send(0, photo.pixels)
            return []
    with VideoReader(path, any_size=True, as_shown=True) as reader:
        numbers = frame_numbers(reader.frame_count, wanted) if isinstance(wanted, int) else wanted
        fps = reader.fps if math.isfinite(reader.fps) else 0.0
        begin(False, reader.frame_count, round(fps, 3), len(numbers), _notes(reader))
        for number, picture in reader.frames(numbers):
            send(number, picture)
        return list(reader.lost)


def _notes(reader: VideoReader) -> list[str]:
    notes = []
    if reader.dynamic_range != "sdr":
        notes.append(f"high dynamic range ({reader.dynamic_range.upper()}), converted to standard range (BT.709)")
    if reader.pixel_aspect != 1:
        notes.append(f"non-square pixels ({reader.pixel_aspect:.3g} times as wide as high), resampled to square")
    return notes


def main() -> None:
    end_with_parent()
    keep_freed_memory()
    limit_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # library messages do not name the file; the verdict does
    _serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
