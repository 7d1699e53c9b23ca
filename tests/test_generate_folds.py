"""The command of step 5: its options (preprocessing/generate_folds.py)."""

import pytest
from folds_roots import folds_of, main, make_root, refused
from helpers import run_script

from preprocessing import generate_folds
from preprocessing.folds_stamp import Options


def test_the_help_names_the_options_of_a_first_run(capsys):
    with pytest.raises(SystemExit):
        generate_folds.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    first = Options()
    for text in (
        f"number of folds, 2 or more (default: {first.n_splits})",
        f"seed of the row order (default: {first.seed})",
        f"are a leak (default: {first.similar})",
    ):
        assert text in said


def test_t24_seed_decides_the_order(tmp_path):
    root = make_root(tmp_path, (0, 1))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(root, "--seed", seed, "--out", f"{name}.csv") == 0
    a, b, c = ((root / f"{name}.csv").read_bytes() for name in "abc")
    assert a == b != c
    assert sorted(a.splitlines()) == sorted(c.splitlines())


def test_options_are_checked_before_any_work(tmp_path, capsys):
    root = make_root(tmp_path / "root", (0, 1, 2))
    assert main(root, "--check-options") == 0
    assert not (root / "folds.csv").exists()
    main(root, "--seed", 3)
    capsys.readouterr()
    assert main(root, "--check-options") == 0
    assert "unchanged options: " in capsys.readouterr().out
    refused(root, "--check-options", "--seed", 4, said="--seed from 3 to 4")
    refused(root, "--check-options", "--val-ids", tmp_path / "absent", said="absent")
    before = (root / "folds.csv").read_bytes()
    assert main(root, "--check-options", "--seed", 4, "--force") == 0
    assert (root / "folds.csv").read_bytes() == before


@pytest.mark.parametrize("as_folder", [False, True])
def test_val_ids_hold_out_just_those_and_drop_their_families(tmp_path, capsys, as_folder):
    root = make_root(tmp_path / "root", (0, 1, 2, 3), f3a="r1")
    ids = tmp_path / "ids"
    if as_folder:
        ids.mkdir()
        for name in ("r0.mp4", "f1a.mp4", "notes.txt"):
            (ids / name).write_bytes(b"")
    else:
        ids.write_text("r0\n f1a.mp4 \n\n", encoding="utf-8-sig")
    assert main(root, "--val-ids", ids) == 0
    assert folds_of(root) == {"r0": 0, "f1a": 0, "r2": 3, "f2a": 3, "f2b": 3}
    said = "excluded as relatives of the hold-out: 7 videos (f0a, f0b, f1b, f3a, f3b, 2 more)\n"
    assert said in capsys.readouterr().out


def test_wrong_use_exits_2_and_names_it(tmp_path):
    root = make_root(tmp_path / "root", (0, 1))
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for arguments, said in (
        (["--n_splits", 1], "--n-splits 1"),
        (["--seed", -1], "--seed -1"),
        (["--val-ids", tmp_path / "absent"], "absent"),
        (["--val-ids", tmp_path / "empty"], "it lists no video"),
        (["--val-ids", tmp_path / "bytes"], "can't be read"),
        (["--crops-dir", "bboxes"], "--crops-dir bboxes"),
        (["--out", "crops"], "--out crops"),
    ):
        refused(root, *arguments, said=said)
    assert main(root, "--n_splits", 2, "--seed", 0, "--crops-dir", "crops") == 0


@pytest.mark.parametrize("value", ["-1", "65", "x", "", "1.5"])
def test_bits_that_are_none_are_refused(tmp_path, capsys, value):
    with pytest.raises(SystemExit) as end:
        main(tmp_path, f"--similar={value}")
    assert end.value.code == 2
    assert f"{value!r} is neither off nor a number of bits from 0 to 64" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_exits_2_without_a_traceback(tmp_path):
    root = make_root(tmp_path / "root", (0, 1))
    for arguments, said in ((["--n_splits", 1], "--n-splits 1"), (["--crops-dir", "nothing"], "holds no complete")):
        done = run_script("preprocessing/generate_folds.py", "--root-dir", root, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert not (root / "folds.csv").exists()
