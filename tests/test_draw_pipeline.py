"""The command that draws the picture on top of the README (demo_data/draw_pipeline.py)."""

import pytest
from helpers import write_part

from demo_data import draw_pipeline, pipeline_picture
from dfdc.command_line import UserError


def test_data_set_crops_and_output_arrive(tmp_path, monkeypatch, capsys):
    part = write_part(tmp_path / "part_0", {"a.mp4": {"label": "REAL"}})
    (part / "a.mp4").write_bytes(b"x")
    drawn = []
    monkeypatch.setattr(pipeline_picture, "draw", lambda *given: drawn.append(given))
    given = ["--root-dir", str(tmp_path), "--output", str(tmp_path / "p.png")]
    assert draw_pipeline.main(given) == 0
    assert draw_pipeline.main([*given, "--crops-dir", "other"]) == 0
    assert [(list(dataset.videos), *rest) for dataset, *rest in drawn] == [
        (["a"], "crops", tmp_path / "p.png"),
        (["a"], "other", tmp_path / "p.png"),
    ]
    assert capsys.readouterr().out == f"wrote {tmp_path / 'p.png'}\n" * 2


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="absent"):
        draw_pipeline.main(["--root-dir", str(tmp_path / "absent"), "--output", str(tmp_path / "p.png")])
    assert list(tmp_path.iterdir()) == []
