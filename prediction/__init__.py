"""Score videos and photos. From another program:

    from prediction import Scorer, score

    verdicts = score(["a.mp4", "b.jpg"], ["weights/model"])

docs/scoring.md describes a verdict.
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
    """Import a name on first use: neither a decoding process nor --help must wait for PyTorch."""
    if name in __all__:
        for home in ("settings", "verdict", "conclusion", "scorer", "folder"):
            module = import_module(f"prediction.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
