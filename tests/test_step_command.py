"""The command line of a step (dfdc/step_command.py)."""

from pathlib import Path

import pytest

from dfdc.command_line import SettingError
from dfdc.shards import WHOLE, Shard
from dfdc.step_command import RunOptions, step_parser


def test_help_shows_the_docstring_as_it_stands():
    text = step_parser("Step 9: this.\n\n    python step.py --root-dir X\n").format_help()
    assert "Step 9: this.\n\n    python step.py --root-dir X\n" in text


def test_arguments_that_every_step_takes():
    parser = step_parser("doc", crops=True, device=True, png=True)
    args = parser.parse_args(["--root-dir", "x"])
    expected = {"workers": 0, "device": "auto", "force": False, "prune": None, "max_failed": 0.05, "shard": WHOLE}
    expected |= {"engine": "local", "ray_address": None}
    assert vars(args) == {"root_dir": Path("x"), "crops_dir": "crops", "png_level": 1} | expected
    assert vars(RunOptions.of(args)) == expected
    assert RunOptions() == RunOptions.of(step_parser("doc").parse_args(["--root-dir", "x"]))
    plain = vars(step_parser("doc").parse_args(["--root-dir", "x"]))
    common = {"root_dir", "workers", "engine", "ray_address", "force", "prune", "max_failed", "shard"}
    assert plain.keys() == common
    given = ["--crops-dir", "c", "--workers", "3", "--device", "cpu", "--png-level", "9", "--force", "--prune"]
    args = parser.parse_args(["--root-dir", "x", *given, "--max-failed", "0.5"])
    assert (args.crops_dir, args.workers, args.device, args.png_level) == ("c", 3, "cpu", 9)
    assert (args.force, args.prune, args.max_failed) == (True, [], 0.5)
    assert parser.parse_args(["--root-dir", "x", "--prune", "part_0", "part 1"]).prune == ["part_0", "part 1"]
    assert RunOptions.of(args) == RunOptions(3, "cpu", True, 0.5, ())
    args = parser.parse_args(["--root-dir", "x", "--engine", "ray", "--ray-address", "a:1"])
    assert (RunOptions.of(args).engine, RunOptions.of(args).ray_address) == ("ray", "a:1")
    for given in ({"engine": "spark"}, {"ray_address": "a:1"}):
        with pytest.raises(SettingError, match="engine"):
            RunOptions(**given)
    for address in ("auto", "local", "[::1]:6379"):
        assert RunOptions(engine="ray", ray_address=address).ray_address == address
    for address in ("head", "ray://head:10001", "head:six", ":6379", ""):  # at once, also if nothing is left to do
        with pytest.raises(SettingError, match=r"ray_address .*: expected HOST:PORT of the cluster's head, auto or"):
            RunOptions(engine="ray", ray_address=address)
    assert vars(step_parser("doc", workers=False).parse_args(["--root-dir", "x"])).keys() == {
        "root_dir",
        "force",
    }
    args = parser.parse_args(["--root-dir", "x", "--shard", "2/3"])
    assert RunOptions.of(args).shard == Shard(2, 3)
    with pytest.raises(SystemExit):
        parser.parse_args([])
