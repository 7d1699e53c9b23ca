"""A decoding child in which some files do what a broken decoder does, by their names."""

import os
import signal
import time

from dfdc.video import VideoError
from prediction import decoding_child

send_frames = decoding_child._send_frames


def misbehave(connection, path, wanted):
    for kind in (signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM):
        if kind.name in path.name:
            decoding_child._send_frames = send_frames
            if "later" in path.name:
                send_frames(connection, path, 3)
            if "amid" in path.name:
                os.write(connection.fileno(), (1000).to_bytes(4, "big") + b"half of a message")
            os.kill(os.getpid(), kind)
    if "exits" in path.name:
        os._exit(7)
    if "hangs" in path.name:
        time.sleep(600)
    if "memory" in path.name:
        raise MemoryError
    if "enomem" in path.name:
        error = VideoError(path, "can't be decoded: Cannot allocate memory")
        raise error from MemoryError()
    if "raises" in path.name:
        raise KeyError("a bug")
    return send_frames(connection, path, wanted)


decoding_child._send_frames = misbehave
decoding_child.main()
