"""Child processes that run a module of this project."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]


def start_module(name: str, arguments: Sequence[object], **options: Any) -> subprocess.Popen:
    """Start `python -m name`. The module calls `end_with_parent`, and exits when its stdin closes.

    In a new session, Ctrl-C reaches only the parent. The child runs in our folder, so that no file of the user can
    shadow one of its modules.

    Args:
        options: passed to subprocess.Popen.
    """
    paths = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", name, *map(str, arguments)],
        stdin=subprocess.PIPE,
        start_new_session=True,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        **options,
    )


def end_with_parent() -> None:
    """Make this process exit when the parent closes its stdin, even during an endless loop of a library."""

    def wait() -> None:
        while os.read(0, 1024):  # not sys.stdin, whose lock would disturb the interpreter's exit
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
