"""The compiled layer's kernels as functions of PyTorch's tensors, through ctypes.

They are built on demand, by nvcc for the GPU at hand and by the C++ compiler for the CPU, from the
layer's own file, in seconds and without PyTorch's headers; the eager calls on the CPU also with
these, which takes 8 seconds. What was built is kept by its content. The same input gives the same
bits every time, on either.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch

KERNELS = (
    Path(__file__).parents[1] / "caffe_impl/cuda/channel_sum_euclidean_loss_kernels.hpp"
)  # the layer's own file: one statement of the mathematics for all
CUDA_SOURCE = Path(__file__).with_name("cuda") / "launch.cu"
CPU_SOURCE = Path(__file__).with_name("cpu") / "run.cpp"
STRAIGHT_SOURCE = Path(__file__).with_name("cpu") / "straight.cpp"
PYTORCH = Path(torch.__file__).parent
_ALL = ("-O3", "-std=c++17", "-shared")
CUDA_FLAGS = (*_ALL, "-Werror=all-warnings", "-Xcompiler=-fPIC,-Wall,-Wextra")
# No product is fused with a sum: the bits are the same for every processor.
CPU_FLAGS = (*_ALL, "-ffp-contract=off", "-fPIC", "-pthread", "-Wall", "-Wextra")
_HEADERS = [PYTORCH / "include", PYTORCH / "include/torch/csrc/api/include"]
STRAIGHT_FLAGS = (
    *("-O1", "-std=c++20", "-shared", "-fPIC", "-Wall", "-Wextra"),
    f"-D_GLIBCXX_USE_CXX11_ABI={torch.compiled_with_cxx11_abi():d}",
    *(word for folder in _HEADERS for word in ("-isystem", str(folder))),
)
PYTORCHS_LIBRARIES = (f"-L{PYTORCH / 'lib'}", "-ltorch_cpu", "-lc10")
CPU, STRAIGHT = "cpu", "straight"
TYPES = {torch.float32: "float", torch.float64: "double"}


class NoKernels(Exception):
    """The kernels cannot be built here; the message says why."""


class Kernels(Protocol):
    """Both directions, on the tensors of one kind of device."""

    def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, shape (), and d, (N, S...); of (N, C1, S...) and (N, C2, S...)."""

    def backward(
        self, d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
    ) -> list[torch.Tensor | None]:
        """The gradients of (N, C1, S...) and (N, C2, S...); None for one that is not wanted."""


def nvcc() -> str | None:
    """The CUDA compiler: on PATH, in CUDA_HOME or CUDA_PATH, or that of PyPI; None without one."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    packages = find_spec("nvidia")
    for folder in (packages.submodule_search_locations or ()) if packages else ():
        homes += [f"{folder}/cu13", f"{folder}/cuda_nvcc"]
    names = ("nvcc", *(f"{home}/bin/nvcc" for home in homes))
    return next((path for path in map(shutil.which, names) if path), None)


def compiler() -> str | None:
    """The C++ compiler: CXX, or one on PATH that takes GCC's options; None without one."""
    names = (os.environ.get("CXX") or "g++", "g++", "c++", "clang++")
    return next((path for path in map(shutil.which, names) if path), None)


def build(target: str) -> Path:
    """The library for "cpu", "straight", "sm_90" or the like, compiled if it is not in the cache.

    Raises:
        NoKernels: there is no compiler, it refuses, or the cache cannot be written.
    """
    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    program = nvcc() if target not in (CPU, STRAIGHT) else compiler()
    kind, source, against, flags, libraries = "torch-fast", CPU_SOURCE, KERNELS, CPU_FLAGS, ()
    if target == STRAIGHT:
        kind, source, against = "torch-fast-straight", STRAIGHT_SOURCE, PYTORCH / "version.py"
        flags, libraries = STRAIGHT_FLAGS, PYTORCHS_LIBRARIES
    elif target != CPU:
        kind, source, flags = "torch-cuda", CUDA_SOURCE, (f"-arch={target}", *CUDA_FLAGS)
    if program is None:
        raise NoKernels("no nvcc" if kind == "torch-cuda" else "no C++ compiler (g++ or clang++)")
    try:
        content = source.read_bytes() + against.read_bytes()
        key = repr((content, flags, platform.machine(), _run([program, "--version"])))
        name = f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
        library = _cache_folder() / name
        if not library.exists():
            library.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent) as work:
                if target == STRAIGHT:
                    print("building torch-fast's calls in C++, once: 10 s or more", file=sys.stderr)
                command = [program, *flags, f"-I{KERNELS.parent}", str(source)]
                _run([*command, "-o", f"{work}/{name}", *libraries])
                with open(f"{work}/{name}", "rb") as built:
                    os.fsync(built.fileno())  # a library that is cut off would end Python
                Path(work, name).replace(library)  # at once, whoever else builds it as well
    except OSError as error:
        raise NoKernels(f"the kernels cannot be built: {error}") from error
    return library


def _cache_folder() -> Path:
    chosen = os.environ.get("PARITY_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser().absolute() / "caffe-parity"


def _run(command: Sequence[str]) -> str:
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip().splitlines() or ["nothing"]
        first = next((line for line in said if "error" in line), said[-1])
        raise NoKernels(f"{Path(command[0]).name} failed: {first}")
    return ran.stdout


_SIZE, _POINTER = ctypes.c_longlong, ctypes.c_void_p


class CpuKernels:
    """The functions of a library that `cpu/run.cpp` was built into; on PyTorch's threads."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        self.run: dict[tuple[str, torch.dtype], Any] = {}
        for dtype, name in TYPES.items():
            for direction in ("forward", "backward"):
                function = loaded[f"channel_sum_{direction}_{name}"]
                function.argtypes = [ctypes.c_int, *[_SIZE] * 4, *[_POINTER] * 4]
                function.restype = None
                self.run[direction, dtype] = function

    def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, shape (), and d, (N, S...)."""
        x1, x2 = x1.contiguous(), x2.contiguous()
        loss, d = empty_outputs(x1)
        n, c1, *_ = x1.shape
        self.run["forward", x1.dtype](
            *(torch.get_num_threads(), n, c1, x2.shape[1], d.numel() // n),
            *(x1.data_ptr(), x2.data_ptr(), d.data_ptr(), loss.data_ptr()),
        )
        return loss, d

    def backward(
        self, d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
    ) -> list[torch.Tensor | None]:
        """The gradients of (N, C1, S...) and (N, C2, S...); None for one that is not wanted."""
        d = as_written(d, weight)
        diffs = empty_diffs(d, channels, wanted)
        addresses = [None if each is None else each.data_ptr() for each in diffs]
        self.run["backward", d.dtype](
            *(torch.get_num_threads(), d.shape[0], *channels, d.numel() // d.shape[0]),
            *(d.data_ptr(), weight.data_ptr(), *addresses),
        )
        return diffs


class CudaKernels:
    """The functions of a library that `cuda/launch.cu` was built into."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        extents = [_SIZE] * 4
        self.partials: dict[torch.dtype, Any] = {}
        self.launch: dict[tuple[str, torch.dtype], Any] = {}
        for dtype, name in TYPES.items():
            self.partials[dtype] = loaded[f"channel_sum_partials_{name}"]
            self.partials[dtype].argtypes = extents
            for direction, pointers in (("forward", 6), ("backward", 5)):
                function = loaded[f"channel_sum_{direction}_{name}"]
                function.argtypes = [ctypes.c_int, *extents, *[_POINTER] * pointers]
                function.restype = ctypes.c_char_p
                self.launch[direction, dtype] = function

    def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, shape (), and d, (N, S...)."""
        x1, x2 = x1.contiguous(), x2.contiguous()
        loss, d = empty_outputs(x1)
        extents = (x1.shape[0], x1.shape[1], x2.shape[1], x1.shape[2:].numel())
        count = self.partials[x1.dtype](*extents)
        partials = torch.empty(count, dtype=torch.float64, device=x1.device)
        self._launch("forward", extents, x1, x2, d, partials, loss)
        return loss, d

    def backward(
        self, d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
    ) -> list[torch.Tensor | None]:
        """The gradients of (N, C1, S...) and (N, C2, S...); None for one that is not wanted."""
        d, weight = as_written(d, weight), weight.contiguous()
        diffs = empty_diffs(d, channels, wanted)
        extents = (d.shape[0], *channels, d.shape[1:].numel())
        self._launch("backward", extents, d, weight, *diffs)
        return diffs

    def _launch(
        self, direction: str, extents: Sequence[int], *tensors: torch.Tensor | None
    ) -> None:
        """Launches on the present stream of the tensors' device.

        Raises:
            RuntimeError: CUDA refuses; the message is CUDA's.
        """
        first = tensors[0]
        assert first is not None
        # PyTorch gives memory back to the stream that a tensor was made on, and `contiguous` may
        # have made one; all of that is this stream.
        with torch.cuda.device(first.get_device()):  # -1, the CPU: no change
            stream = torch.cuda.current_stream().cuda_stream if first.is_cuda else None
            pointers = [None if each is None else each.data_ptr() for each in tensors]
            device = max(first.get_device(), 0)
            said = self.launch[direction, first.dtype](device, *extents, *pointers, stream)
        if said:
            raise RuntimeError(f"channel_sum_euclidean_loss, {direction}: {said.decode()}")


def empty_outputs(x1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for the loss and for d."""
    n, _, *positions = x1.shape
    return x1.new_empty(()), x1.new_empty((n, *positions))


def as_written(d: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The d that forward made: a hook on saved tensors may give it in another order or type."""
    return d.to(weight.dtype).contiguous()


def with_channels(d: torch.Tensor, channels: int) -> tuple[int, ...]:
    """The shape of an input with so many channels."""
    n, *positions = d.shape
    return (n, channels, *positions)


def empty_diffs(
    d: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
) -> list[torch.Tensor | None]:
    """Memory for the gradients of x1 and x2; None for one that is not wanted."""
    pairs = zip(channels, wanted, strict=True)
    return [d.new_empty(with_channels(d, count)) if want else None for count, want in pairs]


@cache
def _kernels(target: str) -> Kernels | NoKernels:
    """The kernels, or why there are none: neither is looked for twice."""
    try:
        library = build(target)
        return CpuKernels(library) if target == CPU else CudaKernels(library)
    except NoKernels as reason:
        return reason
    except (OSError, AttributeError) as error:
        return NoKernels(_not_loaded(library, error))


def kernels(target: str) -> Kernels:
    """The kernels for "cpu", or for "sm_90" or the like, built and loaded once.

    Raises:
        NoKernels: they cannot be built, or not be loaded.
    """
    found = _kernels(target)
    if isinstance(found, NoKernels):
        raise found
    return found


def kernels_of(tensor: torch.Tensor) -> Kernels:
    """The kernels for the device that a tensor is on.

    Raises:
        NoKernels: there are none.
    """
    if tensor.is_cpu:
        return kernels(CPU)
    if not tensor.is_cuda:
        raise NoKernels(f"there are none for {tensor.device.type}")
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return kernels(f"sm_{major}{minor}")


@cache
def straight() -> Callable[[torch.Tensor, torch.Tensor, bool], torch.Tensor | None] | None:
    """The loss of an eager call on the CPU, with its gradients, in C++; None if it is not built.

    It says None of what another way must take, or refuse.
    """
    found = _kernels(CPU)
    if not isinstance(found, CpuKernels):
        return None  # for a reason that fused.py says
    try:
        library = build(STRAIGHT)
    except NoKernels as reason:
        _slower(str(reason))
        return None
    try:
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        addresses = [ctypes.cast(each, _POINTER) for each in found.run.values()]
        ctypes.CDLL(str(library)).channel_sum_use(*addresses)
    except (OSError, AttributeError) as error:
        _slower(_not_loaded(library, error))
        return None
    loss: Callable[..., Any] = torch.ops.caffe_parity.channel_sum_euclidean_loss_straight.default
    return loss


def _not_loaded(library: Path, error: Exception) -> str:
    return f"{library} cannot be loaded; delete it, to have it built anew: {error}"


def _slower(why: str) -> None:
    """Says that an eager call is not in C++."""
    words = (
        "channel_sum_euclidean_loss is called through Python, not C++: the same numbers, in more"
    )
    warnings.warn(f"{words} time: {why}", RuntimeWarning, stacklevel=4)


def no_compiler() -> str | None:
    """Why nothing can be built for the CPU here, or None where it can."""
    return None if compiler() else "no C++ compiler (g++ or clang++)"


def no_nvcc() -> str | None:
    """Why nothing can be built for a GPU here, or None where it can."""
    return None if nvcc() else "no nvcc"
