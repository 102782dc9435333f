"""`parity weights`: each number where PyTorch wants it, to the bit, or nothing is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from caffe_parity.caffe.client import Caffe
from caffe_parity.cli.main import main
from caffe_parity.ports import recurrent
from caffe_parity.whole.transfer import missing, write
from caffe_parity.whole.weights import of_port
from studies.localise.__main__ import compared_with
from studies.localise.ports import PORTS
from tests.net_text import input_layer
from tests.test_check_data import caffemodel, field, varint
from tests.test_net import net

PAGE = Path(__file__).parent.parent / "docs" / "weights.md"
NET = "examples/small_net.prototxt"
RNG = np.random.RandomState(0)


def drawn(*shape: int) -> np.ndarray:
    """Numbers of that shape, float32."""
    return RNG.normal(0, 0.3, shape).astype(np.float32)


CONV, FC = [drawn(6, 3, 3, 3), drawn(6)], [drawn(5, 150), drawn(5)]
"""The parameters of the small net."""


def weights(*arguments: str) -> int:
    """The exit status of `parity weights`."""
    return main(["weights", *arguments])


@pytest.mark.parametrize("name", PORTS)
def test_ports_of_all_kinds_get_caffes_numbers(caffe: Caffe, tmp_path: Path, name: str) -> None:
    """Groups, Deconvolution, BatchNorm with Scale, PReLU, shared parameters, in either syntax.

    With what is read back in it, the port computes what Caffe does.
    """
    model = PORTS[name]()
    compared, _ = compared_with(name, model, "TEST")
    file = tmp_path / "w.safetensors"
    assert missing(compared) == []
    assert write(compared, model, file) == len(model.state_dict())
    model.load_state_dict(load_file(file))
    made = compared.weights.state(of_port(model), compared.params(False), torch.float32)
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(torch.equal(made[key], value) for key, value in own.items())


RECURRENT = (
    input_layer("x", 5, 3, 4)
    + input_layer("cont", 5, 3)
    + 'layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h" '
    + "recurrent_param { num_output: 6 } }"
    + 'layer { name: "rnn" type: "RNN" bottom: "h" bottom: "cont" top: "y" '
    + "recurrent_param { num_output: 2 } }"
)
PORT = """
import torch
from torch import nn

class Masked(nn.Module):
    '''A sequence begins where cont is 0.'''

    def __init__(self, make, linear):
        super().__init__()
        self.cell = make
        self.out = linear

    def forward(self, x, cont):
        h = c = x.new_zeros(x.shape[1], self.cell.hidden_size)
        found = []
        for one, keep in zip(x, cont.unsqueeze(-1)):
            if self.out is None:
                h, c = self.cell(one, (h * keep, c * keep))
                found.append(h)
            else:
                h = self.cell(one, h * keep)
                found.append(torch.tanh(self.out(h)))
        return torch.stack(found)

class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = Masked(nn.LSTMCell(4, 6), None)
        self.rnn = Masked(nn.RNNCell(6, 2), nn.Linear(2, 2))

    def forward(self, x, cont):
        return self.rnn(self.lstm(x, cont), cont)

class Rnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.RNN(6, 2)
        self.out = nn.Linear(2, 2)

    def forward(self, x):
        return torch.tanh(self.out(self.cells(x)[0]))

class Whole(nn.Module):
    first = False

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=self.first)
        self.rnn = Rnn()

    def forward(self, x):
        if self.first:
            return self.rnn(self.lstm(x.transpose(0, 1))[0].transpose(0, 1))
        return self.rnn(self.lstm(x)[0])

class BatchFirst(Whole):
    first = True
"""


@pytest.fixture
def sequence(folder: Path) -> Path:
    """A folder with a net of an LSTM and an RNN, ports of it, and its weights."""
    Path("net.prototxt").write_text(RECURRENT)
    Path("port.py").write_text(PORT)
    lstm = [drawn(24, 4), drawn(24), drawn(24, 6)]
    rnn = [drawn(2, 6), drawn(2), drawn(2, 2), drawn(2, 2), drawn(2)]
    caffemodel(Path("w.caffemodel"), lstm=lstm, rnn=rnn)
    np.savez("lstm.npz", *lstm)
    return folder


@pytest.mark.parametrize("name", ["Cells", "Whole", "BatchFirst"])
def test_recurrent_layers(caffe: Caffe, sequence: Path, name: str) -> None:
    """The gates' order and the one bias; the file alone gives PyTorch's LSTM Caffe's outputs."""
    cont = "cont=binary" if name == "Cells" else "cont=constant:1"
    arguments = ["net.prototxt", "--port", f"port.py:{name}", "--data", cont]
    assert net(*arguments, "--weights", "w.caffemodel") == 0
    assert weights("net.prototxt", "w.caffemodel", *arguments[1:], "-o", "w.safetensors") == 0
    state = load_file("w.safetensors")
    kind = nn.LSTMCell(4, 6) if name == "Cells" else nn.LSTM(4, 6)
    prefix = "lstm.cell." if name == "Cells" else "lstm."
    kind.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    kind.double()  # which the float32 numbers of both go into as they are
    held = [torch.from_numpy(each).double() for each in np.load("lstm.npz").values()]
    x = torch.from_numpy(drawn(1, 3, 4)).double()
    expected, *_ = recurrent.lstm(x, torch.ones(1, 3).double(), *held)
    found = kind(x[0])[0] if name == "Cells" else kind(x)[0][0]
    # A gate sums 11 terms, whose sizes add up to less than 2**6, and no slope behind is above 1:
    # 4 gates are off by less than 4 * 11 * 2**6 * 2**-53 < 2**-41.
    assert (found - expected[0]).abs().max() < 2.0**-41


def test_sequences_that_begin_anew(
    caffe: Caffe, sequence: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PyTorch's LSTM does not look at cont: both layers are named, and each says so."""
    arguments = ["net.prototxt", "--port", "port.py:Whole", "--phase", "TEST"]
    assert net(*arguments, "--data", "cont=binary", "--weights", "w.caffemodel") == 1
    assert "disagrees: lstm, rnn" in capsys.readouterr().out


def v1(**layers: list[np.ndarray]) -> bytes:
    """A .caffemodel as Caffe of 2014 wrote it: layers 2, name 4, type 5, blobs 6 of four axes."""
    made = b""
    types = {"conv1": 4, "fc2": 14}
    for name, arrays in layers.items():
        body = field(4, name.encode()) + varint(5 << 3) + varint(types[name])
        for each in arrays:
            shape = [1] * (4 - each.ndim) + list(each.shape)
            extents = b"".join(
                varint(number << 3) + varint(extent) for number, extent in enumerate(shape, 1)
            )
            body += field(6, extents + field(5, each.tobytes()))
        made += field(2, body)
    return made


FILES = {
    "it is another net's": (
        {"conv1": [drawn(6, 3, 5, 5), drawn(6)], "fc2": FC},
        2,
        "'conv1' has o",
    ),
    "a blob is missing": ({"conv1": CONV[:1], "fc2": FC}, 2, "that of another net"),
    "no layer of it": (
        {"x": CONV},
        2,
        "with parameters are conv1, fc2: Caffe matches them by name",
    ),
    "a layer is missing": ({"fc2": FC}, 1, "has no parameters for the layer conv1"),
    "more than the net has": ({"conv1": CONV, "fc2": FC, "x": FC}, 0, "has parameters of x"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_nets(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Each is told, and nothing is written."""
    layers, status, words = FILES[name]
    caffemodel(Path("w.caffemodel"), **layers)
    port = "examples/small_net.py:SmallNet"
    assert weights(NET, "w.caffemodel", "--port", port, "-o", "w.safetensors") == status
    said = capsys.readouterr()
    assert words in said.out + said.err
    assert Path("w.safetensors").exists() == (not status)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda good: good[:-10], "no .caffemodel, or a part of one"),
        (lambda good: b"\x89HDF\r\n\x1a\n" + good, "HDF5, which is not read here"),
        (lambda good: b"", "it has no layer with parameters"),
        (lambda good: b"version https://git-lfs.github.com/spec/v1\n", "no .caffemodel"),
    ],
    ids=["cut off", "HDF5", "empty", "a pointer"],
)
def test_files_that_are_none(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str], content: object, words: str
) -> None:
    """Refused with words."""
    caffemodel(Path("w.caffemodel"), conv1=CONV, fc2=FC)
    assert callable(content)
    Path("w.caffemodel").write_bytes(content(Path("w.caffemodel").read_bytes()))
    port = "examples/small_net.py:SmallNet"
    assert weights(NET, "w.caffemodel", "--port", port, "-o", "w.safetensors") == 2
    assert words in capsys.readouterr().err


PORTS_OF_IT = """
import sys
import torch
from torch import nn
from examples.small_net import SmallNet

class Double(SmallNet):
    def __init__(self):
        super().__init__()
        self.double()

class Tied(SmallNet):
    def __init__(self):
        super().__init__()
        self.again = self.fc2

class Half(SmallNet):
    def __init__(self):
        super().__init__()
        self.half()

class Wide(SmallNet):
    def __init__(self):
        super().__init__()
        self.fc2 = nn.Linear(150, 7)

class Extra(SmallNet):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))

class Raises(SmallNet):
    def __init__(self):
        raise TypeError("no such thing")

class Convolved(SmallNet):
    def __init__(self):
        super().__init__()
        self.fc2 = nn.Conv2d(6, 5, 5)
        self.norm1.register_forward_hook(lambda m, x, y: self.keep(y))

    def keep(self, y):
        self.shape = y.shape

    def forward(self, data, label):
        x = self.norm1(self.pool1(self.conv1(data).relu()))
        return self.loss(self.fc2(x).flatten(1), label.long())
"""


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("Double", 0, "4 tensors"),
        ("Tied", 0, "6 tensors"),
        ("Convolved", 0, "fc2.weight (5, 6, 5, 5)"),
        ("Half", 2, "conv1.weight is float16, and is compared in float32"),
        (
            "Wide",
            1,
            "the layer fc2 has parameters (5, 150), (5,), the port's fc2 (Linear) weight (7",
        ),
        ("Extra", 1, "the port's parameter gain (2,) is none of the net's"),
        ("Raises", 2, "cannot be made: TypeError: no such thing"),
    ],
)
def test_ports_of_other_kinds(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    status: int,
    words: str,
) -> None:
    """Without W the fillers' values; a V1 file gives the same bits as a new one."""
    Path("ports.py").write_text(PORTS_OF_IT)
    arguments = (NET, "--port", f"ports.py:{name}", "-o", "w.safetensors")
    assert weights(*arguments) == status
    said = capsys.readouterr()
    assert words in said.out + said.err
    if not status:
        Path("v1.caffemodel").write_bytes(v1(conv1=CONV, fc2=FC))
        assert weights(NET, "v1.caffemodel", *arguments[1:]) == 0
        found = load_file("w.safetensors")
        assert np.array_equal(found["fc2.weight"].reshape(5, 150).float().numpy(), FC[0])


def test_commands_of_the_page_do_what_it_says(caffe: Caffe, folder: Path) -> None:
    """Each ends with exit status 0."""
    lines = re.findall(r"^    parity (weights .*)$", PAGE.read_text(), re.MULTILINE)
    assert lines
    assert [main(shlex.split(line)) for line in lines] == [0] * len(lines)
