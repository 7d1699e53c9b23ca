"""A few rounds of tests/faults/, and the places that it found: see benchmarks/RESULTS.md, "Faults"."""

import random

import pytest

from tests.faults.engines import ENGINES
from tests.faults.faults import FAULTS
from tests.faults.rounds import run_round, run_undisturbed
from tests.faults.work import list_work

pytestmark = pytest.mark.slow

SEED = 16
ROUNDS = [
    ("detect_original_faces", ["SIGINT to the group (Ctrl-C)", "SIGKILL to one worker"]),
    ("extract_crops", ["SIGKILL to the group", "full disk", "clock jumps by 400 days"]),
    ("generate_diffs", ["folder becomes read-only"]),
    ("generate_folds", ["limited file size"]),
    ("train", ["SIGTERM to the group"]),
    ("score", ["SIGKILL to one worker"]),
]


@pytest.mark.parametrize(("step", "faults"), ROUNDS, ids=[step for step, _ in ROUNDS])
def test_a_command_struck_by_a_fault_is_completed_by_the_same_command(preprocessed, tmp_path, step, faults):
    work = list_work(preprocessed)[step]
    skipped = []
    with ENGINES["local"]() as engine:
        undisturbed = run_undisturbed(work, tmp_path / "undisturbed", engine)
        for name in faults:
            if reason := FAULTS[name].obstacle():
                skipped.append(f"{name}: {reason}")
                continue
            rng = random.Random(f"{SEED} {step} {name}")
            found = run_round(work, FAULTS[name], undisturbed, tmp_path / "round", engine, rng)
            assert not found.wrong, "\n".join([*found.wrong, *found.told])
    if skipped:
        pytest.skip("; ".join(skipped))
