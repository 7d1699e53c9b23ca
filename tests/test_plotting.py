"""Matplotlib in whatever shell (dfdc/plotting.py)."""

import pytest
from helpers import run_script

SHOW = "import dfdc.plotting, matplotlib; print(matplotlib.get_backend().lower())"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "used"), [("module://matplotlib_inline.backend_inline", "agg"), ("svg", "svg"), ("agg", "agg")]
)
def test_a_notebooks_own_backend_stops_no_command_and_others_are_used(backend, used):
    done = run_script("-c", SHOW, env={"MPLBACKEND": backend})
    assert done.stdout.strip() == used, done.stderr
