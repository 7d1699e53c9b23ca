"""The command of a step (dfdc/steps.py): arguments, devices, exit statuses."""

import errno
import sys
from pathlib import Path

import pytest

from dfdc import command_line, steps, workers
from dfdc.command_line import UsageError
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
        (PermissionError(errno.EACCES, "Permission denied", "/a"), 2,
         "step.py: /a: Permission denied; give a place that can be used\n"),
        (FileExistsError(errno.EEXIST, "File exists", "/a"), 2, "step.py: /a: File exists; give a place"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a"), 2, "step.py: /a: Not a directory; give a place"),
        (OSError(errno.ENOSPC, "No space left on device", "/a"), 1, "step.py: /a: No space left on device\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "step.py: No space left on device\n"),
        (OSError("in words"), 1, "step.py: in words\n"),
        (workers.WorkersError("no worker"), 1, "step.py: no worker\n"),
        (KeyboardInterrupt(), 130, "stopped; run the same command again to go on\n"),
    ],
)  # fmt: skip
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
    assert "to go on (without --force, which would begin anew)\n" in capsys.readouterr().err


def test_what_nobody_foresaw_is_not_hidden(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step.py"])
    with pytest.raises(ZeroDivisionError):
        command_line.run_main(lambda argv: 1 // 0)


def test_devices_are_handed_out_without_a_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert steps.list_devices("cuda") == ["cuda:0", "cuda:1", "cuda:2"]
    assert steps.list_devices("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert steps.list_devices("cuda:1") == ["cuda:1"]
    assert steps.list_devices("cpu") == ["cpu"]
    with pytest.raises(UsageError, match="--device cuda:3"):
        steps.list_devices("cuda:3")


def test_help_shows_the_docstring_as_it_stands():
    text = steps.step_parser("Step 9: this.\n\n    python step.py --root-dir X\n").format_help()
    assert "Step 9: this.\n\n    python step.py --root-dir X\n" in text


def test_arguments_that_every_step_takes():
    parser = steps.step_parser("doc", crops=True, device=True, png=True)
    args = parser.parse_args(["--root-dir", "x"])
    assert vars(args) == {
        "root_dir": Path("x"), "crops_dir": "crops", "workers": 0, "device": "auto", "png_level": 1, "force": False,
        "prune": None, "max_failed": 0.05,
    }  # fmt: skip
    plain = vars(steps.step_parser("doc").parse_args(["--root-dir", "x"]))
    assert plain.keys() == {"root_dir", "workers", "force", "prune", "max_failed"}
    given = ["--crops-dir", "c", "--workers", "3", "--device", "cpu", "--png-level", "9", "--force", "--prune"]
    args = parser.parse_args(["--root-dir", "x", *given, "--max-failed", "0.5"])
    assert (args.crops_dir, args.workers, args.device, args.png_level) == ("c", 3, "cpu", 9)
    assert (args.force, args.prune, args.max_failed) == (True, [], 0.5)
    assert parser.parse_args(["--root-dir", "x", "--prune", "part_0", "part 1"]).prune == ["part_0", "part 1"]
    assert vars(steps.step_parser("doc", workers=False).parse_args(["--root-dir", "x"])).keys() == {
        "root_dir",
        "force",
    }
    with pytest.raises(SystemExit):
        parser.parse_args([])
