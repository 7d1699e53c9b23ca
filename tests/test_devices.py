"""How many cores a process may use (dfdc/devices.py); out of memory and compiling are in other files."""

import mmap
from pathlib import Path

import pytest
from helpers import mapped_bytes, run_script

from dfdc import devices
from dfdc.command_line import SettingError
from dfdc.devices import release_file_pages


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda process: set(range(8 - process)), raising=False)


def cores(tmp_path, own, files):
    """What is found where /proc/self/cgroup says `own`, and the kernel's files say `files` (path -> text)."""
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")  # above where control groups are: none of them
    (tmp_path / "own").write_bytes(own.encode("latin-1"))
    return devices.available_cores(tmp_path / "cgroup", tmp_path / "own")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 8), ("150000 100000", 2), ("200000 100000", 2), ("5000 100000", 1), ("9900000 100000", 8)],
)
def test_a_containers_quota_counts_rounded_up_and_never_above_the_mask(tmp_path, limit, expected):
    assert cores(tmp_path, "0::/\n", {"cpu.max": limit}) == expected


def test_a_process_that_shares_its_machine_may_be_limited_further(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_most_cores", None)  # put back at the end
    devices.limit_cores(3)
    assert cores(tmp_path, "0::/\n", {"cpu.max": "max 100000"}) == 3
    assert cores(tmp_path, "0::/\n", {"cpu.max": "200000 100000"}) == 2


def test_the_tightest_of_the_own_group_and_those_around_it_counts(tmp_path):
    files = {"a/b/cpu.max": "700000 100000", "a/cpu.max": "300000 100000", "cpu.max": "max 100000"}
    assert cores(tmp_path, "0::/a/b\n", files) == 3
    assert cores(tmp_path, "0::/a/b\n", {"a/b/cpu.max": "max 100000"}) == 3
    assert cores(tmp_path, "0::/a/b\n", {"a/b/cpu.max": "100000 50000", "a/other/cpu.max": "1000 100000"}) == 2
    assert cores(tmp_path, "0::/elsewhere:b/c\n", {"cpu.max": "600000 100000"}) == 6  # a name from outside
    assert cores(tmp_path, "0::/elsewhere:b/c\n", {"elsewhere:b/c/cpu.max": "500000 100000"}) == 5


def test_the_quota_is_looked_for_where_version_1_keeps_it(tmp_path):
    own = "5:memory:/no text \xff\n4:cpuset:/c\n3:cpu,cpuacct:/docker/x\n0::/\n"
    assert cores(tmp_path, own, {"memory/cpu.max": "1 1", "cpuset/c/cpu.cfs_quota_us": "1"}) == 8
    group = "cpu,cpuacct/docker/x"
    assert cores(tmp_path, own, {f"{group}/cpu.cfs_quota_us": "-1", f"{group}/cpu.cfs_period_us": "100000"}) == 8
    assert cores(tmp_path, own, {f"{group}/cpu.cfs_quota_us": "410000"}) == 5
    assert cores(tmp_path, own, {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}) == 4
    assert cores(tmp_path, own, {"unified/cpu.max": "100000 100000"}) == 1


def test_without_control_groups_the_mask_counts_or_the_machine(tmp_path, monkeypatch):
    assert devices.available_cores(tmp_path / "none", tmp_path / "none either") == 8
    monkeypatch.delattr(devices.os, "sched_getaffinity")
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 5)
    assert devices.available_cores(tmp_path / "none", tmp_path / "none either") == 5
    monkeypatch.setattr(devices.os, "cpu_count", lambda: None)
    assert devices.available_cores(tmp_path / "none", tmp_path / "none either") == 1


def test_this_machine_answers():
    assert 1 <= devices.available_cores() <= 8


def test_naming_the_cpu_loads_no_pytorch():
    code = "import sys; from dfdc.devices import resolve_device; resolve_device('cpu'); print('torch' in sys.modules)"
    assert run_script("-c", code).stdout == "False\n"
    with pytest.raises(SettingError, match="device cpu:0: unknown"):
        devices.resolve_device("cpu:0")


def test_t12_batches_are_halved_when_memory_runs_out():
    import torch

    sizes = []

    def forward(batch):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [value * 2 for value in batch]

    assert devices.run_halving(forward, list(range(10))) == [value * 2 for value in range(10)]
    assert sizes == [10, 5, 2, 3, 5, 2, 3]

    def never(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        devices.run_halving(never, [1, 2])

    def other(batch):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        devices.run_halving(other, [1, 2])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_pages_of_a_mapped_file_are_given_back_and_read_again(tmp_path):
    path, other = tmp_path / "with space", tmp_path / "with space too"
    for name in (path, other):
        name.write_bytes(b"x" * 2**20)
    with path.open("rb") as file, other.open("rb") as second:
        kept, rest = (mmap.mmap(handle.fileno(), 0, prot=mmap.PROT_READ) for handle in (file, second))
        assert kept[:] == rest[:]  # reads all pages
        assert mapped_bytes(path) == 2**20
        release_file_pages(path)
        assert mapped_bytes(path) == 0
        assert mapped_bytes(other) == 2**20
        assert kept[:] == rest[:]
        assert mapped_bytes(path) == 2**20


def test_pages_that_may_be_written_are_kept(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 4096)
    with path.open("rb") as file:
        private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        private[0] = ord("y")
        release_file_pages(path)
        assert private[:2] == b"yx"
