"""The compiled layer without a GPU: its kernels on the CPU, nvcc, Caffe's own test tools, CMake."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffe_impl.compiled import CUDA, NAME, SOURCE, TYPE, compiled_layer
from caffe_impl.variants import from_file
from caffe_parity import CaffeNet
from caffe_parity.caffe import install, plugin
from caffe_parity.caffe.client import Caffe, CaffeCrash, Op
from caffe_parity.caffe.compile import (
    CompileError,
    cached,
    compile_with,
    toolchain,
)
from caffe_parity.caffe.interpreter import Interpreter
from caffe_parity.caffe.session import SESSION
from caffe_parity.engine.judge import judge
from parity_tests.layers import LAYERS
from parity_tests.machine import nvcc, tool
from reference.cases import by_name

HERE = Path(__file__).parent / "cuda"
CHANNEL_SUM = LAYERS["channel_sum"]
KERNELS = CUDA / f"{NAME}_kernels.hpp"
GPUS = ("75", "80", "86", "89", "90", "100", "120")
"""From Turing to Blackwell, as far as the nvcc at hand knows them."""

SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}


def succeed(command: Sequence[object], environment: dict[str, str] | None = None) -> str:
    """Runs a command that must succeed; returns all that it printed."""
    ran = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ran.returncode == 0, f"{' '.join(map(str, command))}\n{ran.stdout[-6000:]}"
    return ran.stdout


def content(*files: Path) -> list[bytes]:
    """What decides a build, for the cache."""
    return [file.read_bytes() for file in files]


def kernels_on_cpu(header: Path, sanitizer: str) -> Path:
    """The program that runs the kernels of `header` on the CPU, built with a sanitizer."""
    compiler = tool("g++", "c++")
    program = HERE / "kernels_on_cpu.cpp"
    flags = ("-std=c++11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pthread")

    def make(folder: Path) -> None:
        layers = folder / "caffe/layers"
        layers.mkdir(parents=True)
        shutil.copy(header, layers / KERNELS.name)
        options = (*flags, *SANITIZERS[sanitizer], f"-I{folder}")
        succeed([compiler, *options, program, "-o", folder / "kernels"])

    version = succeed([compiler, "--version"])
    key = (content(header, program), flags, SANITIZERS[sanitizer], version)
    return cached("kernels", key, make) / "kernels"


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_kernels_on_the_cpu(sanitizer: str) -> None:
    """The GPU kernels, run on the CPU under a sanitizer, make what a plain loop makes."""
    said = succeed([kernels_on_cpu(KERNELS, sanitizer)])
    assert said.splitlines()[-1] == "passed"


def test_a_missing_barrier_is_seen(tmp_path: Path) -> None:
    """ThreadSanitizer finds a barrier that a kernel lacks, so its silence proves something."""
    text = KERNELS.read_text()
    barrier = "if (in_warp) { thread.SyncWarp(); } else { thread.Sync(); }\n    }\n"
    assert text.count(barrier) == 1
    broken = tmp_path / KERNELS.name
    broken.write_text(text.replace(barrier, "}\n"))
    program = kernels_on_cpu(broken, "thread")
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    ran = subprocess.run([program], env=environment, capture_output=True, text=True)
    assert ran.returncode != 0
    assert "data race" in ran.stderr


@pytest.mark.parametrize("standard", ["c++98", "c++11", "c++20"])
def test_kernels_are_plain_cpp(standard: str) -> None:
    """The kernels' header is C++ of every standard, so it fits the oldest Caffe tree as well."""
    strict = (f"-std={standard}", "-pedantic-errors", "-Wno-long-long", "-Wall", "-Wextra")
    succeed([tool("g++", "c++"), *strict, "-Werror", "-fsyntax-only", "-x", "c++", KERNELS])


def test_kernels_compile_for_every_gpu() -> None:
    """nvcc takes every kernel for every GPU generation that it knows from sm_75 on, unwarned."""
    compiler = nvcc()
    source = HERE / "kernels_on_gpu.cu"
    known = set(re.findall(r"sm_(\d+)", succeed([compiler, "--list-gpu-code"])))
    wanted = [gpu for gpu in GPUS if gpu in known]
    assert {"80", "90"} <= set(wanted)
    targets = [f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in wanted]
    flags = ("-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra", "--threads=0", "-c")

    def make(folder: Path) -> None:
        where = f"-I{CUDA}"
        succeed([compiler, *targets, *flags, where, source, "-o", folder / "kernels.o"])

    key = (content(source, KERNELS), targets, flags, succeed([compiler, "--version"]))
    cached("nvcc-kernels", key, make)


def test_layer_compiles_for_a_gpu() -> None:
    """nvcc takes the .cu against Caffe's own headers, with the compiler that Caffe was built with.

    A toolkit may lack cuBLAS and cuRAND, of which Caffe's headers need the names of four types;
    then these four stand in for them. Nothing is linked or run.
    """
    compiler = nvcc()
    root = install.ensure()
    tools = toolchain(root)
    source = SOURCE.with_suffix(".cu")
    flags = ("-arch=sm_90", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra", "-c")
    stand_in = HERE / "toolkit_stand_in"
    real = Path(compiler).resolve().parent.parent / "include/cublas_v2.h"
    folders = [tools / "include", *([] if real.exists() else [stand_in])]

    def make(folder: Path) -> None:
        plugin.link_headers(folder, [CUDA])
        where = [f"-I{path}" for path in (folder, *folders)]
        succeed(
            [compiler, "-ccbin", tools / "g++", *where, *flags, source, "-o", folder / "layer.o"]
        )

    headers = [*CUDA.glob("*.hpp"), *stand_in.glob("*.h")]
    key = (content(source, *sorted(headers)), tools.name, flags, succeed([compiler, "--version"]))
    cached("nvcc-layer", key, make)


def test_caffes_own_test_tools() -> None:
    """Caffe's fixtures and GradientChecker find nothing wrong, in float and in double."""
    root = install.ensure()
    sources = [SOURCE, HERE / f"test_{SOURCE.name}", HERE / "gtest_main.cpp"]
    # Caffe's own style compares int with size_t everywhere.
    warnings = ("-Wall", "-Wextra", "-Werror", "-Wno-sign-compare")
    flags = ("-O1", "-DCPU_ONLY", *warnings, "-lgtest", "-pthread")

    def make(folder: Path) -> None:
        plugin.link_headers(folder, [CUDA])
        compile_with(root, folder / "layer_test", sources, [folder], flags)

    key = (content(*sources, *sorted(CUDA.glob("*.hpp"))), str(root), flags)
    program = cached("gtest", key, make) / "layer_test"
    python, environment = install.python_command(root)
    said = succeed([*python[:-1], program], environment)
    passed = re.search(r"\[  PASSED  \] (\d+) tests", said)
    assert passed is not None
    assert int(passed[1]) == 2 * len(re.findall(r"^TYPED_TEST\(", sources[1].read_text(), re.M))


def test_cmake_builds_the_same_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CMakeLists.txt builds for a Caffe of one's own agrees in that Caffe, too."""
    cmake = tool("cmake")
    generator = "Ninja" if shutil.which("ninja") else "Unix Makefiles"
    if generator != "Ninja":
        tool("make")
    root = install.ensure()
    tools = toolchain(root)

    def make(folder: Path) -> None:
        settings = {
            "CMAKE_CXX_COMPILER": tools / "g++",
            "CMAKE_FIND_ROOT_PATH": root,
            "CMAKE_LIBRARY_ARCHITECTURE": "x86_64-linux-gnu",
            "CAFFE_PROTO_INCLUDE_DIR": tools / "include",
        }
        options = [f"-D{name}={value}" for name, value in settings.items()]
        succeed([cmake, "-G", generator, "-S", CUDA, "-B", folder / "build", *options])
        succeed([cmake, "--build", folder / "build"])
        shutil.move(folder / "build" / f"{NAME}.so", folder)
        shutil.rmtree(folder / "build")  # it knows its path, which is not the final one

    sources = sorted(CUDA.iterdir())
    key = ([file.name for file in sources], content(*sources), tools.name)
    library = cached("cmake", key, make) / f"{NAME}.so"
    monkeypatch.setenv("PARITY_PLUGIN", str(library))
    assert compiled_layer.__wrapped__(SESSION.running()) == (str(library),)
    SESSION.close()  # it may have loaded the other one
    compiled_layer.cache_clear()
    try:
        assert judge(CHANNEL_SUM, "caffe-cuda", by_name("channels-3-7")).verdict == "pass"
    finally:
        SESSION.close()
        compiled_layer.cache_clear()


def test_force_backward_reaches_both_bottoms() -> None:
    """The net's own force_backward gives both inputs their gradient; LossLayer's gives one."""
    loads = [{"op": "load", "library": library} for library in compiled_layer(SESSION.running())]
    text = from_file("channel_sum_cuda.prototxt")(by_name("base"))
    x1 = np.ones((2, 3, 4), np.float32)
    shapes = {"x1": x1.shape, "x2": x1.shape}
    net = {"op": "net", "text": text, "edits": {"shapes": shapes, "force_backward": True}}
    ops: list[Op] = [
        *loads,
        net,
        {"op": "set", "blob": "x1", "array": x1},
        {"op": "set", "blob": "x2", "array": 0 * x1},
        {"op": "forward"},
        {"op": "poison", "value": 7.0},
        {"op": "backward"},
        {"op": "diff", "blob": "x1"},
        {"op": "diff", "blob": "x2"},
    ]
    *_, dx1, dx2 = SESSION.running().request(ops)
    assert (dx1["array"] == 1.5).all()  # d is 3, N is 2
    assert (dx2["array"] == -1.5).all()


@pytest.mark.parametrize("shape", [(3, 3, 5, 6), (4, 3, 6, 5), (4, 3, 30), (4, 3), (4,)])
def test_a_refusal_names_both_shapes(shape: tuple[int, ...]) -> None:
    """Shapes that differ in more than the channels are refused with a message that shows both."""
    loads = [{"op": "load", "library": library} for library in compiled_layer(SESSION.running())]
    text = from_file("channel_sum_cuda.prototxt")(by_name("base"))
    edits = {"shapes": {"x1": (4, 3, 5, 6), "x2": shape}}
    with pytest.raises(CaffeCrash) as caught:
        SESSION.running().request([*loads, {"op": "net", "text": text, "edits": edits}])
    second = f"{' '.join(map(str, shape))} ({int(np.prod(shape))})"
    assert f"got 4 3 5 6 (360) and {second}" in str(caught.value)


def test_a_new_worker_loads_the_plug_in_again() -> None:
    """After a crash the layer is there again, although the process is another one."""
    assert judge(CHANNEL_SUM, "caffe-cuda", by_name("base")).verdict == "pass"
    SESSION.close()
    assert judge(CHANNEL_SUM, "caffe-cuda", by_name("base")).verdict == "pass"


class Other(Caffe):
    """A Caffe of a user's own that has the given layer types, and no more; nothing is started."""

    def __init__(self, program: Path, *layers: str) -> None:
        super().__init__(Interpreter((str(program),), {}, "CAFFE_PYTHON"))
        self.layers = layers

    def start(self) -> dict[str, Any]:
        """A greeting."""
        return {"layers": [*self.layers]}


def test_another_caffe_needs_a_plug_in_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CAFFE_PYTHON, whose headers are unknown: none, what lies beside it, or what to do."""
    monkeypatch.delenv("PARITY_PLUGIN", raising=False)
    assert compiled_layer(Other(tmp_path / "python", TYPE)) == ()
    with pytest.raises(CompileError, match="PARITY_PLUGIN"):
        compiled_layer(Other(tmp_path / "python", "Python", "EuclideanLoss"))
    beside = tmp_path / f"{NAME}.so"
    beside.touch()
    assert compiled_layer(Other(tmp_path / "python")) == (str(beside),)


def test_a_plug_in_that_cannot_be_built_is_a_verdict() -> None:
    """The variant fails with the compiler's words instead of ending the whole run."""

    def fail(caffe: Caffe) -> tuple[str, ...]:
        raise CompileError("first error: x.cpp:1: error: no")

    cuda = CHANNEL_SUM.variants["caffe-cuda"]
    assert isinstance(cuda, CaffeNet)
    layer = replace(CHANNEL_SUM, variants={"caffe-cuda": replace(cuda, libraries=fail)})
    record = judge(layer, "caffe-cuda", by_name("base"))
    assert record.verdict == "crash"
    assert "x.cpp:1: error: no" in record.reason
