"""Tests of `parity doctor`: it tells what is there, and survives whatever is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from caffe_parity import checkout
from caffe_parity.caffe import cache, driver, install, interpreter
from caffe_parity.cli import doctor
from caffe_parity.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable chooses a Caffe, a BLAS or a mirror."""
    for name in ("CAFFE_PYTHON", "PARITY_BLAS", "PARITY_MIRROR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def real() -> Path:
    """The root of the Caffe that is installed for the user who runs the tests."""
    return install.ensure()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder without a Caffe."""
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH on which there is no program at all but those that a test puts there."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "bin"


def program(folder: Path, name: str, script: str) -> Path:
    """Write the shell script `script` as the program `name`."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def reasons(report: dict[str, Any]) -> dict[str, str]:
    """Return why each thing that cannot run cannot run."""
    return {entry["what"]: entry["why"] for entry in report["cannot_run"]}


def test_installed_caffe_is_described(real: Path) -> None:
    """The report tells what the installed Caffe is and which BLAS it has really loaded."""
    caffe = doctor.examine()["caffe"]
    assert caffe["found"] and caffe["source"] == "installed"
    assert caffe["version"] == "1.0.0" and caffe["package"].startswith("1.0.0+git20180821")
    assert caffe["python"].startswith("3.9.") and caffe["numpy"].startswith("1.19.")
    assert caffe["protobuf"].startswith("3.12.")
    assert caffe["layer_types"] == 61 and caffe["python_layers"] and caffe["device"] == "CPU"
    assert caffe["blas"]["name"] == "reference"
    assert caffe["blas"]["files"] == [str(real / "usr/lib/x86_64-linux-gnu/blas/libblas.so.3.9.0")]
    assert caffe["command"][0].startswith(str(real))


def test_what_an_install_took_is_told(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step, as it was noted when it was installed; of an old one nothing is."""
    noted = {
        "packages": {},
        "seconds": 3.5,
        "took": {"fetching Caffe": 1.0, "unpacking Caffe": 2.5},
    }
    words = "installed in 3.5 s: fetching Caffe 1.0 s, unpacking Caffe 2.5 s"
    for known, line in ((noted, words), ({"packages": {}}, None)):
        (tmp_path / install.COMPLETE).write_text(json.dumps(known))
        monkeypatch.setattr(install, "COMPLETE", str(tmp_path / install.COMPLETE))
        lines = doctor._caffe_lines(doctor.examine()["caffe"])
        assert [each for each in lines if each.startswith("installed in")] == [line] * bool(line)


def test_chosen_blas_is_described(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report tells OpenBLAS from reference BLAS by the libraries that are loaded."""
    monkeypatch.setenv("PARITY_BLAS", "openblas")
    blas = doctor.examine()["caffe"]["blas"]
    assert blas["name"] == "OpenBLAS" and any("openblasp" in file for file in blas["files"])


def test_host_is_described(real: Path) -> None:
    """The report names PyTorch, NumPy, Python, the machine and the cache folder."""
    import numpy
    import torch

    report = doctor.examine()
    assert report["torch"]["version"] == torch.__version__
    assert report["torch"]["threads"] == torch.get_num_threads()
    assert report["numpy"] == numpy.__version__
    assert report["python"]["executable"] == sys.executable
    assert report["cache"]["folder"] == str(cache.folder())
    assert report["cache"]["installed"] == str(real)
    assert report["machine"]["cpu"] and "Linux" in report["machine"]["os"]
    assert report["ready"]


def test_report_is_json_and_fits_a_terminal(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json` prints what `examine` returns, and the text keeps to 100 columns."""
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"caffe", "torch", "python", "gpu", "cannot_run", "ready"} <= set(report)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Caffe ") and text.endswith("can be compared here.\n")
    # Only a single word, such as a long path, may stick out.
    assert [line for line in text.splitlines() if len(line) > 100 and " " in line[15:]] == []


def test_caffe_that_is_not_installed_yet(empty_cache: Path) -> None:
    """Without a Caffe the report says that one can be installed, and installs nothing itself."""
    report = doctor.examine()
    assert not report["caffe"]["found"] and report["caffe"]["installable"] and report["ready"]
    assert "No Caffe is installed in" in reasons(report)["the Caffe variants, until then"]
    assert "once Caffe is installed" in doctor.render(report)
    assert not empty_cache.exists()


@pytest.mark.parametrize("is_checkout", [True, False])
def test_advice_fits_how_it_was_installed(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_checkout: bool
) -> None:
    """tox, but for one who has no tox.ini: then it is the command that pip has brought."""
    monkeypatch.setattr(checkout, "ROOT", tmp_path)
    if is_checkout:
        (tmp_path / "tox.ini").touch()
    monkeypatch.setattr(doctor, "_torch", lambda: {"found": False, "problem": "gone"})
    monkeypatch.setattr(doctor, "_version_of", lambda name: None)
    said = doctor.render(doctor.examine())
    assert ("tox -e parity" in said) == is_checkout
    assert ("parity install-caffe" in said) == (not is_checkout)
    assert ("pip install torch" in said) == ("pip install numpy" in said) == (not is_checkout)
    with pytest.raises(interpreter.NotInstalled) as caught:
        interpreter.find(install=False)
    assert ("`tox -e parity`" in caught.value.advice) == is_checkout


def test_caffe_that_cannot_be_installed(empty_cache: Path, empty_path: Path) -> None:
    """Without a Caffe and without apt the main job cannot run, and the report says why."""
    report = doctor.examine()
    assert (
        "apt-get and bash and dpkg-deb and tar not found" in reasons(report)["all Caffe variants"]
    )
    assert not report["ready"]
    assert "until the above is mended" in doctor.render(report)


def test_missing_tools_are_named(real: Path, empty_path: Path) -> None:
    """Without a compiler, nvcc and a GPU, what needs them is listed, and the rest can run."""
    report = doctor.examine()
    assert "there is no g++" in reasons(report)["torch-compiled"]
    text = doctor.render(report)
    assert "no g++" in text
    assert report["ready"]


def test_tools_are_found(real: Path, empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilers are found by CXX and CUDA_HOME, with the version that they tell."""
    monkeypatch.setenv("CXX", str(program(empty_path, "my-g++", "echo 14.2.0")))
    program(empty_path, "nvcc", "echo 'Cuda compilation tools, release 12.9, V12.9.41'")
    monkeypatch.setenv("CUDA_HOME", str(empty_path.parent))
    monkeypatch.setenv("PATH", "")
    report = doctor.examine()
    assert report["compiler"]["version"] == "14.2.0"
    assert report["nvcc"] == {"path": str(empty_path / "nvcc"), "version": "12.9.41"}
    assert "my-g++ 14.2.0" in doctor.render(report)


def test_gpu_that_caffe_cannot_use(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU, the CPU-only Caffe is said not to run in GPU mode."""
    monkeypatch.setattr(driver, "devices", lambda: ("NVIDIA H200",))
    report = doctor.examine()
    assert report["gpu"] == {"devices": ["NVIDIA H200"], "problem": None}
    assert "built for the CPU only" in reasons(report)["Caffe in GPU mode"]
    assert "anything on a GPU" not in reasons(report)


def test_driver_that_does_not_start(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that fails is no missing GPU: it is told what it says."""

    def fail() -> tuple[str, ...]:
        raise driver.DriverError("the CUDA driver does not start: its error 999")

    monkeypatch.setattr(driver, "devices", fail)
    report = doctor.examine()
    assert report["gpu"]["devices"] == []
    assert "its error 999" in reasons(report)["anything on a GPU"]


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ("/no/such/python", "there is no such program"),
        (sys.executable, "No module named 'caffe'"),
        ("/bin/true", "cannot `import caffe`"),
    ],
)
def test_wrong_caffe_python(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, chosen: str, why: str
) -> None:
    """A CAFFE_PYTHON that does not work is why no Caffe variant can run, and the main job fails."""
    monkeypatch.setenv("CAFFE_PYTHON", chosen)
    report = doctor.examine()
    assert why in reasons(report)["all Caffe variants"]
    assert report["caffe"]["source"] == "CAFFE_PYTHON" and not report["ready"]
    assert why in doctor.render(report).replace("\n         ", " ")


def test_own_caffe_is_described(
    real: Path, tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CAFFE_PYTHON that works is described like the installed one; its BLAS is its own."""
    command, environment = install.python_command(real, "openblas")
    settings = " ".join(f"{name}='{value}'" for name, value in environment.items())
    words = " ".join(f"'{word}'" for word in command)
    own = program(tmp_path, "my-python", f'exec /usr/bin/env {settings} {words} "$@"')
    monkeypatch.setenv("CAFFE_PYTHON", str(own))
    monkeypatch.setenv("PARITY_BLAS", "reference")
    report = doctor.examine()
    caffe = report["caffe"]
    assert (caffe["source"], caffe["command"]) == ("CAFFE_PYTHON", [str(own)])
    assert caffe["package"] is None and caffe["blas"]["name"] == "OpenBLAS"
    assert "its own BLAS" in reasons(report)["the BLAS asked for with PARITY_BLAS=reference"]
    assert report["ready"]


def test_unknown_blas(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PARITY_BLAS that does not exist is reported, not raised."""
    monkeypatch.setenv("PARITY_BLAS", "mkl")
    report = doctor.examine()
    assert "'mkl'" in reasons(report)["all Caffe variants"] and not report["ready"]


def test_python_without_torch_and_numpy(real: Path) -> None:
    """A Python that has neither PyTorch nor NumPy still gets its report, and exit status 1."""
    ran = subprocess.run(
        [sys.executable, "-S", "-m", "caffe_parity", "doctor", "--json"],  # -S: no site-packages
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (1, "")
    report = json.loads(ran.stdout)
    assert "No module named 'torch'" in reasons(report)["the reference and all torch variants"]
    assert "NumPy is not installed" in reasons(report)["everything"]
    assert report["caffe"]["found"]


def test_broken_torch(real: Path, tmp_path: Path) -> None:
    """A PyTorch whose import fails in its own way is reported, not raised."""
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: wrong ELF class')\n")
    ran = subprocess.run(
        [sys.executable, "-m", "caffe_parity", "doctor"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (1, "")
    assert "(OSError: libtorch.so: wrong ELF class)" in ran.stdout


def test_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong option ends with the usage and status 2, not with a report."""
    assert main(["doctor", "--jsn"]) == 2
    assert "unrecognized arguments: --jsn" in capsys.readouterr().err
