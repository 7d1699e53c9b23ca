"""The command that downloads the winners' checkpoints (download_weights.py)."""

from pathlib import Path

import pytest
from helpers import run_script

import download_weights
from networks import published


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], (published.SEVEN, Path("weights"), download_weights.RELEASE)),
        (["--five", "--weights-dir", "w", "--url", "http://h"], (published.FIVE, Path("w"), "http://h")),
    ],
)
def test_which_files_from_where_and_where_to(monkeypatch, arguments, expected):
    calls = []
    monkeypatch.setattr(published, "download", lambda *values: calls.append(values))
    assert download_weights.main(arguments) == 0
    assert calls == [expected]


@pytest.mark.slow
def test_a_failed_download_ends_with_its_message_and_status_1(tmp_path):
    ran = run_script("download_weights.py", "--url", "ftp://nowhere", "--weights-dir", tmp_path)
    assert ran.returncode == 1
    assert "not a valid HTTP URL" in ran.stderr.splitlines()[-1]
