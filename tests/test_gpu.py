"""GPU mode: without a GPU everything says so; with one, what must hold only there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caffe_impl.variants import NETS
from caffe_parity import Layer, Port
from caffe_parity.caffe import driver, gpu
from caffe_parity.caffe.client import Caffe, Op
from caffe_parity.caffe.compile import cached
from caffe_parity.caffe.interpreter import Interpreter, NoCaffe
from caffe_parity.caffe.session import SESSION
from caffe_parity.engine.judge import plan_of, variant_of
from parity_tests.layers import LAYERS
from parity_tests.machine import cpu_caffe, not_run
from studies.benchmarks import gpu as benchmark
from tests.test_cli import MAIN_JOB, PARITY, python, results
from torch_impl import kernels
from torch_impl import variants as torch_variants

ROOT = Path(__file__).parent.parent
REASON = "not run: no CUDA device"
AGAINST_CPU = ROOT / "parity_tests" / "cuda" / "kernels_against_cpu.cu"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of the GPU, on which variants compute meanwhile; not run where there is none."""
    reason = driver.no_device()
    if reason:
        not_run(reason)
    monkeypatch.setattr(SESSION, "device", "cuda")
    SESSION.use(gpu.gpu_caffe())
    yield driver.devices()[0]
    SESSION.use(None)


@pytest.fixture
def no_device() -> None:
    """For what is said where there is no GPU."""
    if not driver.no_device():
        not_run("there is a CUDA device")


VARIANTS = [(layer, name) for layer in LAYERS.values() for name in layer.variants]


@pytest.mark.usefixtures("no_device")
@pytest.mark.parametrize("options", [("--device", "cuda"), ("--device=cuda",)], ids=" ".join)
def test_without_a_gpu_every_row_says_so(tmp_path: Path, options: Sequence[str]) -> None:
    """With --allow-missing table, JSON and JUnit say `not run: no CUDA device`, without a Caffe."""
    no_caffe = str(tmp_path / "no-such-python")
    chosen = (*options, "--allow-missing", "--case", "base")
    status, said, errors = python(MAIN_JOB, *chosen, cwd=tmp_path, CAFFE_PYTHON=no_caffe)
    assert status == 0, said + errors
    assert len([line for line in said.splitlines() if line.endswith(REASON)]) == len(VARIANTS)
    report = results(tmp_path / "parity-report")
    assert (report.environment["device"], report.environment["gpu"]) == ("cuda", None)
    got = [(each.layer, each.variant) for each in report.results]
    assert sorted(got) == sorted((layer.name, name) for layer, name in VARIANTS)
    for each in report.results:
        assert (each.verdict, each.reason) == ("not run", "no CUDA device")
    suite = ElementTree.parse(tmp_path / "parity-report" / "junit.xml").getroot()
    skips = [case.find("skipped") for case in suite.iter("testcase")]
    assert [skip.get("message") for skip in skips if skip is not None] == [REASON] * len(VARIANTS)
    assert len(skips) == len(VARIANTS)


@pytest.mark.usefixtures("no_device")
def test_a_gpu_job_is_not_green_without_one(tmp_path: Path) -> None:
    """Status 2, and the option that says otherwise."""
    status, said, errors = python(MAIN_JOB, "--device", "cuda", "--case", "base", cwd=tmp_path)
    assert status == 2, said + errors
    assert "nothing can run on the GPU: no CUDA device. With --allow-missing" in said + errors


TESTS = """
from dataclasses import replace
import caffe_parity
from reference.channel_sum import LAYER

MINE = {"mine": caffe_parity.net("mine.prototxt")}

@caffe_parity.parametrize(replace(LAYER, variants=MINE))
def test_mine(comparison):
    comparison.check()
"""


@pytest.mark.usefixtures("no_device")
def test_a_net_of_ones_own_says_so_too(tmp_path: Path) -> None:
    """A net of a user's with --device cuda, too, is not run and not an error."""
    shutil.copy(NETS / "channel_sum_convolution.prototxt", tmp_path / "mine.prototxt")
    (tmp_path / "test_mine.py").write_text(TESTS)
    options = ("run", "test_mine.py", "--device", "cuda", "--allow-missing", "--case", "base")
    status, said, errors = python(PARITY, *options, cwd=tmp_path)
    assert status == 0, said + errors
    assert f"channel_sum  mine         1         -      0.0  {REASON}" in said


def test_unknown_device_is_refused(tmp_path: Path) -> None:
    """Another word than cpu or cuda ends in status 2 and names both."""
    status, said, errors = python(MAIN_JOB, "--device", "tpu", cwd=tmp_path)
    assert status == 2
    assert "cpu" in said + errors and "cuda" in said + errors


@pytest.mark.usefixtures("no_device")
def test_the_benchmark_says_so_too(tmp_path: Path) -> None:
    """studies.benchmarks gives every ratio on a GPU as not run, with the reason, and exits 0."""
    options = ("--only", "gpu", "--results", str(tmp_path))
    status, said, errors = python("studies.benchmarks", *options, cwd=tmp_path)
    assert status == 0, said + errors
    rows = [line for line in said.splitlines() if line.startswith("| gpu |")]
    assert len(rows) >= 17
    assert all(row.endswith(f"| - | {row.split('|')[6].strip()} | {REASON} |") for row in rows)
    written = json.loads((tmp_path / "speed-gpu.json").read_text())
    assert [each["verdict"] for each in written["ratios"]] == [REASON] * len(rows)


def test_a_driver_that_does_not_start_is_no_missing_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the driver is told as such: there may well be a device."""
    broken = type("Broken", (), {"cuInit": lambda self, flags: 999})
    monkeypatch.setattr("ctypes.CDLL", lambda name: broken())
    driver.devices.cache_clear()
    try:
        with pytest.raises(driver.DriverError, match="its error 999"):
            driver.devices()
        assert driver.no_device() == "the CUDA driver does not start: its error 999"
    finally:
        driver.devices.cache_clear()


def test_a_cpu_caffe_is_refused() -> None:
    """GPU mode in a Caffe without CUDA, where set_mode_gpu() succeeds, is an error that says so."""
    with pytest.raises(NoCaffe, match="GPU mode needs a Caffe with CUDA"):
        gpu.GpuCaffe(cpu_caffe()).start()


def test_a_machine_that_cannot_have_one_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no Caffe without CUDA can be installed, its tests are not run, with the reason."""
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match=r"^not run: apt-get and .* not found"):
        cpu_caffe()


def test_a_machine_without_debians_keys_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one with a GPU: nothing is fetched there, and the tests are not run, not failed."""
    exists = os.path.exists
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os.path, "exists", lambda path: "keyring" not in str(path) and exists(path))
    with pytest.raises(pytest.skip.Exception, match=r"^not run: the keys that Debian signs"):
        cpu_caffe()


class Pretender(gpu.GpuCaffe):
    """A Caffe that says it runs on a GPU; what it says about memory and kernels is given."""

    def __init__(self, mode: str, taken: int, launches: int, loss: float) -> None:
        super().__init__(Interpreter(("false",), {}, "CAFFE_PYTHON"))
        self.answers = (mode, taken, launches, loss)

    def start(self) -> dict[str, Any]:
        """A greeting."""
        return {"mode": self.answers[0], "cuda": True}

    def request(self, ops: Sequence[Op]) -> list[dict[str, Any]]:
        """The answers to the net of `prove`."""
        _, taken, launches, loss = self.answers
        self.kernels += launches
        free = 10 * 2**30
        results: list[dict[str, Any]] = [{} for _ in ops]
        results[0] = {"free": free}
        results[-2:] = [{"free": free - taken}, {"array": np.array([loss])}]
        return results


RIGHT: tuple[str, int, int, float] = ("gpu", 192 * 2**20, 3, 2.0**19)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (("cpu", *RIGHT[1:]), "greeting says mode 'cpu'"),
        (("gpu", 0, *RIGHT[2:]), "took 0 of the GPU's"),
        (("gpu", RIGHT[1], 0, RIGHT[3]), "launched no kernel"),
        ((*RIGHT[:3], 1.0), "loss of the net is 1.0, not 524288"),
    ],
)
def test_a_gpu_that_is_none_is_found_out(answers: tuple[str, int, int, float], words: str) -> None:
    """Each part of the proof is needed: mode, memory, kernels, and the right result."""
    gpu.prove(Pretender(*RIGHT))
    with pytest.raises(gpu.NotTheGpu, match=words):
        gpu.prove(Pretender(*answers))


def nvcc() -> str:
    """The CUDA compiler; not run where there is none."""
    found = kernels.nvcc()
    if found is None:
        not_run("no nvcc")
    return found


def build(name: str, source: Path, *flags: str) -> Path:
    """What nvcc makes of a source file, from the cache if it has been made before."""
    command = [nvcc(), *flags, "-std=c++17", "-Werror=all-warnings"]
    folders = [f"-I{file.parent}" for file in (kernels.KERNELS, kernels.CUDA_SOURCE)]

    def make(folder: Path) -> None:
        built = [*command, *folders, str(source), "-o", str(folder / name)]
        ran = subprocess.run(built, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]

    files = (source, kernels.KERNELS, kernels.CUDA_SOURCE)
    key = ([file.read_bytes() for file in files], command)
    return cached("on-gpu", key, make) / name


LAUNCH = """
__global__ void Nothing() {}
extern "C" void launch_twice() {
  Nothing<<<1, 1>>>();
  Nothing<<<1, 1>>>();
}
"""

COUNTED = """
import ctypes, sys
from caffe_parity.caffe.worker import worker
worker.load_launch_counter()
library = ctypes.CDLL(sys.argv[1])
worker.connect_launch_counter()
counter = worker.LAUNCH_COUNTER
before = counter.parity_take_launches()
library.launch_twice()
print(before, counter.parity_take_launches(), counter.parity_take_launches())
"""


def test_every_launch_is_counted(tmp_path: Path) -> None:
    """What nvcc's code launches passes through the counter, once for each launch."""
    source = tmp_path / "launch.cu"
    source.write_text(LAUNCH)
    flags = ("-shared", "-cudart=shared", "-Xcompiler=-fPIC", f"-arch={architecture()}")
    library = build("launch.so", source, *flags)
    counter = gpu.launch_counter(Interpreter((sys.executable,), {}, "CAFFE_PYTHON"))
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(library)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PARITY_LAUNCH_COUNTER": str(counter)},
    )
    if "libcudart.so" in done.stderr:
        not_run("no libcudart.so")
    assert done.stdout.split() == ["0", "2", "0"], done.stderr


def architecture() -> str:
    """What nvcc builds for: the GPU at hand, or one that there might be."""
    return "sm_90" if driver.no_device() else "native"


def test_the_worker_asks_for_its_counter(caffe: Caffe) -> None:
    """Without the counter the op is an error, not a zero."""
    with pytest.raises(Exception, match="PARITY_LAUNCH_COUNTER is not set"):
        caffe.request([{"op": "launches"}])


def test_the_workers_stopwatch(caffe: Caffe) -> None:
    """`time` answers with between 3 and 300 durations of a forward and a backward."""
    shapes = {"x1": (2, 3, 4, 5), "x2": (2, 3, 4, 5)}
    text = (NETS / "euclidean_native.prototxt").read_text()
    net = {"op": "net", "text": text, "edits": {"shapes": shapes, "force_backward": True}}
    times = [{"op": "time", "budget": 0.0}, {"op": "time", "budget": 1e9}]
    _, few, many = caffe.request([net, *times])
    assert [len(few["seconds"]), len(many["seconds"])] == [3, 300]
    assert min(few["seconds"]) > 0


def test_the_benchmark_runs_through(caffe: Caffe, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for the GPU it measures every way, and says what was not run."""

    def host_seconds(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def ports() -> dict[str, dict[str, Port]]:
        made = torch_variants.variants()["channel_sum"]
        for name in ("torch-cuda", "torch-module"):
            made[name] = replace(made[name], obstacle=lambda: None, device="cpu")
        return {"channel_sum": made}

    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(SESSION, "device", "cuda")
    for name, stand_in in {
        "event_seconds": host_seconds,
        "as_graph": lambda run: run,
        "kernels_of": lambda tensor: None,
        "caffe_obstacle": lambda: None,
        "torch_variants": ports,
        "BUDGET": 0.0,
    }.items():
        monkeypatch.setattr(benchmark, name, stand_in)
    measured = {each.name: each for each in benchmark.measure(1e4)}
    nets = ("caffe-python", "caffe-convolution", "caffe-cuda", "caffe-reduction")
    for name in ("copy", "torch-cuda graph", "torch-cuda call", "torch-module call", *nets):
        assert len(measured[name].seconds) >= 3
    if driver.no_device():
        assert measured["torch-compiled call"].reason == "no CUDA device"
    monkeypatch.setattr(benchmark, "caffe_obstacle", lambda: "no Caffe with CUDA")
    again = {each.name: each for each in benchmark.measure(1e4)}
    assert {again[name].reason for name in nets} == {"no Caffe with CUDA"}


def test_the_program_for_the_gpu_compiles() -> None:
    """nvcc takes the program that compares the kernels on a GPU with the CPU's bits, unwarned."""
    build("kernels", AGAINST_CPU, *PROGRAM_FLAGS, f"-arch={architecture()}")


PROGRAM_FLAGS = ("-O3", "-lineinfo", "-Xcompiler=-Wall,-Wextra")


# What follows needs a GPU.


@pytest.mark.usefixtures("device")
def test_caffe_is_on_the_gpu() -> None:
    """The greeting, the memory, the kernels and the result of a net prove it."""
    gpu.prove(gpu.gpu_caffe())


@pytest.mark.usefixtures("device")
def test_everything_agrees_on_the_gpu(tmp_path: Path) -> None:
    """All variants in GPU mode agree with the reference, and Caffe launched kernels."""
    status, said, errors = python(MAIN_JOB, "--device", "cuda", cwd=tmp_path)
    assert status == 0, said + errors
    report = results(tmp_path / "parity-report")
    assert report.environment["gpu"]["kernels"] > 0
    assert report.environment["gpu"]["tf32"] is False


def repeated(layer: Layer, name: str) -> list[str]:
    """The cases in which a variant made other bits in one of 102 passes over the same inputs."""
    different = []
    for case in layer.all_cases():
        expected = variant_of(layer, name).expects(case)
        if expected is not None and expected.kind == "refused":
            continue
        ready = plan_of(layer, name, case)
        seen: dict[str, set[bytes]] = {}
        compared = [each.name for each in ready.plan.passes if each.expected == 0]
        for _ in range(102 // len(compared)):
            observed = ready.variant.observe(ready.plan)
            for each in compared:
                for tensor, value in observed.tensors[each].items():
                    if value is not None:
                        seen.setdefault(tensor, set()).add(value.tobytes())
        different += [f"{case.name} {tensor}" for tensor, bits in seen.items() if len(bits) > 1]
    return different


def test_repetition_finds_what_changes() -> None:
    """A port that adds a last bit now and then does not make the same bits every time."""
    calls = iter(range(10_000))

    def right(x: torch.Tensor) -> torch.Tensor:
        return (x * x).sum()

    def moody(x: torch.Tensor) -> torch.Tensor:
        return right(x) * (1 + 2.0**-20 * (next(calls) % 2))

    layer = Layer("mine", right, {"x": (2, 3)}, {"right": right, "moody": moody}, cases=2)
    assert repeated(layer, "right") == []
    found = [f"{case} {tensor}" for case in (0, 1) for tensor in ("loss", "gradient:x")]
    assert repeated(layer, "moody") == found


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(
    ("layer", "name"), VARIANTS, ids=[f"{layer.name}-{name}" for layer, name in VARIANTS]
)
def test_the_same_bits_every_time(layer: Layer, name: str) -> None:
    """Every case gives the same bits in more than 100 passes."""
    reason = variant_of(layer, name).cannot_run()
    if reason:
        not_run(reason)
    assert repeated(layer, name) == []


@pytest.mark.usefixtures("device")
def test_the_kernels_make_the_cpus_bits() -> None:
    """100 runs of each shape, aligned or not, give the bits of the layer's CPU code."""
    program = build("kernels", AGAINST_CPU, *PROGRAM_FLAGS, f"-arch={architecture()}")
    ran = subprocess.run([program, "100"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, "passed"), ran.stdout + ran.stderr


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    """compute-sanitizer watches every kernel over all shapes and has nothing to say."""
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        str(Path(nvcc()).resolve().with_name("compute-sanitizer"))
    )
    if sanitizer is None:
        not_run("no compute-sanitizer")
    program = build("kernels", AGAINST_CPU, *PROGRAM_FLAGS, f"-arch={architecture()}")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", str(program), "2"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
