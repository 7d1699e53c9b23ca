"""The command of step 5 (preprocessing/generate_folds.py): its light head."""

import pytest

from preprocessing import generate_folds
from preprocessing.folds_stamp import Options


def test_the_help_names_the_options_of_a_first_run(capsys):
    with pytest.raises(SystemExit):
        generate_folds.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    first = Options()
    for text in (
        f"number of folds, 2 or more ({first.n_splits})",
        f"decides the order of the rows ({first.seed})",
        f"only the very same pixels are ({first.similar})",
    ):
        assert text in said
