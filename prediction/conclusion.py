"""Combine face scores into a verdict: the score of each checkpoint and each person, and the doubts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dfdc.scoring import STRATEGIES, SURE_FACE, deciding_person, faces_that_count, hinge, person_weights, photo_score
from prediction.settings import Floors
from prediction.verdict import Face, Grounds, ModelScore, Person, Status, Thumbnail, Verdict

CUT_FROM = 0.1  # a face is cut if a larger share than this is outside the frame
APART = 0.3  # scores of persons or checkpoints differ if they are further apart
MUCH = 0.1  # a score is doubtful if a small change moves it by more than this

# The possible values of Verdict.doubts, and their meaning.
DOUBTS = {
    "few faces": "few frames show a face that decides the score",
    "small faces": "most deciding faces are smaller than those in training sets",
    "cut faces": "most deciding faces are cut by the edge of the frame",
    "unsure faces": "for most deciding faces, the detector is not sure that they are faces",
    "one face decides": "one face more or less would change the score considerably",
    "faces left out": "some persons were seen too rarely to count; as one person, they would change the score",
    "persons differ": "one person looks more fake than another; check each person",
    "checkpoints differ": "the checkpoints disagree",
    "partial": "some frames could not be decoded",
    "sizes differ": "the frame size changes within the video",
    "unusual pictures": "the frames were converted, or only a part of the file was read",
}


def conclude(verdict: Verdict, names: Sequence[str], strategy: str, floors: Floors | None = None) -> None:
    """Combine the face scores into scores of the video and each person, and set the doubts.

    Args:
        verdict: its faces must have scores.
        names: names of the checkpoints.
        strategy: a key of STRATEGIES; photos have a separate rule.

    Raises:
        ValueError: a score is not a probability.
    """
    scores = np.array([face.scores for face in verdict.faces], np.float64).reshape(len(verdict.faces), len(names))
    people = np.array([face.person for face in verdict.faces])
    sureness = np.array([face.detector for face in verdict.faces])
    rule = STRATEGIES[strategy]
    results = [photo_score(column, sureness) if verdict.picture else rule(column, people) for column in scores.T]
    verdict.models = [ModelScore(name, result.score, result.rule) for name, result in zip(names, results, strict=True)]
    score, floors = float(np.mean([result.score for result in results])), floors or Floors()
    verdict.score, verdict.score_uncalibrated = score, None
    if verdict.picture:  # every person has one face
        able = faces_that_count(sureness)
        weights = dict(zip(people.tolist(), able.astype(float).tolist(), strict=True))
        decides = (able[:, None] & (scores == scores[able].max(axis=0))).any(axis=1)
    else:
        weights = person_weights(people)
        who = [deciding_person(strategy, column, people) for column in scores.T]
        counting = [person for person, weight in weights.items() if weight > 0]
        decides = np.isin(people, [person for person in who if person is not None] or counting)
    verdict.persons = [
        _person(verdict.faces, np.flatnonzero(people == person), scores, weight, strategy)
        for person, weight in weights.items()
    ]
    verdict.persons.sort(key=lambda person: (-person.score, person.person))
    grounds = _count([verdict.faces[index] for index in np.flatnonzero(decides)], floors)
    if not verdict.picture:
        grounds.one_face = round(float(np.mean([hinge(rule, column, people) for column in scores.T])), 4)
        seldom = np.array([weights[person] == 0 for person in people.tolist()])
        if seldom.any():
            joined = np.where(seldom, -1, people)
            grounds.left_out = int(seldom.sum())
            grounds.if_joined = round(float(np.mean([rule(column, joined).score for column in scores.T])), 4)
    verdict.grounds = grounds
    verdict.doubts = _doubts(verdict, score, grounds, floors)


def _person(faces: Sequence[Face], own: np.ndarray, scores: np.ndarray, weight: float, strategy: str) -> Person:
    """Summarise one person. Args: own: int [k], indices of the person's faces; scores: [faces, checkpoints]."""
    mine = [faces[index] for index in own]
    alone = np.zeros(len(own), int)
    best = max(mine, key=lambda face: face.detector * face.side**2)
    return Person(
        person=mine[0].person,
        frames=len({face.frame for face in mine}),
        faces=len(mine),
        weight=round(weight, 4),
        side=round(float(np.median([face.side for face in mine])), 1),
        score=float(np.mean([STRATEGIES[strategy](column[own], alone).score for column in scores.T])),
        thumbnail=Thumbnail(best.frame, best.box),
    )


def _count(deciding: Sequence[Face], floors: Floors) -> Grounds:
    sides = [face.side for face in deciding]
    return Grounds(
        faces=len(deciding),
        frames=len({face.frame for face in deciding}),
        persons=len({face.person for face in deciding}),
        side=round(float(np.median(sides)), 1),
        small=sum(side < floors.side for side in sides),
        cut=sum(face.inside < 1 - CUT_FROM for face in deciding),
        unsure=sum(face.detector < SURE_FACE for face in deciding),
    )


def _doubts(verdict: Verdict, score: float, grounds: Grounds, floors: Floors) -> list[str]:
    """Return the keys of DOUBTS that apply, in its order."""
    persons = [person.score for person in verdict.persons if person.weight > 0]
    holds = {
        "few faces": not verdict.picture and grounds.frames < floors.faces,
        "small faces": 2 * grounds.small > grounds.faces,
        "cut faces": 2 * grounds.cut > grounds.faces,
        "unsure faces": 2 * grounds.unsure > grounds.faces,
        "one face decides": grounds.one_face > MUCH,
        "faces left out": grounds.if_joined is not None and abs(grounds.if_joined - score) > MUCH,
        "persons differ": not verdict.picture and np.ptp(persons) > APART,
        "checkpoints differ": np.ptp([model.score for model in verdict.models]) > APART,
        "partial": verdict.status == Status.PARTIAL,
        "sizes differ": len(verdict.sizes) > 1,
        "unusual pictures": bool(verdict.notes),
    }
    return [doubt for doubt in DOUBTS if holds[doubt]]
