"""The port on the compiled layer's kernels: the op, its build, and the kernels run on the CPU."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from caffe_parity import Port
from caffe_parity.caffe.compile import cached
from caffe_parity.caffe.driver import no_device
from caffe_parity.engine.judge import judge
from parity_tests.layers import LAYERS
from parity_tests.machine import not_run
from reference.cases import by_name
from torch_impl import fused, kernels
from torch_impl.fused import fused_channel_sum_euclidean_loss
from torch_impl.kernels import CudaKernels

CHANNEL_SUM = LAYERS["channel_sum"]
HERE = Path(__file__).parent / "cuda"
SHAPES = [(3, 2), (2, 3, 2), (2, 2, 3, 4), (1, 2, 2, 1, 3)]
WANTED = [(True, True), (True, False), (False, True)]


def inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """x1, and x2 with one channel more."""
    generator = torch.Generator().manual_seed(len(shape))
    other = (shape[0], shape[1] + 1, *shape[2:])
    x1 = torch.randn(shape, generator=generator, dtype=dtype)
    x2 = torch.randn(other, generator=generator, dtype=dtype)
    return x1.requires_grad_(), x2.requires_grad_()


@pytest.mark.parametrize("dtype", kernels.TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_op_keeps_its_promises(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """opcheck finds nothing: schema, fake tensors, autograd registration, and torch.compile."""
    x1, x2 = inputs(shape, dtype)
    torch.library.opcheck(fused._forward, (x1, x2))
    d = torch.ones(shape[0], *shape[2:], dtype=dtype, requires_grad=True)
    weight = torch.tensor(1.5, dtype=dtype, requires_grad=True)
    for wanted in WANTED:
        arguments = (d, weight, [x1.shape[1], x2.shape[1]], list(wanted))
        torch.library.opcheck(fused._backward, arguments)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backward_is_the_gradient_of_forward(shape: tuple[int, ...]) -> None:
    """gradcheck accepts the backward, and gradgradcheck the backward of it; C1 is not C2."""
    both = inputs(shape, torch.float64)
    assert torch.autograd.gradcheck(fused_channel_sum_euclidean_loss, both)
    assert torch.autograd.gradgradcheck(fused_channel_sum_euclidean_loss, both)


def test_one_graph_with_what_surrounds_it() -> None:
    """torch.compile takes the loss into one graph, and its gradient is that of plain PyTorch."""
    x1, x2 = (x.detach().mul(8).round().requires_grad_() for x in inputs((2, 3, 4), torch.float32))
    compiled = torch.compile(fused_channel_sum_euclidean_loss, fullgraph=True, backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(2 * x1, x2), x1)
    (expected,) = torch.autograd.grad(fused_channel_sum_euclidean_loss(2 * x1, x2), x1)
    assert torch.equal(gradient, expected)  # integers, and N is 2: nothing is rounded


def test_wrong_inputs_are_named() -> None:
    """Shapes, types and devices that do not fit are refused with words that show both."""
    x = torch.zeros(4, 3, 5)
    with pytest.raises(ValueError, match=r"\(4, 3, 5\).*\(4, 3, 7\)"):
        fused_channel_sum_euclidean_loss(x, torch.zeros(4, 3, 7))
    with pytest.raises(ValueError, match="empty"):
        fused_channel_sum_euclidean_loss(x[:0], x[:0])
    with pytest.raises(TypeError, match=r"float32 on cpu and torch.float64 on cpu"):
        fused_channel_sum_euclidean_loss(x, x.double())
    with pytest.raises(TypeError, match="float16"):
        fused_channel_sum_euclidean_loss(x.half(), x.half())


def test_plain_pytorch_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be built plain PyTorch computes, with one warning that says why."""

    def refuse(tensor: torch.Tensor) -> CudaKernels:
        raise kernels.NoKernels("no nvcc")

    monkeypatch.setattr(fused, "kernels_of", refuse)
    monkeypatch.setattr(fused, "straight", lambda: None)
    fused._fall_back.cache_clear()
    x1, x2 = (x.detach() for x in inputs((2, 3, 4), torch.float32))
    with pytest.warns(RuntimeWarning, match="plain PyTorch.*no nvcc"):
        loss, d = fused._compute(x1, x2)
    assert torch.equal(loss, fused_channel_sum_euclidean_loss(x1, x2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused._compute_gradients(d, loss, [3, 4], [True, True])
        fused._compute(x1, x2)
    with pytest.raises(kernels.NoKernels):
        fused.on_the_kernels(x1, x2)
    fused._fall_back.cache_clear()


def test_nvcc_builds_the_launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvcc takes launch.cu for sm_90 with warnings as errors; what it makes loads, and is kept."""
    if kernels.nvcc() is None:
        not_run("no nvcc")
    library = kernels.build("sm_90")
    assert CudaKernels(library).partials[torch.float32](4, 3, 3, 30) >= 1
    assert not [file for file in library.parent.iterdir() if file.name.startswith("tmp")]

    def refuse(command: list[str]) -> str:
        assert command[1:] == ["--version"], "it was compiled again"
        return version

    version = kernels._run([str(kernels.nvcc()), "--version"])
    monkeypatch.setattr(kernels, "_run", refuse)
    assert kernels.build("sm_90") == library


def test_what_nvcc_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that does not compile, and an nvcc that is not there, are reasons in words."""
    if kernels.nvcc() is not None:
        broken = tmp_path / "launch.cu"
        broken.write_text(f"{kernels.CUDA_SOURCE.read_text()}\nint broken = undefined_name;\n")
        monkeypatch.setattr(kernels, "CUDA_SOURCE", broken)
        monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
        with pytest.raises(kernels.NoKernels, match="undefined_name"):
            kernels.build("sm_90")
        assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(kernels, "nvcc", lambda: None)
    with pytest.raises(kernels.NoKernels, match="no nvcc"):
        kernels.build("sm_90")


def test_what_cuda_says_is_passed_on() -> None:
    """Without a device the kernels' own library refuses in CUDA's words, and touches nothing."""
    if kernels.nvcc() is None:
        not_run("no nvcc")
    if no_device() is None:
        not_run("there is a CUDA device")
    x1, x2 = (x.detach() for x in inputs((2, 3, 4), torch.float32))
    with pytest.raises(RuntimeError, match=r"forward: .*(CUDA|device)"):
        kernels.kernels("sm_90").forward(x1, x2)


def kernels_on_cpu() -> CudaKernels:
    """The functions of launch.cu, with every GPU thread a thread of the system."""
    compiler = next(filter(None, map(shutil.which, ("g++", "c++"))), None)
    if compiler is None:
        not_run("no g++")
    source = HERE / "launch_on_cpu.cpp"
    flags = ("-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-shared", "-fPIC")
    folders = [f"-I{file.parent}" for file in (kernels.KERNELS, kernels.CUDA_SOURCE)]

    def make(folder: Path) -> None:
        command = [compiler, *flags, *folders, str(source), "-o", str(folder / "launch.so")]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]

    files = (source, kernels.KERNELS, kernels.CUDA_SOURCE)
    key = ([file.read_bytes() for file in files], flags, compiler)
    return CudaKernels(cached("launch", key, make) / "launch.so")


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> CudaKernels:
    """The port with the emulated kernels in place of the CPU's own."""
    found = kernels_on_cpu()
    monkeypatch.setattr(fused, "kernels_of", lambda tensor: found)
    monkeypatch.setattr(fused, "straight", lambda: None)
    return found


EMULATED = [
    *("odd", "two-axes", "five-axes", "one-number", "unit-spatial", "many-samples"),
    *("channels-3-7", "channels-6-1", "exact", "cancelling", "subnormal", "nan", "inf-minus-inf"),
    *("weight-3.7", "weight-0", "only-dx1", "only-dx2", "same-blob", "split"),
]
"""Cases of every kind; the large ones take too long where a GPU's threads are the system's."""


@pytest.mark.parametrize("case", EMULATED)
@pytest.mark.usefixtures("emulated")
def test_parity_on_emulated_kernels(case: str) -> None:
    """The op over the very functions that launch the kernels, run on the CPU, agrees.

    Where a case proves nothing of a tensor, that is said, and of no other case.
    """
    here = Port(fused_channel_sum_euclidean_loss, gradcheck=False, device="cpu")
    layer = replace(CHANNEL_SUM, variants={"torch-cuda": here})
    weak = case in ("cancelling", "subnormal", "nan", "inf-minus-inf")
    assert judge(layer, "torch-cuda", by_name(case)).verdict == ("unproven" if weak else "pass")


@pytest.mark.usefixtures("emulated")
def test_an_expanded_gradient_is_the_written_one() -> None:
    """The CUDA kernels write one channel, which all share: the bits of those that are written."""
    for dtype in kernels.TYPES:
        both = inputs((2, 3, 4, 8), dtype)
        found, expected = (
            torch.autograd.grad(1.7 * fused_channel_sum_euclidean_loss(*both, expanded=how), both)
            for how in (True, False)
        )
        assert [x.stride(1) for x in found] == [0, 0]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_any_layout_and_place_gives_the_same_bits(emulated: CudaKernels) -> None:
    """Views that are transposed, or begin at an odd address, give the bits of contiguous ones."""
    for dtype in kernels.TYPES:
        x1, x2 = (x.detach() for x in inputs((2, 3, 8, 8), dtype))
        weight = torch.tensor([0.7, 1.5], dtype=dtype)[1]  # not at the beginning of its storage
        loss, d = emulated.forward(x1, x2)
        dx1, dx2 = emulated.backward(d, weight, [3, 4], [True, True])
        for move in (transposed, shifted):
            again, again_d = emulated.forward(move(x1), move(x2))
            assert torch.equal(again, loss)
            assert torch.equal(again_d, d)
            _, alone = emulated.backward(move(d), weight, [3, 4], [False, True])
            assert alone is not None and dx2 is not None and torch.equal(alone, dx2)
        alone, _ = emulated.backward(d, weight, [3, 4], [True, False])
        assert alone is not None and dx1 is not None and torch.equal(alone, dx1)


def transposed(x: torch.Tensor) -> torch.Tensor:
    """The same values, in another order in memory."""
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def shifted(x: torch.Tensor) -> torch.Tensor:
    """The same values, one number behind an aligned address."""
    storage = torch.empty(x.numel() + 1, dtype=x.dtype)
    storage[1:] = x.flatten()
    return storage[1:].view(x.shape)


def test_torch_cuda_is_one_of_the_variants() -> None:
    """It computes channel_sum, on a GPU whatever else runs on the CPU; without one it says so."""
    assert [name for name in LAYERS if "torch-cuda" in LAYERS[name].variants] == ["channel_sum"]
    cuda = CHANNEL_SUM.variants["torch-cuda"]
    assert isinstance(cuda, Port)
    assert cuda.device == "cuda"
    if no_device():
        assert cuda.cannot_run() == "no CUDA device"
        record = judge(CHANNEL_SUM, "torch-cuda", by_name("base"))
        assert (record.verdict, record.reason) == ("not run", "no CUDA device")
