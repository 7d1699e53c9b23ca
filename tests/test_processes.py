"""Which process on which machine (dfdc/processes.py)."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dfdc import processes
from dfdc.command_line import UserError
from dfdc.processes import Process, disk_time, host_id, process_start


def test_whether_a_process_has_ended(ended):
    own = Process.own()
    assert own == Process(host_id(), os.getpid(), process_start(os.getpid()))
    assert own.ended is False
    assert Process(own.host, ended.pid, own.start).ended is True
    assert Process(own.host, own.pid, own.start - 1).ended is True  # its number was used again
    assert Process("0" * 8, own.pid, own.start).ended is None


def test_a_folder_of_temporary_files_has_room_for_names_of_sockets(monkeypatch):
    folder = "/" + "é" * 34 + "x"
    monkeypatch.setattr(tempfile, "tempdir", folder)
    processes.check_temp_folder()
    monkeypatch.setattr(tempfile, "tempdir", folder + "x")
    with pytest.raises(UserError, match=r"has 71 bytes, too many .* at most 70 bytes"):
        processes.check_temp_folder()


def test_of_a_process_that_proc_hides_nobody_can_tell_whether_it_has_ended(monkeypatch, ended):
    """As the mount option hidepid does with processes of other users."""
    own, gone = Process.own(), Process(host_id(), ended.pid, 5)
    ended.wait()

    def hide(*_, **__):
        raise PermissionError(1, "Operation not permitted", "stat")

    monkeypatch.setattr(Path, "read_text", hide)
    monkeypatch.setattr(Path, "read_bytes", hide)
    assert own.ended is None
    assert gone.ended is True


@pytest.mark.parametrize("part", ["_boot_id", "_pid_namespace", "name"])
def test_a_host_is_another_after_a_restart_in_another_container_and_under_another_name(monkeypatch, part):
    before = host_id()
    assert before == host_id()
    assert len(before) == 8
    place = processes.platform if part == "name" else processes
    monkeypatch.setattr(place, "node" if part == "name" else part, lambda: "another")
    host_id.cache_clear()
    assert host_id() != before
    monkeypatch.undo()
    host_id.cache_clear()
    assert host_id() == before


def test_a_system_without_proc_has_a_host_too(monkeypatch):
    def refuse(*_, **__):
        raise FileNotFoundError

    for name in ("read_text", "readlink"):
        monkeypatch.setattr(Path, name, refuse)
    assert (processes._boot_id(), processes._pid_namespace()) == ("", "")


def test_when_a_process_began(ended):
    before = process_start(os.getpid())
    assert before > 0
    later = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert process_start(later.pid) > before
    assert process_start(ended.pid) is None
    later.kill()
    later.wait()
    assert process_start(later.pid) is None
    assert process_start(1 << 40) is None


def test_where_there_is_no_proc_a_number_has_to_do(monkeypatch):
    monkeypatch.setattr(type(Path()), "exists", lambda path: False)
    assert process_start(os.getpid()) == 0
    assert process_start(1) == 0  # somebody else's, maybe
    assert process_start(1 << 40) is None
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert process_start(gone.pid) is None


def test_the_time_of_a_disk_is_that_of_its_files(tmp_path):
    (tmp_path / "before").write_text("")
    found = disk_time(tmp_path)
    (tmp_path / "after").write_text("")
    assert (tmp_path / "before").stat().st_mtime <= found <= (tmp_path / "after").stat().st_mtime
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after", "before"]


def test_a_disk_that_is_away_has_no_time(tmp_path):
    with pytest.raises(FileNotFoundError):
        disk_time(tmp_path / "away")
