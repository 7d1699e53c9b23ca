"""The house: which module may import which, what importing costs, and that files named elsewhere exist."""

import ast
import os
import re
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers import ROOT, run_script, write_part

SCRIPTS = ["predict_folder.py", "plot_loss.py", "export_model.py", "download_weights.py"]
SCRIPTS += ["training/train_classifier.py", "training/average_checkpoints.py"]
SCRIPTS += [
    str(path.relative_to(ROOT))
    for folder in ("preprocessing", "demo_data")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in path.read_text()
]
FOLDERS = sorted(path.parent for package in ROOT.glob("*/__init__.py") for path in package.parent.rglob("__init__.py"))
PACKAGES = [".".join(folder.relative_to(ROOT).parts) for folder in FOLDERS]
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "facenet_pytorch",
    "albumentations",
    "matplotlib",
    "pandas",
    "skimage",
    "sklearn",
    "av",
    "onnx",
    "onnxruntime",
    "safetensors",
    "jinja2",
    "ray",
)


# What each room and each script may import of the project; arrows point down (docs/architecture.md).
ALLOWED = {
    "dfdc": {"dfdc"},
    "networks": {"dfdc", "networks"},
    "preprocessing": {"dfdc", "preprocessing"},
    "training": {"dfdc", "networks", "training"},
    "prediction": {"dfdc", "networks", "prediction"},
    "demo_data": {"dfdc", "demo_data"},
    "plot_loss": {"dfdc", "training"},
    "export_model": {"dfdc", "networks"},
    "download_weights": {"dfdc", "networks"},
    "predict_folder": {"dfdc", "networks", "prediction"},
}
MODULES = [*ROOT.glob("*.py"), *(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))]


def imports_of(path, *, at_import_only=False):
    """Names of the modules that a file imports; `from a import b` may mean both a and a.b."""
    nodes = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not at_import_only or not (for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            nodes += ast.iter_child_nodes(node)


@pytest.mark.slow
def test_arrows_point_down_only():
    (listed,) = re.findall(r"^packages = (\[[^\]]*\])", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    folders = {path.parent.relative_to(ROOT) for path in MODULES if path.parent != ROOT}
    assert {str(folder).replace("/", ".") for folder in folders} == set(ast.literal_eval(listed))
    for path in MODULES:
        home = path.relative_to(ROOT).parts[0].removesuffix(".py")
        used = {name.split(".")[0] for name in imports_of(path)} & ALLOWED.keys()
        assert used <= ALLOWED[home], f"{path.relative_to(ROOT)} imports {used - ALLOWED[home]}"


# Folders whose library modules may still name flags in what they raise.
NAMING_FLAGS = ()


def test_library_code_raises_no_message_that_names_a_flag():
    """It names the setting, by `dfdc.command_line.setting`; flags are known to modules that read a command line."""
    for path in MODULES:
        if path.parent == ROOT or path.relative_to(ROOT).parts[0] in NAMING_FLAGS or "argparse" in imports_of(path):
            continue
        raised = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Raise)]
        texts = [node for one in raised for node in ast.walk(one) if isinstance(node, ast.Constant)]
        flags = [(node.lineno, node.value) for node in texts if re.search(r"--[a-z]", str(node.value))]
        assert not flags, f"{path.relative_to(ROOT)} names flags: {flags}"


def test_no_modules_import_each_other_in_a_circle():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    graph = {}
    for name, path in names.items():
        used = {other for other in imports_of(path, at_import_only=True) if other in names}
        # `from a import b` runs a/__init__.py as well, but where b is a module it is b that is wanted.
        graph[name] = {other for other in used if not any(more.startswith(f"{other}.") for more in used)}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.slow
def test_a_decoder_a_detector_and_matplotlib_have_one_door_each():
    for path in MODULES:
        names = {name.split(".")[0] for name in imports_of(path)}
        assert "av" not in names or path.match("dfdc/video*.py"), path
        assert "VideoCapture" not in path.read_text(), path
        assert "facenet_pytorch" not in names or path.name == "faces.py", path
        assert "matplotlib" not in names or path.name == "plotting.py", path


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_answers_at_once_without_heavy_libraries(script, tmp_path):
    code = (
        "import os, sys, runpy; sys.argv = [sys.argv[1], '--help']; sys.path[0] = os.path.dirname(sys.argv[0])\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        f"except SystemExit as e: print(e.code, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    seconds = []
    while not seconds or (min(seconds) >= 0.5 and len(seconds) < 5):  # of a processor: the machine may be busy
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-c", code, str(ROOT / script)], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
        assert "usage:" in done.stdout
    assert min(seconds) < 0.5


def test_what_light_heads_import_is_light():
    light = ("boxes", "command_line", "detector_settings", "devices", "folds", "landmarks", "layout", "scoring")
    code = "import sys; " + "".join(f"import dfdc.{name}; " for name in light)
    done = run_script("-c", f"{code}print([m for m in {(*HEAVY, 'cv2', 'scipy')!r} if m in sys.modules])")
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_start_with_what_they_do_and_a_command(script):
    doc = ast.get_docstring(ast.parse((ROOT / script).read_text())) or ""
    assert f"python {script}" in doc or f"    python {script}" in doc
    assert run_script(script, "--no-such-flag").returncode == 2


def test_the_list_of_versions_is_complete_and_names_no_host():
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.match(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==\S+( ;.*)?$", line) for line in lines)
    assert "facenet-pytorch==2.6.0" in lines
    assert any(line.startswith("torch==2.15.0 ; python_full_version >= '3.11'") for line in lines)


@pytest.mark.parametrize(
    "script",
    ["setup.sh", "test.sh", "quickstart.sh", "preprocess_data.sh", "train.sh", "docker-entrypoint.sh", ".ci/run"],
)
def test_shell_scripts_parse_and_stop_at_errors(script):
    assert "set -euo pipefail" in (ROOT / script).read_text()
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    assert (ROOT / script).stat().st_mode & 0o100


@pytest.mark.parametrize(
    ("python", "free_kb", "said"),
    [
        (None, 99_000_000, "there is no 'python3'. Install Python 3.10"),
        ('[ "$1" = -V ] && { echo Python 3.8.1; exit; }; exit 1', 99_000_000, "Python 3.8.1, but Python 3.10 or newer"),
        ('case "$2" in *ensurepip*) exit 1;; esac', 99_000_000, "apt-get install python3-venv"),
        ("exit 0", 1_000_000, "has 0 GB of free space"),
    ],
)
def test_setup_says_what_to_install_or_free(tmp_path, python, free_kb, said):
    commands = {"df": f'echo header; echo "/dev/x 9 9 {free_kb} 9% /"'}
    if python:
        commands["python3"] = python
    for name in ("dirname", "awk", "cmp", "mkdir", "bash", "rm"):
        commands[name] = f'exec {shutil.which(name)} "$@"'
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": str(tmp_path), "VENV": str(tmp_path / "venv")}
    done = subprocess.run(
        ["/bin/bash", ROOT / "setup.sh"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    assert said in done.stderr


@pytest.mark.slow
def test_each_skipped_test_is_named_with_its_reason(tmp_path):
    lines = [
        "import pytest",
        "@pytest.mark.skip(reason='no moon')",
        "@pytest.mark.parametrize('side', ['near', 'far'])",
    ]
    (tmp_path / "test_it.py").write_text("\n".join([*lines, "def test_moon(side): pass", "def test_sun(): pass"]))
    command = (ROOT / "test.sh").read_text().splitlines()[-1]
    options = command.split(" -m pytest ")[1].replace('"${chosen[@]}" "$@"', "").split()
    done = run_script("-m", "pytest", "-c", ROOT / "pyproject.toml", *options, tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    said = [line.rpartition("/")[2] for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert said == [f"test_it.py::test_moon[{side}] - Skipped: no moon" for side in ("near", "far")]


def test_the_hooks_check_what_test_sh_does_and_fetch_nothing():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    checks = re.findall(r"entry: \.venv/bin/(\w+) (\w+)", text)
    assert checks == re.findall(r'^"\$bin/(\w+)" (\w+)', (ROOT / "test.sh").read_text(), re.MULTILINE)
    assert re.findall(r"repo: (.*)", text) == ["local"]
    assert text.count("language: system") == text.count("id: ") == len(checks) == 3


def test_setup_again_does_nothing():
    versions, own = (Path(sys.prefix) / name for name in (".installed", ".project"))
    wanted = (ROOT / "pyproject.toml").read_text() + f"{ROOT.resolve()}\n"
    here = versions.is_file() and versions.read_text() == (ROOT / "requirements.txt").read_text()
    if not here or not own.is_file() or own.read_text() != wanted:
        pytest.skip("this environment was not made by this folder's setup.sh")
    environment = {**os.environ, "VENV": str(Path(sys.executable).parents[1])}
    done = subprocess.run([ROOT / "setup.sh"], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["predict_folder.py", "--models", "a", "--test-dir", "absent"], "absent: no such folder or file"),
        (["training/train_classifier.py", "--config", "absent", "--data-dir", "."], "absent"),
        (["preprocessing/detect_original_faces.py", "--root-dir", "absent"], "absent"),
        (["preprocessing/generate_landmarks.py", "--root-dir", "absent"], "absent"),
        (["preprocessing/extract_crops.py", "--root-dir", "absent"], "absent"),
    ],
)
def test_wrong_use_is_told_before_pytorch_is_loaded(command, said, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\natexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
    )
    done = run_script(*command, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.splitlines()[-1] == "False"


@pytest.mark.slow
def test_workers_take_their_modules_from_this_folder(tmp_path):
    """A package of the same name where the command is started is nobody's business."""
    (tmp_path / "preprocessing").mkdir()
    (tmp_path / "preprocessing/__init__.py").write_text("raise ImportError('the wrong one')")
    write_part(tmp_path / "root/dfdc_train_part_0", {"a.mp4": {"label": "REAL"}})
    shutil.copy(ROOT / "tests/data/clip/real.mp4", tmp_path / "root/dfdc_train_part_0/a.mp4")
    step = ROOT / "preprocessing/detect_original_faces.py"
    done = run_script(step, "--root-dir", tmp_path / "root", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "root/bboxes/a.json").is_file()
