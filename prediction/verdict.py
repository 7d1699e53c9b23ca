"""What is known of a video, on the way to its verdict and after it; kept on disk as it comes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dfdc import artifacts, identity
from dfdc.scoring import STRATEGIES, Strategy

# With a verdict: ok; partial (some frames could not be decoded); too short (under 32 frames, all were read).
# Without: no face, unreadable, out of memory, error.
VERDICT_STATUSES = ("ok", "partial", "too short")
# What may go better another time: done again when a run is repeated.
PASSING_STATUSES = ("out of memory", "error")


@dataclass
class Verdict:
    """What is known of one video. `score` is None where there are no grounds for one.

    Attributes:
        score: probability of being fake, the mean over the checkpoints; calibrated where `--calibration` is given.
        score_uncalibrated: what it was before, None without a calibration.
        models: for each checkpoint its name, score and the rule that made it.
        persons: for each person its number, how many frames it was seen in, its score (mean over the checkpoints)
            and the frame and box to show it by.
        faces: for each face frame, person, box, detector (its score) and scores (one per checkpoint).
    """

    filename: str
    status: str
    reason: str = ""
    score: float | None = None
    score_uncalibrated: float | None = None
    path: str = ""
    frame_count: int = 0
    frames_per_second: float = 0.0
    frames_read: int = 0
    frames_lost: list[int] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    persons: list[dict[str, Any]] = field(default_factory=list)
    faces: list[dict[str, Any]] = field(default_factory=list)

    @property
    def judged(self) -> bool:
        return self.score is not None

    def fail(self, error: BaseException, doing: str = "") -> None:
        """Note an error that ends the work on this video; faces found so far are no grounds."""
        from dfdc.devices import is_out_of_memory

        self.status = "out of memory" if is_out_of_memory(error) else "error"
        self.reason = f"{doing}{type(error).__name__}: {error}"
        self.score, self.models, self.persons, self.faces = None, [], [], []


def conclude(verdict: Verdict, names: Sequence[str], strategy: str) -> None:
    """Combine the faces' scores into the video's and each person's.

    Args:
        verdict: its faces have their scores.
        names: of the checkpoints.
        strategy: a name in STRATEGIES.
    """
    rule: Strategy = STRATEGIES[strategy]
    scores = np.array([face["scores"] for face in verdict.faces], np.float64).reshape(len(verdict.faces), len(names))
    people = np.array([face["person"] for face in verdict.faces])
    results = [rule(column, people) for column in scores.T]
    verdict.models = [
        {"name": name, "score": result.score, "rule": result.rule} for name, result in zip(names, results, strict=True)
    ]
    verdict.score = float(np.mean([result.score for result in results]))
    verdict.persons = []
    for person in np.unique(people):
        own = np.flatnonzero(people == person)
        best = max((verdict.faces[index] for index in own), key=_shows_well)
        verdict.persons.append(
            {
                "person": int(person),
                "frames": len({verdict.faces[index]["frame"] for index in own}),
                "score": float(np.mean([rule(column[own], people[own]).score for column in scores.T])),
                "thumbnail": {"frame": best["frame"], "box": best["box"]},
            }
        )
    verdict.persons.sort(key=lambda person: -person["score"])


def _shows_well(face: dict[str, Any]) -> float:
    x1, y1, x2, y2 = face["box"]
    return face["detector"] * max(0.0, x2 - x1) * max(0.0, y2 - y1)


class Progress:
    """Verdicts on disk as they come, one JSON object a line, so that a stopped run can go on.

    The first line holds the settings; verdicts of other settings are not taken over. A verdict counts for the file it
    was made of (`identity.same_file`): a video that was added, mended or changed since is scored, the others are not
    scored again. What failed for a reason that may pass is tried again, and so is a file that can't be read now; its
    earlier verdict stays on disk, and counts when the same file is back.

    Attributes:
        done: the verdicts so far, by name.
        files: the fingerprint of each video that was read, by name; None for one that can't be opened.
    """

    def __init__(self, path: Path, settings: dict[str, Any], videos: dict[str, Path], *, anew: bool = False) -> None:
        self.path = path
        self.done: dict[str, Verdict] = {}
        self.files: dict[str, dict | None] = {}
        self._videos = videos
        self._out_of_reach: list[dict] = []  # rows of files that can't be read now
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        if lines and not anew and _parse(lines[0]) == settings:
            rows = [row for row in map(_parse, lines[1:]) if self._is_of_a_file(row)]
            for row in {row["verdict"]["filename"]: row for row in rows}.values():  # the last is of the newest file
                self._take(row)
        elif lines and not anew:
            print(f"{path}: left by a run with other settings; beginning anew")
        self._settings, self._begun = settings, False

    def _is_of_a_file(self, row: Any) -> bool:
        """Whether a line holds the verdict of one of our videos that could be read: not one that a kill cut."""
        if not isinstance(row, dict) or row.keys() != {"file", "verdict"}:
            return False
        values = row["verdict"]
        if not isinstance(values, dict) or values.keys() != asdict(Verdict("", "")).keys():
            return False
        return row["file"] is not None and values["filename"] in self._videos

    def _take(self, row: dict) -> None:
        verdict = Verdict(**row["verdict"])
        if verdict.status in PASSING_STATUSES:
            return
        path = self._videos[verdict.filename]
        try:
            same = identity.same_file(row["file"], path)
        except OSError:  # not known to be another: the video is tried again, and its new verdict says why that fails
            self._out_of_reach.append(row)
            return
        if same:
            verdict.path = str(path)  # it may have been moved since
            self.done[verdict.filename], self.files[verdict.filename] = verdict, row["file"]

    def _row(self, verdict: Verdict) -> dict[str, Any]:
        return {"file": self.files[verdict.filename], "verdict": asdict(verdict)}

    def begin(self, name: str) -> None:
        """Note what a video is like before it is read; it may be replaced meanwhile."""
        try:
            self.files[name] = identity.fingerprint(self._videos[name])
        except OSError:
            self.files[name] = None  # its verdict will say why

    def add(self, verdict: Verdict) -> None:
        """Keep a verdict."""
        if not self._begun:  # not earlier: a run that can't even begin must not cost what an earlier one left
            rows = [self._settings, *self._out_of_reach, *(self._row(known) for known in self.done.values())]
            artifacts.write_bytes(self.path, "".join(json.dumps(row) + "\n" for row in rows).encode())
            self._begun = True
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(self._row(verdict)) + "\n")
        self.done[verdict.filename] = verdict


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
