"""How a step calls the network, and on what (training/wrapping.py)."""

import contextlib
import shutil
import subprocess
import sys
import types

import pytest
import torch
from helpers import ROOT
from tiny_runs import Tiny, everything, make_batch, make_run, train

from dfdc.command_line import UsageError
from training import wrapping
from training.distributed import Ranks
from training.engine import validate  # noqa: F401 (imported so that a cycle of imports shows here)


class FakeGpus:
    """torch.cuda as on a machine with two cards of different age."""

    def __init__(self, monkeypatch, majors):
        self.current, self.majors, self.asked = 0, majors, []
        monkeypatch.setattr(torch.cuda, "device", self.device)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "get_device_properties", self.properties)
        monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)  # emulated

    @contextlib.contextmanager
    def device(self, name):
        before, self.current = self.current, int(name.split(":")[1])
        yield
        self.current = before

    def properties(self, device=None):
        self.asked.append(device)
        return types.SimpleNamespace(major=self.majors[device if device is not None else self.current])


@pytest.mark.skipif(torch.version.hip is not None, reason="ROCm has bf16 on every card")
def test_t54_auto_takes_bf16_only_where_the_runs_own_card_has_it(monkeypatch):
    gpus = FakeGpus(monkeypatch, majors=[7, 8])  # a V100 and an A100
    assert wrapping.amp_type("auto", "cuda:0") is torch.float16
    assert wrapping.amp_type("auto", "cuda:1") is torch.bfloat16
    assert (gpus.asked, gpus.current) == ([0, 1], 0)


def test_precisions_by_name():
    assert wrapping.amp_type("auto", "cpu") is None
    assert wrapping.amp_type("bf16", "cpu") is torch.bfloat16
    assert wrapping.amp_type("fp32", "cuda:0") is None
    assert wrapping.amp_type("fp16", "cuda:0") is torch.float16
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        wrapping.amp_type("fp16", "cpu")


def test_fast_kernels_on_a_gpu_only_and_tf32_for_float32_only():
    before = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    found = []
    try:
        for device, kind in (("cpu", None), ("cuda:0", torch.bfloat16), ("cuda:0", None)):
            torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")
            wrapping.use_fast_kernels(device, kind)
            found.append(
                (
                    torch.backends.cudnn.benchmark,
                    torch.get_float32_matmul_precision(),
                    torch.backends.cudnn.allow_tf32,
                )
            )
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before[0], before[2]
        torch.set_float32_matmul_precision(before[1])
    assert found == [(False, "highest", False), (True, "highest", False), (True, "high", True)]


def test_ddp_is_told_what_it_may_rely_on(monkeypatch):
    made = []
    monkeypatch.setattr(
        wrapping, "DistributedDataParallel", lambda model, **options: made.append(options) or ("ddp", model)
    )
    for device, accumulate in (("cpu", 1), ("cuda:1", 1), ("cpu", 2)):
        run = make_run(accumulate=accumulate)
        run.ranks = Ranks(rank=1, local_rank=1, world_size=2, device=device)
        assert wrapping.wrap(run, frozen=False) == (("ddp", run.model), "")
    assert [options["device_ids"] for options in made] == [None, [1], None]
    assert [options["static_graph"] for options in made] == [True, True, False]
    assert all(options["gradient_as_bucket_view"] for options in made)
    assert wrapping.wrap(make_run(), frozen=False)[0].__class__ is Tiny  # alone: no DDP


def test_wrapping_freezes_and_thaws():
    run = make_run()
    for frozen in (True, False):
        wrapping.wrap(run, frozen=frozen)
        assert {p.requires_grad for p in run.model.encoder.parameters()} == {not frozen}
        assert run.model.fc.weight.requires_grad


class FakeCompiled:
    """Stands for a compiled network that takes `seconds` for a forward pass, by a clock of its own."""

    def __init__(self, model, clock, seconds):
        self.model, self.clock, self.seconds = model, clock, seconds

    def __call__(self, images):
        self.clock.now += self.seconds
        return self.model(images)


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the forward passes of networks move: a second for one that is not compiled."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(wrapping.time, "perf_counter", lambda: clock.now)
    plain = Tiny.forward

    def forward(self, images):
        clock.now += 1.0
        return plain(self, images)

    monkeypatch.setattr(Tiny, "forward", forward)
    return clock


@pytest.mark.parametrize(
    ("extra", "kept", "said"),
    [
        (-0.5, True, "compiled: 2.00 times as fast"),
        (-0.02, False, "compiling brings no speed-up here (1.02 times as fast); continuing without"),
        (1.0, False, "compiling brings no speed-up here (0.50 times as fast); continuing without"),
    ],
)
def test_compile_auto_keeps_the_faster_form_and_leaves_no_trace(monkeypatch, clock, extra, kept, said):
    run = make_run(compile="auto", size=8)
    before = everything(run)
    monkeypatch.setattr(torch, "compile", lambda model: FakeCompiled(model, clock, extra))
    model, found = wrapping.compile_model(run)
    assert found == said
    assert isinstance(model, FakeCompiled) is kept
    assert kept or model is run.model
    assert all(p.grad is None for p in run.model.parameters())
    after = everything(run)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {len(images) for images in run.model.seen} == {4}  # of a training batch, whose shape is compiled for
    assert len(run.model.seen) == 2 * 4


def test_all_ranks_decide_alike(monkeypatch, clock):
    run = make_run(compile="auto", size=8)
    monkeypatch.setattr(torch, "compile", lambda model: FakeCompiled(model, clock, -0.5))
    # Another rank loses more than this one gains.
    monkeypatch.setattr(wrapping, "gather_objects", lambda own: [own, (4.0, 1.0, "")])
    assert wrapping.compile_model(run)[0] is run.model
    monkeypatch.setattr(wrapping, "gather_objects", lambda own: [own, (float("inf"), 1.0, "no compiler there")])
    assert wrapping.compile_model(run) == (run.model, "no compiler there; continuing without compilation")


@pytest.mark.slow
def test_compile_auto_goes_on_where_there_is_no_compiler_and_on_does_not(monkeypatch):
    def no_compiler(model):
        def call(images):
            raise RuntimeError("no C++ compiler\nlong explanation")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    run = make_run(compile="auto", size=8)
    model, said = wrapping.compile_model(run)
    assert model is run.model
    assert said == "the network can't be compiled (RuntimeError: no C++ compiler); continuing without compilation"
    run = make_run(compile="on", size=8)
    model, said = wrapping.compile_model(run)
    assert said == "compiled"
    with pytest.raises(RuntimeError, match="no C"):
        train(run, [make_batch(1)])


def test_compile_off_does_not_compile(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_: pytest.fail("it compiles"))
    run = make_run()
    assert wrapping.compile_model(run) == (run.model, "")


@pytest.mark.slow
def test_a_compiled_network_is_the_one_that_trains(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda model: lambda images: calls.append(1) or model(images))
    run = make_run(steps=3, compile="on")
    before = everything(run)
    train(run, [make_batch(step) for step in range(3)])
    assert len(calls) == 3
    assert not torch.equal(before["fc.weight"], run.model.fc.weight)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_really_compiled_network_trains_alike():
    ends = []
    for mode in ("off", "on"):
        run = make_run(steps=3, compile=mode, optimizer={"learning_rate": 0.1})
        train(run, [make_batch(step) for step in range(3)])
        ends.append(everything(run))
    assert ends[0].keys() == ends[1].keys()
    for name in ends[0]:
        assert torch.allclose(ends[0][name], ends[1][name], atol=1e-5), name


@pytest.mark.slow
def test_peak_memory_is_told_in_mib():
    """In a process of its own, which begins with the peak of the one that started it."""
    code = (
        "from training.wrapping import peak_memory; before = peak_memory('cpu'); "
        "held = b'x' * int((before + 300) * 2**20); print(before, peak_memory('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    before, after = map(float, done.stdout.split())
    assert before + 300 < after < before + 300 + 1000  # what Python and PyTorch take is besides


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_peak_memory_of_a_gpu_is_reset():
    held = torch.zeros(2**20, device="cuda")
    assert wrapping.peak_memory("cuda:0") >= 4
    del held
    assert wrapping.peak_memory("cuda:0") >= 4  # still the peak since the call before
    assert wrapping.peak_memory("cuda:0") < 4


@pytest.mark.parametrize("skipped", [True, False])
def test_statistics_come_back_after_a_skipped_step_only(skipped):
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(5), torch.nn.Linear(1, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    statistics = wrapping.Statistics(model)
    statistics.keep()
    changed = {name: torch.full_like(value, 7) for name, value in before.items()}
    changed["0.running_var"][1] = float("nan")
    model.load_state_dict(changed)
    statistics.restore_where(torch.tensor(skipped))
    for name, value in model.state_dict().items():
        expected = before if skipped and "running" in name else changed
        assert torch.equal(value.nan_to_num(-1), expected[name].nan_to_num(-1)), name


def test_a_network_without_statistics_has_none_to_restore():
    statistics = wrapping.Statistics(torch.nn.Linear(1, 1))
    statistics.keep()
    statistics.restore_where(torch.tensor(True))
