"""The command that makes the demonstration dataset (demo_data/make_demo_dataset.py)."""

import pytest
from helpers import run_script

from demo_data import make_demo_dataset


@pytest.mark.slow
def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    run = run_script("demo_data/make_demo_dataset.py", "--out", tmp_path)
    assert run.returncode == 2
    assert str(tmp_path) in run.stderr and "Choose another folder" in run.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("thesis.txt", "mine")]


@pytest.mark.parametrize(
    ("option", "value"), [("--seed", "-1"), ("--frames", "0"), ("--people", "1"), ("--workers", "x")]
)
def test_wrong_numbers_are_named(option, value, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        make_demo_dataset.main(["--out", str(tmp_path / "new"), f"{option}={value}"])
    assert stop.value.code == 2
    assert value in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_help_loads_nothing_heavy():
    code = (
        "import sys; import demo_data.make_demo_dataset\n"
        "print([name for name in ('torch', 'cv2', 'skimage', 'av') if name in sys.modules])"
    )
    run = run_script("-c", code)
    assert run.stdout.strip() == "[]"
