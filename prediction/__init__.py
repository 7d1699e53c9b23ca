"""Scoring videos and photos. From another program:

    from prediction import Scorer, score

    verdicts = score(["a.mp4", "b.jpg"], ["weights/model"])

docs/scoring.md says what a verdict holds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prediction.conclusion import DOUBTS
    from prediction.folder import score_folder
    from prediction.scorer import Scorer, score
    from prediction.settings import Floors, FolderSettings
    from prediction.verdict import Face, Grounds, ModelScore, Person, Status, Thumbnail, Verdict

__all__ = ["DOUBTS", "Face", "Floors", "FolderSettings", "Grounds", "ModelScore", "Person", "Scorer"]
__all__ += ["Status", "Thumbnail", "Verdict", "score", "score_folder"]


def __getattr__(name: str) -> object:
    """Load what is asked for, and no more: a process that decodes must not wait for PyTorch, nor must --help."""
    if name in __all__:
        for home in ("settings", "verdict", "conclusion", "scorer", "folder"):
            module = import_module(f"prediction.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
