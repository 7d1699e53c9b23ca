"""The flags of training/average_checkpoints.py."""

from pathlib import Path

import pytest

from dfdc.command_line import UsageError
from training.average_checkpoints import parse_arguments

pytestmark = pytest.mark.slow


def test_flags_have_the_defaults_of_the_help():
    settings = parse_arguments(["a_0", "a_1", "--data-dir", "x"])
    assert settings.checkpoints == [Path("a_0"), Path("a_1")]
    assert (settings.fold, settings.output, settings.batch_size, settings.workers) == (None, None, 16, -1)
    assert (settings.folds_csv, settings.crops_dir, settings.max_failed) == (Path("folds.csv"), "crops", 0.05)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(UsageError, match="--batch-size 0"):
        parse_arguments(["a_0", "a_1", "--data-dir", "x", "--batch-size", "0"])
