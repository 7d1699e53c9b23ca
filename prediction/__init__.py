"""Scoring videos and photos. From another program:

    from prediction import Scorer, score

    verdicts = score(["a.mp4", "b.jpg"], ["weights/model"])

docs/scoring.md says what a verdict holds.
"""

from prediction.conclusion import DOUBTS, Floors
from prediction.scorer import Scorer, score
from prediction.verdict import Face, Grounds, ModelScore, Person, Verdict

__all__ = ["DOUBTS", "Face", "Floors", "Grounds", "ModelScore", "Person", "Scorer", "Verdict", "score"]
