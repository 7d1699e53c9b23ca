"""How commands end (dfdc/command_line.py): messages and exit statuses."""

import argparse
import errno
import pickle
import sys
from pathlib import Path

import pytest

from dfdc import command_line, workers
from dfdc.command_line import SettingError, UsageError
from dfdc.layout import DataError


def exit_status(monkeypatch, capsys, error):
    """(status, what is said on stderr) of a script whose main raises `error`."""

    def main(argv):
        assert argv is None
        if isinstance(error, BaseException):
            raise error
        return error

    monkeypatch.setattr(sys, "argv", ["/place/step.py"])
    with pytest.raises(SystemExit) as end:
        command_line.run_main(main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (0, 0, ""),
        (1, 1, ""),
        (DataError("no parts"), 2, "step.py: no parts\n"),
        (UsageError("--x 3"), 2, "step.py: --x 3\n"),
        (SettingError("max_failed", 7, "give less"), 2, "step.py: --max-failed 7: give less\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a"),
            2,
            "step.py: /a: Permission denied; choose a path that exists and is writable\n",
        ),
        (FileExistsError(errno.EEXIST, "File exists", "/a"), 2, "step.py: /a: File exists; choose a path"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a"), 2, "step.py: /a: Not a directory; choose a path"),
        (OSError(errno.ENOSPC, "No space left on device", "/a"), 1, "step.py: /a: No space left on device\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "step.py: No space left on device\n"),
        (OSError("in words"), 1, "step.py: in words\n"),
        (workers.WorkersError("no worker"), 1, "step.py: no worker\n"),
        (KeyboardInterrupt(), 130, "stopped; run the same command again to resume\n"),
    ],
)
def test_how_a_script_ends(monkeypatch, capsys, error, status, said):
    code, err = exit_status(monkeypatch, capsys, error)
    assert code == status
    assert err.lstrip("\n").startswith(said)
    assert bool(err) == bool(said)


def test_with_force_the_same_command_would_begin_anew(monkeypatch, capsys):
    def main(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["step.py", "--force"])
    with pytest.raises(SystemExit):
        command_line.run_main(main)
    assert "to resume (without --force, which would start over)\n" in capsys.readouterr().err


def test_what_nobody_foresaw_is_not_hidden(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step.py"])
    with pytest.raises(ZeroDivisionError):
        command_line.run_main(lambda argv: 1 // 0)


def test_library_code_names_a_setting_and_no_flag():
    error = SettingError("max_failed", 7, "give less")
    assert str(error) == "max_failed 7: give less"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert command_line.setting("max_failed") == "max_failed"


def test_a_command_shows_settings_as_flags_until_it_ends(monkeypatch, capsys):
    def main(argv):
        raise UsageError(f"give less, or another {command_line.setting('crops_dir')}")

    monkeypatch.setattr(sys, "argv", ["step.py"])
    with pytest.raises(SystemExit, match="2"):
        command_line.run_main(main)
    assert capsys.readouterr().err == "step.py: give less, or another --crops-dir\n"
    assert command_line.setting("crops_dir") == "crops_dir"


@pytest.mark.parametrize("text", ["", "-1", "1", "1.5", "x", "²"])
def test_a_whole_number_is_one(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number of at least 2"):
        command_line.whole_number(2)(text)
    assert command_line.whole_number(2)("2") == 2


def test_of_a_long_line_the_middle_is_left_out(monkeypatch, capsys):
    def main(argv):
        raise UsageError("a" * 9000 + ": give less\nshort")

    monkeypatch.setattr(sys, "argv", ["step.py"])
    with pytest.raises(SystemExit, match="2"):
        command_line.run_main(main)
    first, second = capsys.readouterr().err.splitlines()
    assert (first[:9], first[990:1010], first[-11:], second) == (
        "step.py: ",
        "aaaaaaaaaa ... aaaaa",
        ": give less",
        "short",
    )
    assert len(first) == 2005


def test_a_name_that_is_too_long_is_wrong_use(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step.py"])
    with pytest.raises(SystemExit, match="2"):
        command_line.run_main(lambda argv: Path("a" * 300).stat())
    assert capsys.readouterr().err == f"step.py: {'a' * 300}: File name too long\n"
