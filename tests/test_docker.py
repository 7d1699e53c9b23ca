"""The image: what is copied into it, and as which user it runs. Building it takes an engine, and is not done here."""

import os
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
from helpers import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = [line.split(" ", 1) for line in DOCKERFILE.replace("\\\n", "").splitlines() if re.match("[A-Z]", line)]


def said(name):
    return [value for instruction, value in INSTRUCTIONS if instruction == name]


def test_one_copy_and_versions_from_the_one_list():
    assert said("COPY") == [". ."]
    mounts = re.findall(r"--mount=type=bind,source=(\S+),target=(\S+)", DOCKERFILE)
    assert mounts == [(name, f"/workspace/{name}") for name in ("setup.sh", "requirements.txt")]
    assert sum("./setup.sh" in run for run in said("RUN")) == 2
    assert said("WORKDIR") == ["/workspace"]
    assert said("VOLUME") == ["/dataset"]
    assert "WITH_APEX=0" in said("ARG")
    assert said("ENTRYPOINT") == ['["/workspace/docker-entrypoint.sh"]']
    pip_lines = [line for line in DOCKERFILE.splitlines() if "pip install" in line]
    allowed = ("apex", "nvcc", "-r requirements-cluster.txt")
    assert all(any(word in line for word in allowed) for line in pip_lines), "versions belong in requirements.txt"


def left_out(path, patterns):
    """Whether .dockerignore leaves a file out; the last pattern that fits decides. Enough for the patterns we have."""
    ignored = False
    parents = [str(path), *map(str, path.parents)]
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if bare.startswith("**/"):
            fits = any(fnmatch(part, bare[3:]) for part in path.parts)
        else:  # a star stands for anything but a slash
            fits = any(p.count("/") == bare.count("/") and fnmatch(p, bare) for p in parents)
        ignored = not pattern.startswith("!") if fits else ignored
    return ignored


def test_the_image_has_every_file_of_the_project_and_nothing_that_runs_left_behind():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this copy has no git history that lists its files")
    assert not [name for name in listed.stdout.split("\0") if name and left_out(Path(name), patterns)]
    leftovers = [".git/config", ".venv/bin/python", "demo/a.mp4", "dfdc/__pycache__/video.pyc", "weights/run_best"]
    leftovers += ["logs/run.log", "logs/run/events", "submission.csv", "submission.json", "a.egg-info/PKG-INFO"]
    assert not [name for name in leftovers if not left_out(Path(name), patterns)]


def start(tmp_path, user, owner, *command):
    """What the entry point does for `user` where `owner` (uid, gid) has /dataset; its commands are stand-ins."""
    stubs = {
        "id": f"echo {user}",
        "stat": f'[ "$3" = /dataset ] || exit 9; case $2 in %u) echo {owner[0]} ;; %g) echo {owner[1]} ;; esac',
        "setpriv": "printf 'setpriv'; printf ' <%s>' \"$@\"",
    }
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [ROOT / "docker-entrypoint.sh", *command], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_root_becomes_the_owner_of_the_data(tmp_path):
    status, out = start(tmp_path, 0, (1007, 33), "./preprocess_data.sh", "/dataset", "--prune", "a part")
    wanted = [
        "--reuid=1007",
        "--regid=33",
        "--clear-groups",
        "--",
        "./preprocess_data.sh",
        "/dataset",
        "--prune",
        "a part",
    ]
    assert (status, out) == (0, "setpriv" + "".join(f" <{word}>" for word in wanted))


@pytest.mark.parametrize(("user", "owner"), [(0, (0, 0)), (1007, (0, 0)), (1007, (2000, 2000)), (1007, (1007, 1007))])
def test_root_with_roots_data_and_a_user_that_was_asked_for_stay(tmp_path, user, owner):
    assert start(tmp_path, user, owner, "sh", "-c", 'echo "$1"; exit 3', "-", "two words") == (3, "two words\n")
