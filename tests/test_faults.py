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
    ("local", "detect_original_faces", ["SIGINT to the group (Ctrl-C)"]),
    ("local", "extract_crops", ["SIGKILL to the group", "full disk"]),
    ("local", "generate_diffs", ["folder becomes read-only"]),
    ("local", "generate_folds", ["limited file size"]),
    ("local", "train", ["SIGTERM to the group"]),
    ("local", "score", ["SIGKILL to one worker"]),
    ("ray", "generate_diffs", ["SIGKILL to one raylet"]),
]


@pytest.mark.parametrize(("engine", "step", "faults"), ROUNDS, ids=[f"{engine}-{step}" for engine, step, _ in ROUNDS])
def test_a_command_struck_by_a_fault_is_completed_by_the_same_command(preprocessed, tmp_path, engine, step, faults):
    if engine == "ray":
        pytest.importorskip("ray", reason="Ray is not installed: requirements-cluster.txt has it")
    work = list_work(preprocessed)[step]
    skipped = []
    with ENGINES[engine]() as made:
        undisturbed = run_undisturbed(work, tmp_path / "undisturbed", made)
        for name in faults:
            if reason := FAULTS[name].obstacle():
                skipped.append(f"{name}: {reason}")
                continue
            rng = random.Random(f"{SEED} {step} {name}")
            found = run_round(work, FAULTS[name], undisturbed, tmp_path / "round", made, rng)
            assert not found.wrong, "\n".join([*found.wrong, *found.told])
    if skipped:
        pytest.skip("; ".join(skipped))
