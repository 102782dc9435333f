"""`parity check --py2`: old layers run from a converted copy, and mean what they meant."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from caffe_parity.caffe import python2
from caffe_parity.caffe.layer_errors import hint
from caffe_parity.caffe.python2 import _with_names
from caffe_parity.caffe.python2_names import divided, divided_in_place
from caffe_parity.contract import BadRequest
from tests.commands import check

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


OLD = '''
"""Half of the mean of the squares of the first half of the batch; \\xe9."""
import caffe, cPickle
import numpy as np
from settings import factor

class Layer(caffe.Layer):
    def setup(self, bottom, top):
        options = eval(self.param_str_)
        if options.has_key('verbose') and options['verbose'] <> 0:
            print >>sys.stderr, 'set up', `options`
        for name, value in options.iteritems():
            setattr(self, name, value)

    def reshape(self, bottom, top):
        self.half = bottom[0].num / 2
\ttop[0].reshape(1)

    def forward(self, bottom, top):
        self.x = bottom[0].data[:self.half]
        squares = reduce(lambda a, b: a + b, map(lambda row: (row ** 2).sum(), self.x))
        squares /= self.half  # a float, so nothing is rounded down
        top[0].data[...] = factor(squares, (1 + 4)
                                  / 2)

    def backward(self, top, propagate_down, bottom):
        try:
            bottom[0].diff[...] = 0
            bottom[0].diff[xrange(self.half)] = top[0].diff[0] * self.x / self.half
        except ValueError, error:
            raise RuntimeError, 'no gradient'
'''
SETTINGS = "def factor(value, two):\n    return value / long(two)\n"
TRUTH = """
def loss(x):
    half = x.shape[0] // 2
    return 0.5 * (x[:half] ** 2).sum() / half
"""
CHECK = ["old_layer.py:Layer", "--bottom", "x=5,3", "--param-str", "{'verbose': 0}"]
CHECK += ["--reference", "truth.py:loss", "--cases", "2"]


def test_old_layer_runs_from_a_copy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what it imports from beside it; each changed line is told, no file of the user's is."""
    files = {"old_layer.py": OLD.replace("\\xe9", "e"), "settings.py": SETTINGS, "truth.py": TRUTH}
    for name, text in files.items():
        (folder / name).write_text(text)
    assert check(*CHECK) == 2
    assert "--py2 checks a converted copy" in capsys.readouterr().err
    assert check(*CHECK, "--py2") == 0
    said = capsys.readouterr().out
    assert "old_layer.py:16: self.half = bottom[0].num / 2  ->  " in said
    assert "self.half = _divided(bottom[0].num, 2)" in said
    assert "settings.py:2: return value / long(two)  ->  return _divided(value, int(two))" in said
    assert {name: (folder / name).read_text() for name in files} == files
    assert not (folder / "__pycache__" / "python2_names.py").exists()


def test_error_of_a_copy_names_the_users_file_and_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The conversion moves no line, and what it did not mend is told where it stands."""
    text = OLD.replace("setattr(self, name, value)", "setattr(self, nome, value)")
    (folder / "old_layer.py").write_text(text)
    (folder / "settings.py").write_text(SETTINGS)
    (folder / "truth.py").write_text(TRUTH)
    assert check(*CHECK, "--py2") == 2
    said = capsys.readouterr().err
    line = 1 + OLD.splitlines().index("            setattr(self, name, value)")
    assert f'File "old_layer.py", line {line}, in setup' in said
    assert "name 'nome' is not defined" in said
    assert "worker.py" not in said and "--py2" not in said


def converted(folder: Path, source: str) -> str:
    """One module, as it is converted."""
    (folder / "mine.py").write_text(source)
    copies = folder / "copies"
    copies.mkdir()
    python2.converted(["mine"], (str(folder),), copies)
    return (copies / "mine.py").read_text()


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7 / 2", 3),
        ("-7 / 2", -4),
        ("7 / 2.0", 3.5),
        ("100 / 7 / 2 * 3.0", 21.0),
        ("(7 + 2) / (1 + 1)", 4),
        ("[7 / (3 / 2) for _ in range(1)][7 / 8]", 7),
        ("np.arange(5) / 2", [0, 0, 1, 1, 2]),
        ("np.arange(3) / 2.0", [0, 0.5, 1]),
        ("np.int64(7) / np.int32(2)", 3),
        ("np.float32(7) / 2", 3.5),
        ("True / 2", 0),
        ("7 // 2 + 7 / 2", 6),
        ("(7 # of them, and/or\n / 2)", 3),
        ("'a/b'.split('/')[3 / 2]", "b"),
        ("reduce(lambda a, b: a + b, [1, 2])", 3),
        ("sorted({'a': 1}.keys())", ["a"]),
        ("zip([1], [2])[0]", (1, 2)),
        ("0777 + 1L", 512),
    ],
)
def test_expression_means_what_it_meant(folder: Path, expression: str, value: object) -> None:
    """What Python 2.7 computes; `/` rounds down between integers and nowhere else."""
    text = converted(folder, f"import numpy as np\nresult = {expression}\n")
    names: dict[str, object] = {}
    exec(text.replace(python2.NAMES.stem, "caffe_parity.caffe.python2_names"), names)
    assert np.array_equal(np.asarray(names["result"]), np.asarray(value))


def test_division_in_place_stays_in_place(folder: Path) -> None:
    """`x[1] /= 2`, a second name of an array, and a target with a division of its own."""
    text = converted(
        folder,
        "import numpy as np\nx = np.ones(3); y = x; n = 7; k = [7, 9]\n"
        "y /= 4\nx[1] /= 2\nn /= 2\nk[1 / 2] /= (1 +\n 1)\n",
    )
    assert len(text.splitlines()) == 7
    names: dict[str, object] = {}
    exec(text.replace(python2.NAMES.stem, "caffe_parity.caffe.python2_names"), names)
    assert np.array_equal(np.asarray(names["x"]), [0.25, 0.125, 0.25])
    assert names["y"] is names["x"]
    assert (names["n"], names["k"]) == (3, [3, 9])


def test_true_division_stays(folder: Path) -> None:
    """A file with `from __future__ import division` means Python 3's `/`."""
    text = converted(folder, "from __future__ import division, print_function\nx = 7 / 2\n")
    assert "x = 7 / 2\n" in text


def test_names_are_imported_without_a_line_of_their_own() -> None:
    """Before the first statement; only a class on the first line leaves no other way."""
    statement = "from python2_names import divided as _divided"
    assert _with_names("# old\nx = 1\n", ["_divided"]) == f"# old\n{statement}; x = 1\n"
    assert _with_names("# old\nclass A: pass\n", ["_divided"]).startswith(f"{statement}  # old\n")
    for head in ("", "# coding: utf-8\n"):
        text = _with_names(f"{head}class A: pass\n", ["_divided"])
        assert text == f"{head}{statement}\nclass A: pass\n"


def test_package_beside_the_layer_is_converted(folder: Path) -> None:
    """With its modules, by the imports that Python 2 took from the same folder."""
    (folder / "tools").mkdir()
    (folder / "tools" / "__init__.py").write_text("import inner\nprint 1\n")
    (folder / "tools" / "inner.py").write_text("print 2\n")
    converted(folder, "import caffe, tools.inner\n")
    assert (folder / "copies" / "tools" / "inner.py").read_text() == "print(2)\n"
    expected = "from . import inner\nprint(1)\n"
    assert (folder / "copies" / "tools" / "__init__.py").read_text() == expected


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = (\n", "mine.py"),
        ("x = 1\nif x print 2\n", "mine.py:2"),
        ("# coding: no-such-code\n", "unknown encoding"),
    ],
)
def test_source_that_is_no_python_2_is_told(folder: Path, source: str, words: str) -> None:
    """A BadRequest with the file, and the line where there is one."""
    with pytest.raises(BadRequest, match=words):
        converted(folder, source)


def test_nothing_to_convert_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2 for a net without a Python layer, and for a layer that lies nowhere."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    softmax = ["examples/softmax.prototxt", "--reference", "examples/softmax.py:loss", "--py2"]
    text = (folder / "examples/softmax.prototxt").read_text()
    (folder / "examples/softmax.prototxt").write_text(text.replace("softmax_layer", "elsewhere"))
    assert check(*softmax) == 2
    assert "none of elsewhere lies in" in capsys.readouterr().err
    segmentation = [
        "examples/segmentation.prototxt",
        "--reference",
        "examples/segmentation.py:loss",
    ]
    assert check(*segmentation, "--py2") == 2
    assert "has no Python layer" in capsys.readouterr().err


def test_division_of_other_things() -> None:
    """Integers of Python and NumPy round down; whatever else divides as it does."""
    assert divided(np.uint8(7), 2) == 3 and isinstance(divided(7, 2), int)
    assert divided(7, 2.5) == 2.8
    array = np.array([7, 9])
    assert divided_in_place(array, 2) is array and array.tolist() == [3, 4]


def test_hint_about_a_text_that_was_evaluated() -> None:
    """A SyntaxError in param_str is no sign of Python 2."""
    assert hint('  File "<string>", line 0\nSyntaxError: unexpected EOF') == ""
    assert hint("SyntaxError: unexpected EOF while parsing (<string>, line 0)") == ""
    assert "is it Python 2" in hint('  File "a.py", line 3\nSyntaxError: invalid syntax')
