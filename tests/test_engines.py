"""Which library runs the networks, and why (networks/engines.py)."""

import shutil
import subprocess

import pytest
from engine_runs import copy_weights, make_entry, some_images
from helpers import run_script
from scoring_runs import make_checkpoint

from dfdc.command_line import SettingError
from networks import engine_cache, engines
from networks.checkpoint import save_checkpoint
from networks.engine_cache import place_of, read_entry
from networks.engines import check_model, choose_engine, open_ensemble
from networks.holdout import Holdout
from networks.model import build_network
from networks.parity import Difference
from networks.spec import CheckpointError, ModelSpec


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate("ab"):
        make_checkpoint(folder, name, seed=seed)
    return folder


@pytest.fixture
def paths(made, tmp_path):
    """Two checkpoints that are worth converting, in a folder of their own."""
    shutil.copytree(made, tmp_path / "w")
    return [tmp_path / "w" / name for name in "ab"]


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    monkeypatch.setattr(engines, "_WORTH_CONVERTING", 0.0)


@pytest.fixture
def conversions(monkeypatch):
    """The conversions that are asked for; in place of each, an entry that is `speed[name]` times as fast."""
    calls, speed = [], {"a": 2.0, "b": 2.0}

    def convert(paths, engine, precision, shown):
        calls.append(([path.name for path in paths], engine, precision, shown))
        for path in paths:
            make_entry(path, engine, precision, theirs=speed[path.name])

    monkeypatch.setattr(engines, "_convert", convert)
    convert.calls, convert.speed = calls, speed
    return convert


def test_an_unknown_engine_is_an_error_of_its_setting(paths):
    with pytest.raises(SettingError, match=r"^engine tensorflow: unknown; choose auto, torch, openvino, onnx$"):
        choose_engine(paths, "tensorflow", "fp32", "cpu")


@pytest.mark.parametrize("engine", ["auto", "torch", "openvino", "onnx"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_onnx_files_alone_run_in_onnx_runtime_and_nothing_is_converted(tmp_path, conversions, engine, device):
    choice = choose_engine([tmp_path / "x.onnx", tmp_path / "y.ONNX"], engine, "bf16", device)
    assert (choice.engine, choice.said) == ("onnx", "ONNX Runtime runs ONNX files")
    assert conversions.calls == []


def test_onnx_files_beside_checkpoints_stay_as_they_are(paths, conversions, tmp_path):
    choice = choose_engine([tmp_path / "x.onnx", *paths], "auto", "fp32", "cpu")
    assert choice.engine == "openvino"
    assert conversions.calls == [(["a", "b"], "openvino", "fp32", False)]


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_gpu_runs_pytorch(paths, conversions, engine):
    choice = choose_engine(paths, engine, "fp16", "cuda:1")
    assert (choice.engine, choice.said, conversions.calls) == ("torch", "PyTorch", [])


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_a_gpu_runs_no_other(paths, conversions, engine):
    said = rf"^engine {engine}: it is for CPUs; use torch or auto, or device cpu$"
    with pytest.raises(SettingError, match=said):
        choose_engine(paths, engine, "fp32", "cuda")
    assert conversions.calls == []


def test_pytorch_on_request_converts_nothing(paths, conversions):
    assert choose_engine(paths, "torch", "fp32", "cpu").said == "PyTorch"
    assert conversions.calls == []


def test_onnx_runtime_computes_in_fp32(paths, conversions):
    with pytest.raises(SettingError, match=r"^engine onnx: it computes in fp32; leave out precision bf16$"):
        choose_engine(paths, "onnx", "bf16", "cpu")
    assert conversions.calls == []
    choice = choose_engine(paths, "onnx", "fp32", "cpu", shown=True)
    assert (choice.engine, choice.said) == ("onnx", "ONNX Runtime, 2.00 times as fast as PyTorch here")
    assert conversions.calls == [(["a", "b"], "onnx", "fp32", True)]


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_openvino_on_a_cpu_and_a_second_run_converts_nothing(paths, conversions, engine):
    for _ in range(2):
        choice = choose_engine(paths, engine, "fp32", "cpu")
        assert (choice.engine, choice.said) == ("openvino", "OpenVINO, 2.00 times as fast as PyTorch here")
        assert len(conversions.calls) == 1
    shutil.rmtree(place_of(paths[1], "openvino"))
    choose_engine(paths, engine, "fp32", "cpu")
    choose_engine(paths, engine, "bf16", "cpu")
    assert conversions.calls[1:] == [(["b"], "openvino", "fp32", False), (["a", "b"], "openvino", "bf16", False)]


def test_another_machine_measures_again(paths, conversions, monkeypatch):
    choose_engine(paths, "auto", "fp32", "cpu")
    monkeypatch.setattr(engine_cache, "available_cores", lambda: 77)
    choose_engine(paths, "auto", "fp32", "cpu")
    assert len(conversions.calls) == 2


@pytest.mark.parametrize(("size", "engine"), [(0.02, "openvino"), (1.0, "torch")])
def test_small_networks_are_not_worth_it_but_may_be_converted_on_request(paths, conversions, monkeypatch, size, engine):
    every = sum(path.stat().st_size for path in paths) / 1e6
    monkeypatch.setattr(engines, "_WORTH_CONVERTING", every * size * 1.001)
    choice = choose_engine(paths, "auto", "fp32", "cpu")
    assert choice.engine == engine
    assert bool(conversions.calls) == (engine == "openvino")
    if engine == "torch":
        assert choice.said == "PyTorch; so small a network is not worth converting"
        monkeypatch.setattr(engines, "_WORTH_CONVERTING", every * 0.999)
        assert choose_engine(paths, "auto", "fp32", "cpu").engine == "openvino"
        monkeypatch.setattr(engines, "_WORTH_CONVERTING", 1e9)
        assert choose_engine(paths, "openvino", "fp32", "cpu").engine == "openvino"


@pytest.mark.parametrize(
    ("speed", "engine", "said"),
    [
        ({"a": 1.0, "b": 1.12}, "openvino", "OpenVINO, 1.06 times as fast as PyTorch here"),  # all together
        ({"a": 1.0, "b": 1.08}, "torch", "PyTorch, faster here than OpenVINO, 1.04 times as fast as PyTorch here"),
        ({"a": 0.5, "b": 0.5}, "torch", "PyTorch, faster here than OpenVINO, 0.50 times as fast as PyTorch here"),
    ],
)
def test_auto_takes_what_is_faster(paths, conversions, speed, engine, said):
    conversions.speed.update(speed)
    choice = choose_engine(paths, "auto", "fp32", "cpu")
    assert (choice.engine, choice.said) == (engine, said)
    assert choose_engine(paths, "openvino", "fp32", "cpu").engine == "openvino"  # on request even where it is slower


@pytest.mark.parametrize(
    ("engine", "package", "title"), [("openvino", "openvino", "OpenVINO"), ("onnx", "onnxruntime", "ONNX Runtime")]
)
def test_what_is_not_installed_is_named(paths, conversions, monkeypatch, engine, package, title):
    find = engines.find_spec
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == package else find(name))
    said = rf"^engine {engine}: {title} is not installed \(\./setup\.sh installs it\); use auto or torch$"
    with pytest.raises(SettingError, match=said):
        choose_engine(paths, engine, "fp32", "cpu")
    choice = choose_engine(paths, "auto", "fp32", "cpu")
    if engine == "openvino":
        assert choice.said == "PyTorch, because OpenVINO is not installed (./setup.sh installs it)"
        assert (choice.engine, conversions.calls) == ("torch", [])
    else:
        assert choice.engine == "openvino"


def both_ways(paths, said, precision="fp32"):
    """`auto` goes on with PyTorch and says why; OpenVINO on request is an error that says the same."""
    choice = choose_engine(paths, "auto", precision, "cpu")
    assert (choice.engine, choice.said) == ("torch", f"PyTorch, because {said}")
    with pytest.raises(SettingError) as error:
        choose_engine(paths, "openvino", precision, "cpu")
    assert str(error.value) == f"engine openvino: {said}; use auto or torch"


def test_other_scores_are_refused_and_not_converted_again(paths, conversions):
    make_entry(paths[0])
    make_entry(paths[1], refused={engine_cache.machine(): {"bf16": "its scores in bf16 differ"}}, precision="fp32")
    make_entry(paths[0], precision="bf16")
    both_ways(paths, "b was converted, but its scores in bf16 differ", "bf16")
    assert conversions.calls == []


def test_a_conversion_without_an_entry_is_named(paths, monkeypatch):
    monkeypatch.setattr(engines, "_convert", lambda *_: None)
    both_ways(paths, "the converted network of a is missing")
    make_entry(paths[0], seconds={})  # another run has just replaced it
    both_ways(paths, "the converted network of a is missing")


class Child:
    """In place of the child process: prints, and ends with a code."""

    def __init__(self, text, code):
        self.stdout, self.returncode, self.ends = self, code, []
        self.text = text

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self):
        if isinstance(self.text, BaseException):
            raise self.text
        return self.text

    def terminate(self):
        self.ends.append("SIGTERM")

    def wait(self, timeout):
        if self.returncode is None:
            raise subprocess.TimeoutExpired("child", timeout)

    def kill(self):
        self.ends.append("SIGKILL")


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("noise\na: RuntimeError: no such operator\n", 1, "a: RuntimeError: no such operator"),
        ("a\x1b[2J\n", 1, r"a\x1b[2J"),
        ("", -9, "the conversion ended with exit code -9"),
        ("\n", 3, "the conversion ended with exit code 3"),
    ],
)
def test_a_conversion_that_fails_is_named(paths, monkeypatch, text, code, said):
    monkeypatch.setattr(engines, "start_module", lambda *_, **options: Child(text, code))
    both_ways(paths, f"OpenVINO can't convert it ({said})")


@pytest.mark.parametrize("shown", [True, False])
def test_the_child_gets_what_it_needs(paths, monkeypatch, shown):
    calls = []

    def start(module, arguments, **options):
        calls.append((module, arguments, options["stderr"]))
        for path in paths:
            make_entry(path)
        return Child("", 0)

    monkeypatch.setattr(engines, "start_module", start)
    monkeypatch.chdir(paths[0].parent)
    assert choose_engine([paths[0].relative_to(paths[0].parent), paths[1]], "auto", "fp32", "cpu", shown=shown)
    word, errors = ("shown", None) if shown else ("quiet", subprocess.DEVNULL)
    assert calls == [("networks.conversion", ["openvino", "fp32", word, *paths], errors)]


@pytest.mark.parametrize(("code", "ends"), [(1, ["SIGTERM"]), (None, ["SIGTERM", "SIGKILL"])])
def test_a_stopped_run_stops_its_conversion(paths, monkeypatch, code, ends):
    child = Child(KeyboardInterrupt(), code)
    monkeypatch.setattr(engines, "start_module", lambda *_, **options: child)
    with pytest.raises(KeyboardInterrupt):
        choose_engine(paths, "auto", "fp32", "cpu")
    assert child.ends == ends


@pytest.mark.parametrize("engine", ["auto", "openvino", "onnx", "torch"])
def test_an_absent_checkpoint_is_named(tmp_path, engine):
    with pytest.raises(CheckpointError, match="absent: no such checkpoint"):
        open_ensemble([tmp_path / "absent"], "cpu", "fp32", engine)


# With a network that was converted.


def scores_of(ensemble):
    found = ensemble.score(list(some_images(3)))
    ensemble.close()
    return found


def test_scores_are_those_of_pytorch(converted, monkeypatch):
    monkeypatch.setattr(engines, "_convert", lambda *_: pytest.fail("converted again"))
    found = {}
    for engine in ("auto", "openvino", "torch"):
        ensemble = open_ensemble([converted / "a"], "cpu", "fp32", engine)
        assert ensemble.said.startswith("PyTorch" if ensemble.engine == "torch" else "OpenVINO, ")
        assert len(ensemble.compilable) == (ensemble.engine == "torch")
        found[engine] = scores_of(ensemble)
    assert found["openvino"] == pytest.approx(found["torch"], abs=1e-4)
    assert found["auto"] == pytest.approx(found["torch"], abs=1e-4)
    assert len({*found["torch"][0].tolist()}) == 3


def damage(path, how, monkeypatch):
    folder = place_of(path, "openvino")
    weights = folder / "model.bin"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "zeroed":
        weights.write_bytes(bytes(weights.stat().st_size))
    elif how == "gone":
        (folder / "model.xml").unlink()
    else:
        monkeypatch.setitem(engine_cache.TOLERANCES, "fp32", Difference(0.0, 0.0))


@pytest.mark.parametrize("how", ["cut", "zeroed", "gone", "others"])
def test_a_damaged_network_is_noticed_at_the_start_and_made_again_by_the_next_run(
    converted, tmp_path, monkeypatch, how
):
    path = copy_weights(converted, tmp_path / "w")
    engine_cache.add_seconds(
        place_of(path, "openvino"), read_entry(path, "openvino"), {"torch fp32": 9.0, "openvino fp32": 1.0}
    )
    expected = scores_of(open_ensemble([path], "cpu", "fp32", "torch"))
    damage(path, how, monkeypatch)
    ensemble = open_ensemble([path], "cpu", "fp32", "auto")
    assert ensemble.engine == "torch"
    assert ensemble.said.startswith("PyTorch, because ")
    assert ensemble.said.endswith("; the next run converts it again")
    assert scores_of(ensemble) == pytest.approx(expected, abs=1e-6)
    assert read_entry(path, "openvino") is None
    todo = []
    monkeypatch.setattr(engines, "_convert", lambda paths, *_: todo.extend(paths))
    assert choose_engine([path], "auto", "fp32", "cpu").engine == "torch"
    assert todo == [path]


def test_a_damaged_network_is_an_error_where_openvino_was_asked_for(converted, tmp_path, monkeypatch):
    path = copy_weights(converted, tmp_path / "w")
    damage(path, "cut", monkeypatch)
    said = r"^engine openvino: .*; the next run converts it again; use auto or torch$"
    with pytest.raises(SettingError, match=said):
        open_ensemble([path], "cpu", "fp32", "openvino")
    assert read_entry(path, "openvino") is None


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_a_damaged_network_of_another_user_stays_and_pytorch_scores(converted, tmp_path, monkeypatch, engine):
    path = copy_weights(converted, tmp_path / "w")
    seconds = {"torch fp32": 9.0, "openvino fp32": 1.0}
    engine_cache.add_seconds(place_of(path, "openvino"), read_entry(path, "openvino"), seconds)
    damage(path, "cut", monkeypatch)

    def refuse(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(engine_cache.artifacts, "remove", refuse)
    said = "; the converted network can't be removed (Permission denied)"
    if engine == "auto":
        ensemble = open_ensemble([path], "cpu", "fp32", engine)
        assert (ensemble.engine, ensemble.said.endswith(said)) == ("torch", True)
    else:
        with pytest.raises(SettingError) as error:
            open_ensemble([path], "cpu", "fp32", engine)
        assert str(error.value).endswith(f"{said}; use auto or torch")


def test_a_converted_checkpoint_is_described_without_pytorch(converted, made, tmp_path):
    code = (
        "import sys, pathlib; from networks.engines import check_model\n"
        "spec, holdout = check_model(pathlib.Path(sys.argv[1]))\n"
        "print(spec.encoder, spec.size, holdout, [name for name in ('torch', 'openvino') if name in sys.modules])"
    )
    assert run_script("-c", code, converted / "a").stdout == "test_efficientnet 64 None []\n"
    assert run_script("-c", code, made / "a").stdout == "test_efficientnet 64 None ['torch']\n"


@pytest.mark.parametrize("entry", [False, True])
def test_spec_and_hold_out_are_those_of_the_checkpoint(tmp_path, entry):
    holdout = Holdout(1, "x", ("v",), 5)
    network = build_network("DeepFakeClassifier", "test_efficientnet")
    spec = ModelSpec("DeepFakeClassifier", "test_efficientnet", 64, margin_part=5)
    save_checkpoint(tmp_path / "a", network, spec, epoch=0, bce_best=1, metrics={}, holdout=holdout)
    if entry:
        make_entry(tmp_path / "a")
    assert check_model(tmp_path / "a") == (spec, holdout)
