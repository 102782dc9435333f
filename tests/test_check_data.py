"""What a net gets its data and its parameters from, and how many tops a layer alone has."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import caffe_parity
from caffe_parity import Layer
from caffe_parity.caffe.client import Caffe
from caffe_parity.contract import BadRequest, Shape
from caffe_parity.engine.caffe_net import described
from caffe_parity.engine.data import load, parse
from caffe_parity.engine.judge import judge, plan_of
from caffe_parity.nets import located, net, python_layer
from caffe_parity.report.record import Record
from tests.commands import check
from tests.net_text import input_layer, layer

DUMMY = "dummy_data_param { %s }"
SOURCES: Mapping[str, tuple[str, str, dict[str, Shape | None]]] = {
    "dummy": (
        "DummyData",
        DUMMY % 'shape { dim: 4 dim: 3 dim: 2 dim: 2 } data_filler { type: "gaussian" }',
        {"x": (4, 3, 2, 2), "y": (4, 3, 2, 2)},
    ),
    "dummy-old": (
        "DummyData",
        DUMMY % 'num: 4 num: 2 channels: 3 height: 2 width: 2 data_filler { type: "uniform" }',
        {"x": (4, 3, 2, 2), "y": (2, 3, 2, 2)},
    ),
    "memory": (
        "MemoryData",
        "memory_data_param { batch_size: 4 channels: 3 height: 2 width: 5 }",
        {"x": (4, 3, 2, 5), "y": (4,)},
    ),
    "image": (
        "ImageData",
        'image_data_param { source: "no" batch_size: 4 new_height: 6 new_width: 7 }',
        {"x": (4, 3, 6, 7), "y": (4,)},
    ),
    "image-gray": (
        "ImageData",
        'transform_param { crop_size: 5 } image_data_param { source: "no" is_color: false '
        "batch_size: 4 new_height: 6 new_width: 7 }",
        {"x": (4, 1, 5, 5), "y": (4,)},
    ),
    "image-of-any-size": (
        "ImageData",
        'image_data_param { source: "no" batch_size: 4 }',
        {"x": None, "y": (4,)},
    ),
    "window": (
        "WindowData",
        'window_data_param { source: "no" batch_size: 4 crop_size: 5 }',
        {"x": (4, 3, 5, 5), "y": (4,)},
    ),
    "database": (
        "Data",
        'transform_param { crop_size: 5 } data_param { source: "no" batch_size: 4 }',
        {"x": None, "y": (4,)},
    ),
    "database-in-colour": (
        "Data",
        "transform_param { crop_size: 5 force_color: true } "
        'data_param { source: "no" batch_size: 4 }',
        {"x": (4, 3, 5, 5), "y": (4,)},
    ),
    "hdf5": ("HDF5Data", 'hdf5_data_param { source: "no" batch_size: 4 }', {"x": None, "y": None}),
}
BEHIND = "".join(layer("Power", each, f"of_{each}", "power_param { scale: 2 }") for each in "xy")


def twice(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What stands behind each data layer here."""
    return 2 * x, 2 * y


@pytest.mark.parametrize("name", SOURCES)
def test_tops_of_a_data_layer_are_inputs(
    caffe: Caffe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str
) -> None:
    """No file of it is read; shapes that the net says need not be given, others are asked for."""
    type_, rest, shapes = SOURCES[name]
    text = layer(type_, "", "x y", rest) + BEHIND
    found = described(text, ())
    assert {key: tuple(each) for key, each in found["inputs"].items() if each} == {
        key: each for key, each in shapes.items() if each
    }
    assert set(found["unshaped"]) == {key for key, each in shapes.items() if each is None}
    given = {key: each or (4, 2) for key, each in shapes.items()}
    (tmp_path / "net.prototxt").write_text(text)
    variants = {"net": located(net("net.prototxt"), tmp_path)}
    ours = Layer("behind", twice, given, variants, cases=1)
    assert judge(ours, "net", ours.case(0)).verdict == "pass"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ref.py").write_text("def tops(x, y): return 2 * x, 2 * y\n")
    arguments = ["net.prototxt", "--reference", "ref.py:tops", "--cases", "1"]
    unknown = [key for key, each in shapes.items() if each is None]
    if unknown:
        assert check(*arguments) == 2
        said = capsys.readouterr().err
        assert f"{type_}-x ({type_}) reads {', '.join(unknown)} from files" in said
        assert all(f"--bottom {each}=2,..." in said for each in unknown)
    bottoms = [f"--bottom={each}=4,2" for each in unknown]
    assert check(*arguments, *bottoms) == 0
    assert check(*arguments, *bottoms, "--bottom=x=2,5", "--bottom=y=2") == (2 if unknown else 0)


def test_constants_are_not_fed_unless_asked(caffe: Caffe, tmp_path: Path) -> None:
    """A DummyData of constants is part of the net; where it is named, it is an input."""
    rest = DUMMY % (
        'shape { dim: 2 dim: 3 } data_filler { type: "gaussian" } '
        'data_filler { type: "constant" value: 3 }'
    )
    text = layer("DummyData", "", "x c", rest) + layer("Eltwise", "x c", "y")
    assert list(described(text, ())["inputs"]) == ["x"]
    assert list(described(text, ("x", "c"))["inputs"]) == ["x", "c"]
    (tmp_path / "net.prototxt").write_text(text)
    variants = {"net": located(net("net.prototxt"), tmp_path)}
    for reference, names in ((lambda x: x + 3, "x"), (lambda x, c: x + c, "xc")):
        ours = Layer("sum", reference, dict.fromkeys(names, (2, 3)), variants, cases=3)
        assert all(judge(ours, "net", each).verdict == "pass" for each in ours.all_cases())


def test_net_without_inputs_has_one_case(caffe: Caffe, tmp_path: Path) -> None:
    """Nothing can be fed, so all cases would be the same; a wrong reference is found out."""
    rest = DUMMY % 'shape { dim: 2 dim: 3 } data_filler { type: "constant" value: 3 }'
    (tmp_path / "net.prototxt").write_text(layer("DummyData", "", "c", rest))
    variants = {"net": located(net("net.prototxt"), tmp_path)}
    for value, verdict in ((3.0, "pass"), (4.0, "fail")):
        ours = Layer("c", lambda value=value: torch.full((2, 3), value).double(), {}, variants)
        [case] = ours.all_cases()
        assert ours.case(2).sharing == "none"  # there is no first input to share
        assert judge(ours, "net", case).verdict == verdict
    with pytest.raises(caffe_parity.BadLayer, match="expected a shape for each"):
        Layer("c", lambda x: x, {}, variants)


PARTS = """
import caffe
class Parts(caffe.Layer):
    def setup(self, bottom, top):
        assert len(top) == {count}, "%d tops" % len(top)
        {setup}
    def reshape(self, bottom, top):
        {reshape}
    def forward(self, bottom, top):
        for number in range(len(top)):
            top[number].reshape(*bottom[0].shape)
            top[number].data[...] = (number + 1) * bottom[0].data{scale}
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = sum((n + 1) * top[n].diff{scale} for n in range(len(top)))
        {learn}
"""


def parts(count: int, wrong: bool = False) -> Any:
    """A reference with so many tops."""
    return lambda x: tuple((n + 1 + (wrong and n == count - 1)) * x for n in range(count))


@pytest.mark.parametrize("in_forward", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_layer_alone_has_the_tops_of_the_reference(
    caffe: Caffe, tmp_path: Path, count: int, in_forward: bool
) -> None:
    """However many, and also where it shapes them when it runs, and not before."""
    name = f"parts_{count}_{in_forward}"
    shape = "pass" if in_forward else "[top[n].reshape(*bottom[0].shape) for n in range(len(top))]"
    text = PARTS.format(count=count, setup="pass", reshape=shape, scale="", learn="pass")
    (tmp_path / f"{name}.py").write_text(text)
    variants = {"layer": located(python_layer(f"{name}.py:Parts"), tmp_path)}
    for wrong in (False, True):
        ours = Layer("parts", parts(count, wrong), {"x": (2, 3)}, variants, cases=3)
        for case in ours.all_cases():
            record = judge(ours, "layer", case)
            bad = {each.tensor for each in record.findings if each.code == "forward-value"}
            last = f"top{count - 1}" if count > 1 else "top"
            assert bad == ({last} if wrong else set())
            assert bool(record.findings) == wrong


def test_layer_with_parameters_and_tops(caffe: Caffe, tmp_path: Path) -> None:
    """Where the layer needs all tops to be built, their names are given; so is what to do."""
    learn = (
        "self.blobs[0].diff[0] += sum(((n + 1) * top[n].diff * bottom[0].data).sum() "
        "for n in range(len(top)))"
    )
    text = PARTS.format(
        count=2,
        setup="self.blobs.add_blob(1)",
        reshape="[top[n].reshape(*bottom[0].shape) for n in range(len(top))]",
        scale=" * self.blobs[0].data[0]",
        learn=learn,
    )
    (tmp_path / "learned_parts.py").write_text(text)
    spec = "learned_parts.py:Parts"

    def reference(x: torch.Tensor, param: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"one": x * param[0], "two": 2 * x * param[0]}

    named = located(python_layer(spec, tops=["one", "two"]), tmp_path)
    unnamed = located(python_layer(spec), tmp_path)
    ours = Layer("parts", reference, {"x": (2, 3)}, {"named": named, "unnamed": unnamed}, cases=1)
    assert judge(ours, "named", ours.case(0)).verdict == "pass"
    assert "name its tops (--top NAME)" in judge(ours, "unnamed", ours.case(0)).reason


def test_reference_that_is_a_layer_brings_the_bottoms(
    caffe: Caffe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A Python layer needs no --bottom then, and is given none in vain."""
    monkeypatch.chdir(tmp_path)
    shape = "[top[n].reshape(*bottom[0].shape) for n in range(len(top))]"
    text = PARTS.format(count=2, setup="pass", reshape=shape, scale="", learn="pass")
    Path("both_parts.py").write_text(text)
    Path("ref.py").write_text(
        "import caffe_parity\n"
        'LAYER = caffe_parity.Layer("both", lambda x: (x, 2 * x), {"x": (2, 3)}, cases=2)\n'
        'OTHER = caffe_parity.Layer("both", lambda x: (x, 3 * x), {"x": (2, 3)}, cases=2)\n'
    )
    assert check("both_parts.py:Parts", "--reference", "ref.py:LAYER") == 0
    assert "x (2, 3)" in capsys.readouterr().out
    assert check("both_parts.py:Parts", "--reference", "ref.py:OTHER") == 1
    capsys.readouterr()
    assert check("both_parts.py:Parts", "--reference", "ref.py:LAYER", "--bottom", "x=2,3") == 2
    assert "--bottom: ref.py:LAYER is a layer, which brings" in capsys.readouterr().err


def varint(value: int) -> bytes:
    """A number, as a protocol buffer has it."""
    more = value >> 7
    return bytes([value & 127 | 128 * bool(more)]) + (varint(more) if more else b"")


def field(number: int, body: bytes) -> bytes:
    """A field of a protocol buffer that has a length."""
    return varint(number << 3 | 2) + varint(len(body)) + body


def caffemodel(file: Path, **layers: list[np.ndarray]) -> None:
    """Writes a .caffemodel: NetParameter.layer 100, name 1, blobs 7; shape 7, data 5.

    Halves as other Caffes write them: raw_data_type 10, raw_data 12.
    """
    net_ = b""
    for name, arrays in layers.items():
        blobs = b""
        for each in arrays:
            shape = field(7, field(1, b"".join(map(varint, each.shape))))
            data = field(5, struct.pack(f"<{each.size}f", *each.flat))
            if each.dtype == np.float16:
                data = varint(10 << 3) + varint(2) + field(12, each.tobytes())
            blobs += field(7, shape + data)
        net_ += field(100, field(1, name.encode()) + blobs)
    file.write_bytes(net_)


NORMALISED = (
    input_layer("x", 3, 4, 2, 2)
    + 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "y" '
    + "batch_norm_param { use_global_stats: true } }"
    + 'layer { name: "sc" type: "Scale" bottom: "y" top: "y" scale_param { bias_term: true } }'
)


def normalised(x: torch.Tensor, param: list[torch.Tensor]) -> torch.Tensor:
    """Frozen statistics, then a scale and a bias."""
    mean, var, factor, weight, bias = (each.reshape(1, -1, 1, 1) for each in param)
    return (x - mean / factor) / (var / factor + 1e-5).sqrt() * weight + bias


class Port(torch.nn.Module):
    """PyTorch's own, whose running statistics are those of the net."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = torch.nn.BatchNorm2d(4)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.bn(x)
        return result


def judged(folder: Path, reference: Any, **more: Any) -> list[Record]:
    """The records of the normalising net and of a port."""
    (folder / "net.prototxt").write_text(NORMALISED)
    declared = net("net.prototxt", weights=more.pop("weights", ""))
    variants: dict[str, Any] = {"net": located(declared, folder), "port": Port()}
    ours = Layer("bn", reference, {"x": (3, 4, 2, 2)}, variants, cases=2, **more)
    return [judge(ours, name, each) for each in ours.all_cases() for name in ours.variants]


def test_statistics_that_a_net_uses_are_parameters(caffe: Caffe, tmp_path: Path) -> None:
    """Each of the three is given, and a reference that forgets one is found out."""
    assert [each.verdict for each in judged(tmp_path, normalised)] == ["pass"] * 4
    said = {"param[0]": "constant:2", "param[1]": "uniform:3,4", "param[2]": "constant:2"}
    assert [each.verdict for each in judged(tmp_path, normalised, data=said)] == ["pass"] * 4
    for forgotten in range(3):

        def reference(x: torch.Tensor, param: list[torch.Tensor], at: int = forgotten) -> Any:
            changed = [torch.ones_like(e) if n == at else e for n, e in enumerate(param)]
            return normalised(x, changed)

        assert all(each.verdict == "fail" for each in judged(tmp_path, reference))


def test_parameters_come_from_a_caffemodel(
    caffe: Caffe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Those of the layers that it has; whoever knows them needs no `param`."""
    rng = np.random.RandomState(0)
    mean, weight, bias = rng.standard_normal((3, 4)).astype(np.float32)
    var = rng.uniform(1, 2, 4).astype(np.float32)
    factor = np.array([999.5], np.float32)
    caffemodel(tmp_path / "all.caffemodel", bn=[mean, var, factor], sc=[weight, bias])
    caffemodel(tmp_path / "some.caffemodel", bn=[mean, var, factor], gone=[weight])
    own = [torch.from_numpy(each).double() for each in (mean, var, factor, weight, bias)]

    def knows(x: torch.Tensor) -> torch.Tensor:
        return normalised(x, own)

    for reference, file, saved in (
        (normalised, "all.caffemodel", 5),
        (normalised, "some.caffemodel", 3),
        (knows, "all.caffemodel", 0),
    ):
        records = judged(tmp_path, reference, weights=file)
        assert {each.verdict for each in records if each.variant == "net"} == {"pass"}
        declared = located(net("net.prototxt", weights=file), tmp_path)
        ours = Layer("bn", reference, {"x": (3, 4, 2, 2)}, {"net": declared})
        ready = plan_of(ours, "net", ours.case(1))
        inputs, others = ready.question.inputs, ready.plan.passes[0].inputs
        assert all(
            np.any(others[each] != inputs[each]) for each in inputs if each[-2:] in ("3]", "4]")
        )
        given = [inputs[f"param[{n}]"] for n in range(5) if f"param[{n}]" in inputs]
        same = [
            torch.equal(torch.from_numpy(a).double(), b) for a, b in zip(given, own, strict=False)
        ]
        assert same == ([True] * saved + [False] * (5 - saved) if saved else [])
    monkeypatch.chdir(tmp_path)
    Path("ref.py").write_text(
        "def bn(x, param):\n"
        "    m, v, f, w, b = (each.reshape(1, -1, 1, 1) for each in param)\n"
        "    return (x - m / f) / (v / f + 1e-5).sqrt() * w + b\n"
    )
    arguments = ["net.prototxt", "--reference", "ref.py:bn", "--cases", "2", "--weights"]
    assert check(*arguments, "all.caffemodel") == 0
    said = capsys.readouterr().out
    assert "param[0] (4,) of bn from the weights" in said
    assert "param[4] (4,) of sc from the weights" in said
    Path("no.caffemodel").write_text("none at all")
    assert check(*arguments, "no.caffemodel") == 2
    assert "no.caffemodel" in capsys.readouterr().err
    caffemodel(Path("other.caffemodel"), bn=[mean[:3], var, factor])
    assert check(*arguments, "other.caffemodel") == 2
    assert "shape mismatch" in capsys.readouterr().err


def with_state(
    x: torch.Tensor, param: list[torch.Tensor], state: list[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """A BatchNorm in phase TRAIN, with what it writes."""
    m = x.numel() // x.shape[1]
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    return {
        "y": normalised(x, [mean, var, torch.ones_like(mean), *param]),
        "state[0]": 0.5 * state[0] + mean,
        "state[1]": 0.5 * state[1] + m / (m - 1) * var,
        "state[2]": 0.5 * state[2] + 1,
    }


def test_statistics_that_a_forward_writes_are_compared(caffe: Caffe, tmp_path: Path) -> None:
    """Where the reference gives them, in the net and in a port; else a note says that they are not.

    Each of the three is seen alone, and a port that keeps them in a module of its own is told.
    """
    text = NORMALISED.replace("use_global_stats: true", "moving_average_fraction: 0.5")
    (tmp_path / "net.prototxt").write_text(text)
    own = Port().train()
    caffes = located(net("net.prototxt"), tmp_path)
    variants: dict[str, Any] = {"net": caffes, "port": with_state, "module": own}
    ours = Layer("bn", with_state, {"x": (3, 4, 2, 2)}, variants, cases=2)
    records = {name: judge(ours, name, ours.case(1)) for name in variants}
    assert {each.verdict for each in records.values()} == {"pass"}
    notes = {name: [each.code for each in one.notes] for name, one in records.items()}
    assert notes == {"net": [], "port": [], "module": ["port-running-statistics"]}
    assert "state[2]" in records["net"].tensors
    for number in range(3):

        def spoilt(at: int = number, **inputs: Any) -> dict[str, torch.Tensor]:
            result = with_state(**inputs)
            return {**result, f"state[{at}]": result[f"state[{at}]"] * 1.001}

        wrong = replace(
            ours, reference=lambda x, param, state, f=spoilt: f(x=x, param=param, state=state)
        )
        for name in ("net", "port"):
            [finding] = judge(wrong, name, wrong.case(1)).findings
            assert finding.tensor == f"state[{number}]"
    unsaid = replace(ours, reference=lambda x, param: with_state(x, param, [param[0]] * 3)["y"])
    record = judge(unsaid, "net", unsaid.case(1))
    assert (record.verdict, [each.code for each in record.notes]) == (
        "pass",
        ["running-statistics"],
    )


RELU = input_layer("x", 4, 3) + layer("ReLU", "x", "y")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.float64("nan"), "nan, which is not finite"),
        (np.float64("-inf"), "-inf, which is not finite"),
        (np.float64(1e300), "1e+300, which float32 cannot hold"),
        (np.float64(1e-300), "1e-300, which is 0 in float32"),
        (np.int64(2**24 + 1), "16777217, which float32 rounds to another integer"),
        (np.uint64(2**64 - 1), "18446744073709551615, which float32 rounds"),
    ],
)
def test_what_float32_does_not_hold_is_refused(tmp_path: Path, value: Any, words: str) -> None:
    """By its name; with the word, what is not finite is taken, and nothing else."""
    array = np.zeros((4, 3), value.dtype)
    array[2, 1] = value
    np.savez(tmp_path / "x.npz", x=array)
    with pytest.raises(BadRequest) as refused:
        load(str(tmp_path / "x.npz"), {"x": (4, 3)})
    assert f"x has {words}" in str(refused.value)
    with np.errstate(over="ignore"):
        finite = bool(np.isfinite(np.float32(value)))
    assert ("--allow-nonfinite" in str(refused.value)) != finite
    if finite:
        with pytest.raises(BadRequest):
            load(str(tmp_path / "x.npz"), {"x": (4, 3)}, allow_nonfinite=True)
    else:
        assert not np.isfinite(load(str(tmp_path / "x.npz"), {"x": (4, 3)}, True)["x"][2, 1])


def test_what_float32_only_rounds_is_taken(tmp_path: Path) -> None:
    """float64 is what NumPy makes by default."""
    for array in (np.full(3, 0.1), np.arange(3), np.array([True]), np.array([2.0**-140])):
        np.savez(tmp_path / "x.npz", x=array)
        assert np.array_equal(
            load(str(tmp_path / "x.npz"), {"x": array.shape})["x"], np.float32(array)
        )
    for text in ("uniform:0,inf", "int:0,nan"):
        with pytest.raises(BadRequest, match="cannot hold"):
            parse(text, allow_nonfinite=True)


def test_what_remains_beside_a_nan_is_compared(
    caffe: Caffe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """And counted; a wrong value elsewhere is found, and where nothing remains, it is unproven."""
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(RELU)
    Path("ref.py").write_text(
        "from torch.nn import functional as F\n"
        "def relu(x): return x.clamp(min=0)\n"
        "def leaky(x): return F.leaky_relu(x, 2.0**-10)\n"
    )
    x = np.random.RandomState(0).standard_normal((4, 3))
    x[0, 0], x[1, 1] = np.nan, np.inf
    np.savez("x.npz", x=x)
    arguments = ["net.prototxt", "--inputs", "x.npz", "--reference"]
    assert check(*arguments, "ref.py:relu") == 2
    capsys.readouterr()
    assert check(*arguments, "ref.py:relu", "--allow-nonfinite") == 0
    assert "compared: y 10 of 12" in capsys.readouterr().out
    assert check(*arguments, "ref.py:leaky", "--allow-nonfinite") == 1
    capsys.readouterr()
    nothing = ["net.prototxt", "--reference", "ref.py:relu", "--data", "x=constant:nan"]
    assert check(*nothing, "--cases", "1", "--allow-nonfinite") == 2
    assert "unproven: none of the 12 elements of y" in capsys.readouterr().out


def test_layer_may_ask_for_what_is_not_finite(caffe: Caffe, tmp_path: Path) -> None:
    """In a test file, too, by the same word; a kink beside an infinity is still known as one."""
    (tmp_path / "net.prototxt").write_text(RELU)
    variants = {"net": located(net("net.prototxt"), tmp_path)}
    data = {"x": "constant:inf"}
    with pytest.raises(caffe_parity.BadLayer, match="allow_nonfinite=True"):
        Layer("relu", functional.relu, {"x": (4, 3)}, data=data)
    ours = Layer("relu", lambda x: x.clamp(min=0), {"x": (4, 3)}, data=data, allow_nonfinite=True)
    ours = replace(ours, variants=variants, cases=1)
    assert judge(ours, "net", ours.case(0)).verdict == "unproven"
    x = np.array([[np.inf, 0.0, 1.0], [np.nan, -1.0, 2.0]], np.float32)
    given = Layer("relu", lambda x: x.clamp(min=0), {"x": (2, 3)}, variants)
    given = given.with_inputs("x.npz", {"x": x})
    record = judge(given, "net", given.all_cases()[0])
    assert record.verdict == "pass"
    assert record.tensors["gradient:x"].compared == 5  # all but the kink at 0


def test_one_shape_of_an_input_layer_stands_for_all_its_tops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caffe: Caffe
) -> None:
    """As in Caffe; of several each top has its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ref.py").write_text("def add(x, y):\n    return x + y\n")
    for shapes, status in (("shape { dim: 2 dim: 3 }", 0), (2 * "shape { dim: 4 dim: 3 } ", 0)):
        text = layer("Input", "", "x y", f"input_param {{ {shapes} }}")
        (tmp_path / "net.prototxt").write_text(text + layer("Eltwise", "x y", "z"))
        assert check("net.prototxt", "--reference", "ref.py:add", "--cases", "1") == status


def test_files_of_a_net_start_at_the_folder_of_its_test(tmp_path: Path) -> None:
    """Its own, those of its Python layers, and what it loads; what is not there is named."""
    (tmp_path / "layers").mkdir()
    (tmp_path / "my.so").touch()
    (tmp_path / "net.prototxt").write_text(input_layer("x", 2, 3) + layer("ReLU", "x", "y"))
    found = located(net("net.prototxt", path=["layers"], load=["my.so"]), tmp_path)
    assert found.sources and found.sources.made.libraries == {str(tmp_path / "my.so"): "load my.so"}
    assert str(tmp_path / "layers") in found.path
    for path, library, words in (
        ([], ["no.cpp"], "no.cpp"),
        (["no"], [], "no"),
        (["my.so"], [], "my"),
    ):
        with pytest.raises(BadRequest, match=words):
            located(net("net.prototxt", path=path, load=library), tmp_path)
