"""The port on the compiled layer's own kernels: a `torch.library` custom op for CUDA tensors.

Forward reads each input once and keeps d, N*S values; backward writes each gradient once. The same
input gives the same bits every time. The kernels are built on demand, by nvcc, for the GPU at hand;
tensors on the CPU, and GPUs for which nothing can be built, go through plain PyTorch.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("cuda") / "launch.cu"
KERNELS = (
    Path(__file__).parents[1] / "caffe_impl/cuda/channel_sum_euclidean_loss_kernels.hpp"
)  # the layer's own file: one statement of the mathematics for all
FLAGS = ("-O3", "-std=c++17", "-Werror=all-warnings", "-Xcompiler=-fPIC,-Wall,-Wextra", "-shared")
TYPES = {torch.float32: "float", torch.float64: "double"}
OP = "caffe_parity::channel_sum_euclidean_loss"


class NoKernels(Exception):
    """The kernels cannot be built here; the message says why."""


def nvcc() -> str | None:
    """The CUDA compiler: on PATH, in CUDA_HOME or CUDA_PATH, or that of PyPI; None without one."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    packages = find_spec("nvidia")
    for folder in (packages.submodule_search_locations or ()) if packages else ():
        homes += [f"{folder}/cu13", f"{folder}/cuda_nvcc"]
    names = ("nvcc", *(f"{home}/bin/nvcc" for home in homes))
    return next((path for path in map(shutil.which, names) if path), None)


def build(architecture: str) -> Path:
    """The library with the kernels for "sm_90" or the like, compiled if it is not in the cache.

    Raises:
        NoKernels: there is no nvcc, it refuses, or the cache cannot be written.
    """
    compiler = nvcc()
    if compiler is None:
        raise NoKernels("no nvcc")
    command = [compiler, f"-arch={architecture}", *FLAGS, f"-I{KERNELS.parent}", str(SOURCE)]
    try:
        content = SOURCE.read_bytes() + KERNELS.read_bytes()
        key = repr((content, architecture, FLAGS, _run([compiler, "--version"])))
        name = f"torch-cuda-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
        library = _cache_folder() / name
        if not library.exists():
            library.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent) as work:
                _run([*command, "-o", f"{work}/{name}"])
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
        raise NoKernels(f"nvcc failed: {first}")
    return ran.stdout


class Kernels:
    """The functions of a library that `cuda/launch.cu` was built into."""

    def __init__(self, library: Path) -> None:
        loaded = ctypes.CDLL(str(library))
        size, pointer = ctypes.c_longlong, ctypes.c_void_p
        extents = [size] * 4
        self.partials: dict[torch.dtype, Any] = {}
        self.launch: dict[tuple[str, torch.dtype], Any] = {}
        for dtype, name in TYPES.items():
            self.partials[dtype] = loaded[f"channel_sum_partials_{name}"]
            self.partials[dtype].argtypes = extents
            for direction, pointers in (("forward", 6), ("backward", 5)):
                function = loaded[f"channel_sum_{direction}_{name}"]
                function.argtypes = [ctypes.c_int, *extents, *[pointer] * pointers]
                function.restype = ctypes.c_char_p
                self.launch[direction, dtype] = function

    def forward(self, x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, shape (), and d, (N, S...)."""
        x1, x2 = x1.contiguous(), x2.contiguous()
        loss, d = _empty_outputs(x1)
        extents = (x1.shape[0], x1.shape[1], x2.shape[1], x1.shape[2:].numel())
        count = self.partials[x1.dtype](*extents)
        partials = torch.empty(count, dtype=torch.float64, device=x1.device)
        self._launch("forward", extents, x1, x2, d, partials, loss)
        return loss, d

    def backward(
        self, d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
    ) -> list[torch.Tensor]:
        """The gradients that are wanted: of (N, C1, S...) and (N, C2, S...)."""
        d, weight = d.contiguous(), weight.contiguous()
        diffs = [
            d.new_empty(_with_channels(d, c)) if want else None
            for c, want in zip(channels, wanted, strict=True)
        ]
        extents = (d.shape[0], *channels, d.shape[1:].numel())
        self._launch("backward", extents, d, weight, *diffs)
        return [diff for diff in diffs if diff is not None]

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


@cache
def kernels(architecture: str) -> Kernels:
    """The kernels for an architecture, built and loaded once.

    Raises:
        NoKernels: they cannot be built, or not be loaded.
    """
    try:
        return Kernels(build(architecture))
    except (OSError, AttributeError) as error:
        raise NoKernels(f"the kernels cannot be loaded: {error}") from error


def kernels_of(tensor: torch.Tensor) -> Kernels:
    """The kernels for the GPU that a tensor is on.

    Raises:
        NoKernels: there are none.
    """
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return kernels(f"sm_{major}{minor}")


@cache
def _fall_back(reason: str) -> None:
    """Says once that plain PyTorch computes instead."""
    words = f"channel_sum_euclidean_loss is computed by plain PyTorch, not by its kernels: {reason}"
    warnings.warn(words, RuntimeWarning, stacklevel=3)


def _empty_outputs(x1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x1.new_empty(()), x1.new_empty((x1.shape[0], *x1.shape[2:]))


def _with_channels(d: torch.Tensor, channels: int) -> tuple[int, ...]:
    return (d.shape[0], channels, *d.shape[1:])


def _plain_forward(x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    d = x1.sum(1) - x2.sum(1)  # N, S...
    return d.square().sum() / (2 * x1.shape[0]), d


def _plain_backward(
    d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
) -> list[torch.Tensor]:
    gradient = (weight / d.shape[0] * d).unsqueeze(1)  # N, 1, S...
    signed = (gradient, -gradient)
    shapes = [_with_channels(d, count) for count in channels]
    return [signed[i].expand(shapes[i]).contiguous() for i in range(2) if wanted[i]]


@torch.library.custom_op(OP, mutates_args=())
def _forward(x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and d for the backward."""
    return _plain_forward(x1, x2)


@_forward.register_kernel("cuda")
def _forward_on_cuda(x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        found = kernels_of(x1)
    except NoKernels as reason:
        _fall_back(str(reason))
        return _plain_forward(x1, x2)
    return found.forward(x1, x2)


@_forward.register_fake
def _forward_shapes(x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _empty_outputs(x1)


@torch.library.custom_op(f"{OP}_backward", mutates_args=())
def _backward(
    d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
) -> list[torch.Tensor]:
    """The gradients that are wanted, of x1 and of x2; `weight` is the gradient of the loss."""
    return _plain_backward(d, weight, channels, wanted)


@_backward.register_kernel("cuda")
def _backward_on_cuda(
    d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
) -> list[torch.Tensor]:
    try:
        found = kernels_of(d)
    except NoKernels as reason:
        _fall_back(str(reason))
        return _plain_backward(d, weight, channels, wanted)
    return found.backward(d, weight, channels, wanted)


@_backward.register_fake
def _backward_shapes(
    d: torch.Tensor, weight: torch.Tensor, channels: Sequence[int], wanted: Sequence[bool]
) -> list[torch.Tensor]:
    return [d.new_empty(_with_channels(d, channels[i])) for i in range(2) if wanted[i]]


def _remember(ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
    x1, x2 = inputs
    ctx.save_for_backward(output[1])
    ctx.channels = [x1.shape[1], x2.shape[1]]
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, weight: torch.Tensor | None, d_gradient: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of x1 and x2, from that of the loss, and of d in a backward of the backward."""
    (d,) = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad)
    gradients: list[torch.Tensor | None] = [None, None]
    if weight is not None:
        made: Iterator[torch.Tensor] = iter(_backward(d, weight, ctx.channels, wanted))
        gradients = [next(made) if want else None for want in wanted]
    if d_gradient is not None:
        for i, sign in enumerate((1, -1)):
            if wanted[i]:
                spread = sign * d_gradient.unsqueeze(1).expand(_with_channels(d, ctx.channels[i]))
                so_far = gradients[i]
                gradients[i] = spread if so_far is None else so_far + spread
    return tuple(gradients)


_forward.register_autograd(_differentiate, setup_context=_remember)


def _remember_backward(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
    d, weight, _, ctx.wanted = inputs
    ctx.save_for_backward(d, weight)


def _differentiate_backward(
    ctx: Any, gradients: Sequence[torch.Tensor]
) -> tuple[torch.Tensor | None, ...]:
    """The gradients of d and of the loss's gradient; rarely wanted, so in plain PyTorch."""
    d, weight = ctx.saved_tensors
    total = torch.zeros_like(d)
    made = iter(gradients)
    for want, sign in zip(ctx.wanted, (1, -1), strict=True):
        if want:
            total = total + sign * next(made).sum(1)  # N, S...
    total = total / d.shape[0]
    return weight * total, (d * total).sum(), None, None


_backward.register_autograd(_differentiate_backward, setup_context=_remember_backward)


def fused_channel_sum_euclidean_loss(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """The Euclidean loss of the channel sums: 1/(2N) times the sum of (sum_c x1 - sum_c x2)**2.

    Args:
        x1: (N, C1, S...), float32 or float64.
        x2: (N, C2, S...), of the same type and on the same device; C2 may differ from C1.

    Raises:
        ValueError: the shapes differ in another axis than 1, or the batch is empty.
        TypeError: the types or the devices differ, or the type is none of the two.
        RuntimeError: CUDA refuses.
    """
    shape1, shape2 = tuple(x1.shape), tuple(x2.shape)
    fit = len(shape1) >= 2 and (shape1[0], shape1[2:]) == (shape2[0], shape2[2:])
    if not fit or shape1[0] == 0:
        raise ValueError(f"x1 {shape1} and x2 {shape2} do not fit, or are empty")
    if x1.dtype not in TYPES or x1.dtype != x2.dtype or x1.device != x2.device:
        raise TypeError(
            "x1 and x2 must both be float32 or both float64, on one device; got "
            f"{x1.dtype} on {x1.device} and {x2.dtype} on {x2.device}"
        )
    loss: torch.Tensor = _forward(x1, x2)[0]
    return loss


def on_the_kernels(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    """The same for CUDA tensors only, and never by plain PyTorch: for tests and measurements.

    Raises:
        NoKernels: the kernels cannot be built here.
    """
    kernels_of(x1)
    return fused_channel_sum_euclidean_loss(x1, x2)
