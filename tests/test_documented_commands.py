"""README.md and docs/*.md: commands can be run as typed, examples run, links lead somewhere, sentences are short."""

import argparse
import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import documents
import pytest
from documents import PAGES
from helpers import ROOT, copy_dataset
from scoring_runs import make_checkpoint
from training_runs import write_config

from demo_data import make_demo_dataset
from dfdc import layout
from networks import published
from training import train_classifier

MOST_WORDS = 25

# Not run here. quickstart.sh takes minutes, and each of its steps is run below; test.sh, which makes sure of setup.sh,
# runs this test; the fixture `preprocessed` runs preprocess_data.sh; tests/test_step_flags.py has --prune PART.
# tests/test_config_table.py has the last one, which writes into the project.
ELSEWHERE = (
    "./quickstart.sh",
    "./test.sh",
    "./setup.sh",
    "source .venv/bin/activate",
    "pip install --no-deps -r requirements-cluster.txt",
    "./preprocess_data.sh DATA_ROOT",
    "./preprocess_data.sh DATA_ROOT --prune dfdc_train_part_3",
    "python -m training.config_table",
)
# Added to a command that is run, so that it takes seconds: by its script.
SMALLER = {
    "train.sh": ["--epochs", "1", "--set", "batches_per_epoch=1", "--workers", "0"],
    "train_classifier.py": ["--epochs", "1", "--set", "batches_per_epoch=1", "--workers", "0"],
    "make_demo_dataset.py": ["--people", "2", "--fakes", "1", "--frames", "2", "--workers", "1"],
    "average_checkpoints.py": ["--workers", "0"],
}
RUN = "b7_111_DeepFakeClassifier_test_efficientnet_0"
# All other names of the pages (DATA_ROOT, DIR, A, CHECKPOINT, ...) are files and folders of the workplace.
NAMES = {"<run>": RUN, "RUN_30": f"{RUN}_0", "RUN_34": f"{RUN}_1", "RUN_38": f"{RUN}_2"}


COMMANDS = [command for page in PAGES for command in documents.commands(page)]
PARSED = [
    *COMMANDS,
    *(one for page in PAGES for one in documents.inline_commands(page) if "benchmarks/" not in one.text),
]
RUNNABLE = [command for command in COMMANDS if not command.marked and command.text not in ELSEWHERE]


class ParsedError(Exception):
    """Raised where a script has parsed its arguments, so that it does no more."""


def run_in_process(arguments: list[str]) -> int:
    """Run `python ARGUMENTS` here, and return its exit status."""
    module = arguments[0] == "-m"
    arguments = arguments[module:]
    before, sys.argv = sys.argv, arguments
    try:
        (runpy.run_module if module else runpy.run_path)(arguments[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return 0


def script_of(arguments: list[str]) -> list[str]:
    """`python SCRIPT ...` and `torchrun ... SCRIPT ...` from the script on."""
    if arguments[0] == "python":
        return arguments[1:]
    return arguments[next(place for place, word in enumerate(arguments) if word.endswith(".py")) :]


def check_arguments(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """See that a Python script is there and takes these arguments."""
    if arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1])
        return
    assert (ROOT / arguments[0]).is_file()
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self, *given, **options):
        parse(self, *given, **options)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    with pytest.raises(ParsedError):
        run_in_process([str(ROOT / arguments[0]), *arguments[1:]])


def test_the_collector_finds_commands_marks_and_variables(tmp_path):
    page = tmp_path / "page.md"
    fence = "```"
    page.write_text(
        f"{fence}bash\npython a.py  # says why\nA=1 ./b.sh X 2 --c  # needs a GPU\n{fence}\n"
        f"{fence}bash\n# needs Docker\ndocker run \\\n  df\n{fence}\n{fence}\ntree/ of files\n{fence}\n"
        f"{fence}\n./c.sh\n{fence}\n{fence}json\npython no.py\n{fence}\n"
    )
    found = documents.commands(page)
    assert [(command.text, command.marked) for command in found] == [
        ("python a.py", False),
        ("A=1 ./b.sh X 2 --c", True),
        ("docker run df", True),
        ("./c.sh", False),
    ]
    assert (found[1].variables, found[1].arguments) == ({"A": "1"}, ["./b.sh", "X", "2", "--c"])


def test_the_checker_counts_words_of_sentences():
    text = "# A title that is long\n\nOne `a b c` two.\nThree [four](x.md) five: six.\n- seven\n- eight nine\n\n| a |\n"
    assert [documents.count_words(one) for one in documents.sentences(text)] == [3, 4, 1, 2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_are_short(page):
    long = [one for one in documents.sentences(documents.read(page)) if documents.count_words(one) > MOST_WORDS]
    assert not long


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for file, anchor in documents.links(documents.read(page)):
        target = page.parent / file if file else page
        assert target.exists(), file
        if anchor:
            assert anchor in documents.anchors(documents.read(target)), f"{file}#{anchor}"


@pytest.mark.parametrize("command", PARSED, ids=str)
def test_each_command_is_there_and_takes_its_arguments(command, monkeypatch):
    head, *rest = command.arguments
    if head in ("python", "torchrun"):
        check_arguments(script_of(command.arguments), monkeypatch)
    elif head.startswith("./"):
        assert os.access(ROOT / head, os.X_OK)
        text = (ROOT / head).read_text(encoding="utf-8")
        assert all(f"{name}:-" in text for name in command.variables)
        if head == "./train.sh":
            trainer = ["training/train_classifier.py", "--data-dir", rest[0], *rest[2:]]
            assert rest[1].isdecimal()
            check_arguments(trainer, monkeypatch)
        else:
            assert all(f" {word} " in text for word in rest if word.startswith("-"))
    elif head == "docker":
        assert command.marked
        assert all(
            f"ARG {word.partition('=')[0]}=" in (ROOT / "Dockerfile").read_text() for word in rest if "=1" in word
        )
    elif head == "ray":
        scripts = pytest.importorskip("ray.scripts.scripts", reason="Ray is not installed")
        known = {name for option in scripts.cli.commands[rest[0]].params for name in option.opts}
        assert command.marked
        assert {word.partition("=")[0] for word in rest[1:]} <= known
    else:
        assert command.text in ELSEWHERE, f"no test knows {head}"


@pytest.fixture(scope="module")
def workplace(preprocessed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a checkout, with all that the pages name: DATA_ROOT, DIR, LABELLED, checkpoints, logs, lists."""
    place = tmp_path_factory.mktemp("checkout")
    own = ("weights", "logs", "images", "demo")
    for path in ROOT.iterdir():
        if path.name not in own and path.name[0] not in "._" and path.suffix != ".egg-info":
            (place / path.name).symlink_to(path)
    assert make_demo_dataset.main(["--out", str(place / "demo"), *SMALLER["make_demo_dataset.py"]]) == 0
    for name in (*own, "demo/weights", "DIR", "LABELLED"):
        (place / name).mkdir(exist_ok=True)
    data = copy_dataset(preprocessed, place / "DATA_ROOT")
    dataset = layout.load_dataset(data)
    chosen = [*dataset.reals()[:4], *dataset.fakes()[:4]]
    for video in chosen:
        os.link(video.path, place / "LABELLED" / video.path.name)
    labels = {video.path.name: {"label": video.label} for video in chosen}
    (place / "LABELLED" / "metadata.json").write_text(json.dumps(labels))
    os.link(chosen[0].path, place / "DIR" / chosen[0].path.name)
    (place / "videos.txt").write_text(f"DIR/{chosen[0].path.name}\n")
    (place / "held_out.txt").write_text(f"{dataset.reals()[0].id}\n{dataset.fakes()[0].id}\n")

    for seed, name in enumerate(("A", "B", "CHECKPOINT")):
        make_checkpoint(place / "weights", name, seed=seed)
    make_checkpoint(place / "demo/weights", "quickstart_best")
    (place / "weights/selected.txt").write_text("A\nB\n")
    config = write_config(place / "config", epochs=3, batches_per_epoch=1)
    arguments = ["--config", config, "--data-dir", data, "--output-dir", place / "weights", "--log-dir", place / "logs"]
    arguments += ["--prefix", "b7_111_", "--device", "cpu", "--workers", 0]
    assert train_classifier.main([str(argument) for argument in arguments]) == 0
    return place


@pytest.fixture
def in_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("VENV", str(Path(sys.executable).parents[1]))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return workplace


def expand(word: str) -> list[str]:
    """A word with this workplace's names in place of the page's, and with files in place of a pattern."""
    for name, own in NAMES.items():
        word = word.replace(name, own)
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


@pytest.mark.slow
@pytest.mark.parametrize("command", RUNNABLE, ids=str)
def test_each_command_runs_as_typed(command, in_workplace):
    arguments = [expanded for word in command.arguments for expanded in expand(word)]
    script = Path(arguments[arguments[0] == "python"]).name
    arguments += SMALLER.get(script, [])
    if arguments[0] == "python":
        assert run_in_process(arguments[1:]) == 0
    else:
        environment = {**os.environ, **command.variables}
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_python_examples_are_those_that_run_as_typed():
    """tests/test_scorer.py runs the section of docs/scoring.md; no other page has one."""
    section = documents.read(ROOT / "docs/scoring.md").partition("## From another program")[2]
    examples = [
        text for page in PAGES for language, text in documents.blocks(documents.read(page)) if language == "python"
    ]
    assert examples == [text for language, text in documents.blocks(section) if language == "python"]
    assert examples


def test_the_winners_files_are_listed():
    page = documents.read(ROOT / "docs/scoring.md")
    for name in published.SEVEN:
        assert f"| `{name}` | {'yes' if name in published.FIVE else 'no'} |" in page
