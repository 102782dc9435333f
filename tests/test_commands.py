"""What `parity` is without a comparison: help, versions, lists, Caffe's Python, other systems."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caffe_parity import checkout
from caffe_parity.caffe import cache
from caffe_parity.cli.main import COMMANDS, main, parser
from caffe_parity.errors import BadRequest

ROOT = Path(__file__).parent.parent


def parity(cwd: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit status and the output of `parity` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "caffe_parity", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        timeout=120,
    )
    return done.returncode, done.stdout


QUICK = [["--help"], ["--version"], ["chek"], *([name, "--help"] for name in COMMANDS)]


@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_what_needs_no_pytorch_does_not_import_it(arguments: list[str]) -> None:
    """Nobody waits for PyTorch, pytest or Caffe to learn how a command is called."""
    code = (
        "import sys\nfrom caffe_parity.cli.main import main\nmain(sys.argv[1:])\n"
        "raise SystemExit(bool({'torch', 'pytest', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_help_takes_no_longer_than_ten_starts_of_python(tmp_path: Path) -> None:
    """0.1 s where Python starts in 0.01 s; the best of five, for other programs run as well."""
    best = {}
    for name, command in (("bare", ["-c", "import numpy"]), ("help", ["-m", "caffe_parity", "-h"])):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - start)
        best[name] = min(times)
    assert best["help"] < 2 * best["bare"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_text(name: str) -> None:
    """Of every command, each argument as well."""
    (commands,) = (each for each in parser([name])._actions if each.dest == "command")
    assert isinstance(commands.choices, dict)
    actions = commands.choices[name]._actions
    assert [each.dest for each in actions if not each.help] == []


def test_wrong_command_is_told_which_one_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    """As wrong names of variants are; without a close one the known ones are listed."""
    assert main(["chekc"]) == 2
    assert "unknown command 'chekc'. Did you mean 'check'?" in capsys.readouterr().err
    assert main(["dance"]) == 2
    assert f"Known: {', '.join(COMMANDS)}" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["diff", "", "a.json"], ["check", "n", "--json", " "]])
def test_file_without_a_name_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is no file, though `Path` takes it for the current folder."""
    assert main(arguments) == 2
    assert "expected the name of a file or a folder" in capsys.readouterr().err


def test_list_names_layers_variants_and_cases(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that `parity run` takes, in the order of the file."""
    assert main(["list", str(ROOT / "parity_tests" / "test_parity.py")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("euclidean\n  variants (6): caffe-native, caffe-python,")
    assert "channel_sum\n" in said and "tail_sum\n" in said and "only-dx2-two-axes" in said


def test_list_of_what_compares_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be imported is shown with its error; one without comparisons is named."""
    (tmp_path / "test_empty.py").write_text("def test(): pass\n")
    (tmp_path / "test_broken.py").write_text("import nowhere_to_be_found\n")
    assert main(["list", str(tmp_path / "test_empty.py")]) == 2
    assert "has no test with caffe_parity.parametrize" in capsys.readouterr().err
    assert main(["list", str(tmp_path / "test_broken.py")]) == 2
    assert "No module named 'nowhere_to_be_found'" in capsys.readouterr().err


def test_list_of_layer_types(tmp_path: Path) -> None:
    """Without a file it is Caffe that is asked, and the catalogue for what each is in PyTorch."""
    status, said = parity(tmp_path, "list")
    assert status == 0 and "layer types\n" in said and " EuclideanLoss," in said
    assert "in PyTorch exact (" in said and "  in PyTorch a named hole (1): Python\n" in said


def test_python_is_that_of_caffe(tmp_path: Path) -> None:
    """Its status is the command's; old layers find matplotlib.pyplot, which opens no window."""
    code = "import caffe, matplotlib.pyplot as p; print(p.get_backend()); raise SystemExit(7)"
    here = {"HOME": str(tmp_path), "PARITY_CACHE": str(cache.folder())}
    status, said = parity(tmp_path, "python", "-c", code, **here)
    assert (status, said.strip().lower()) == (7, "agg")
    assert parity(tmp_path, "python", "-c", "pass", **here)[0] == 0
    for number in (15, 9):  # as a shell tells of a signal
        code = f"import os; os.kill(os.getpid(), {number})"
        assert parity(tmp_path, "python", "-c", code, **here)[0] == 128 + number
    assert os.listdir(tmp_path) == []


def test_package_for_caffes_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip installs is found by Caffe's Python, after all that Caffe itself runs on."""
    from caffe_parity.caffe import packages

    site = tmp_path / f"packages-{packages.PYTHON}"
    monkeypatch.setattr(packages, "folder", lambda: site)
    (site / "packages").mkdir(parents=True)
    (site / "sitecustomize.py").write_text(packages.HOOK)
    (site / "packages" / "mine.py").write_text("x = 5\n")
    (site / "packages" / "numpy.py").write_text("raise SystemExit('the wrong one')\n")
    from caffe_parity.caffe.interpreter import find

    python = find()
    code = "import caffe, mine; print(mine.x)"
    done = subprocess.run(
        [*python.command, "-c", code],
        env={**os.environ, **python.environment},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["5"], done.stderr


def test_pip_is_held_to_what_caffe_runs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It installs beside Caffe's own packages, whose versions stay; what misses them is refused."""
    from caffe_parity.caffe import packages
    from caffe_parity.caffe.interpreter import find

    site = tmp_path / "added"
    monkeypatch.setattr(packages, "folder", lambda: site)
    assert packages.variables() == {}
    command = packages.pip(find(), ["install", "easydict", "--no-deps"])
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-2:] == ["easydict", "--no-deps"]
    options = dict(zip(command[4:-2:2], command[5:-2:2], strict=False))
    assert options["--target"] == str(site / "packages")
    fixed = command[command.index("--constraint") + 1]
    assert "numpy==" in Path(fixed).read_text()
    assert (site / "packages").is_dir() and (site / "sitecustomize.py").read_text() == packages.HOOK
    assert packages.variables() == {"PYTHONPATH": str(site)}
    assert packages.pip(find(), ["list"])[-2:] == ["--path", str(site / "packages")]
    with pytest.raises(
        BadRequest, match="pip uninstall: of pip there are install, list and freeze"
    ):
        packages.pip(find(), ["uninstall", "easydict"])


NOT_LINUX = """
import os, select, sys
for name in ("fcntl", "termios", "pwd", "grp", "resource"):
    sys.modules[name] = None
for name in ("memfd_create", "pidfd_open", "posix_fallocate"):
    delattr(os, name)
del select.poll
import caffe_parity
for name in caffe_parity.__all__:
    getattr(caffe_parity, name)
from caffe_parity.cli.main import main
statuses = [main(["doctor"]), main(["check", "net.prototxt", "--reference", "truth.py:square"])]
statuses += [main(["run", "test_square.py"])]
print(statuses)
"""
PORT = """
import caffe_parity
def square(x): return x * x
LAYER = caffe_parity.Layer(
    "square", reference=square, inputs={"x": (2, 3)}, variants={"port": square}, cases=1)
@caffe_parity.parametrize(LAYER)
def test_square(comparison): comparison.check()
"""


def test_ports_can_be_compared_where_no_caffe_can_run(tmp_path: Path) -> None:
    """On Windows and macOS all can be imported, a port is judged, and the rest says why not."""
    (tmp_path / "test_square.py").write_text(PORT)
    (tmp_path / "truth.py").write_text("def square(x): return x * x\n")
    (tmp_path / "net.prototxt").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", NOT_LINUX],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.stdout.splitlines()[-1] == "[1, 2, 0]", done.stdout + done.stderr
    assert done.stdout.count("A real Caffe is talked to on Linux only") == 1
    assert "parity check: A real Caffe is talked to on Linux only" in done.stderr


def test_which_code_runs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another checkout than the code's own; in one's own, and elsewhere, nothing."""
    monkeypatch.chdir(ROOT / "tests")
    assert checkout.other_code() == ""
    monkeypatch.chdir(tmp_path)
    assert checkout.other_code() == ""
    (tmp_path / "caffe_parity").mkdir()
    (tmp_path / "caffe_parity" / "checkout.py").touch()
    assert str(ROOT / "caffe_parity") in checkout.other_code()
    assert str(tmp_path) in checkout.other_code()
