"""`parity check --load FILE.cpp`: a compiled layer from its source, in one command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.interpreter import Interpreter, find
from caffe_parity.caffe.session import SESSION
from tests.commands import check

ROOT = Path(__file__).parent.parent
LAYER = ROOT / "examples" / "squared_hinge_layer.cpp"
CHECK = ["examples/squared_hinge.prototxt", "--data", "label=binary"]
CHECK += ["--reference", "examples/squared_hinge.py:loss", "--cases", "2"]


@pytest.fixture
def caffe() -> Iterator[Caffe]:
    """A Caffe of each test's own, since a layer type can be registered once only."""
    with Caffe(find()) as started:
        yield started


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("", "", "agrees"),
        ("top[0]->cpu_diff()[0] / bottom", "Dtype(1) / bottom", "ignores-top-diff: "),
        ("sum / bottom[0]->shape(0)", "sum / bottom[0]->count()", "forward-value: loss is off by"),
    ],
)
def test_compiled_layer_is_compiled_and_judged(
    caffe: Caffe,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    old: str,
    new: str,
    code: str,
) -> None:
    """The right layer agrees, a broken one has the code of its mistake."""
    text = LAYER.read_text()
    assert text.count(old) == 1 or not old
    (folder / "mine_layer.cpp").write_text(text.replace(old, new) if old else text)
    status = check(*CHECK, "--load", "mine_layer.cpp")
    said = capsys.readouterr()
    assert status == bool(old), said
    assert code in said.out


def test_source_that_the_compiler_refuses(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2 and the compiler's own words, with the user's file and line, also in a header."""
    (folder / "mine_layer.cpp").write_text('#include "caffe/layers/mine_layer.hpp"\n')
    (folder / "mine_layer.hpp").write_text("\nint broken(;\n")
    assert check(*CHECK, "--load", "mine_layer.cpp") == 2
    said = capsys.readouterr().err
    assert "--load mine_layer.cpp: the compiler refuses it" in said
    assert "mine_layer.hpp:2:" in said and "error: " in said
    assert "/tmp/tmp" not in said and "caffe/layers/mine_layer.hpp:" not in said
    (folder / "mine_layer.hpp").unlink()
    assert check(*CHECK, "--load", "mine_layer.cpp") == 2
    assert "caffe/layers/mine_layer.hpp: No such file" in capsys.readouterr().err


def test_header_in_a_folder_of_path_is_found(
    caffe: Caffe, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a Caffe tree, where a layer's header lies elsewhere; --path says where."""
    text = LAYER.read_text()
    head, rest = text.split("INSTANTIATE_CLASS", 1)
    (folder / "include").mkdir()
    (folder / "include" / "mine_layer.hpp").write_text(head + "}\n")
    (folder / "mine_layer.cpp").write_text(
        f'#include "caffe/layers/mine_layer.hpp"\nnamespace caffe {{\nINSTANTIATE_CLASS{rest}'
    )
    assert check(*CHECK, "--load", "mine_layer.cpp") == 2
    assert "No such file" in capsys.readouterr().err
    assert check(*CHECK, "--load", "mine_layer.cpp", "--path", "include") == 0


def test_source_for_a_caffe_that_is_not_ours_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2: its compiler is unknown, so the library is asked for."""
    installed = find()
    own = Interpreter(installed.command, installed.environment, "CAFFE_PYTHON")
    with Caffe(own) as other:
        SESSION.use(other)
        assert check(*CHECK, "--load", "examples/squared_hinge_layer.cpp") == 2
    assert "for the one of CAFFE_PYTHON give the library" in capsys.readouterr().err
