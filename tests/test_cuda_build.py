"""Tests of the Caffe with CUDA: its build, its archive, its launcher, and the worker's GPU mode.

None of them builds it, which takes minutes (`parity install-caffe --cuda` does), and none needs a
GPU: what they run is every step around the compiler, on small stand-ins.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from caffe_parity.caffe import apt, cuda_build, cuda_pack, install, interpreter, source_build
from caffe_parity.caffe.client import Caffe, NoDevice
from caffe_parity.caffe.install import InstallError
from caffe_parity.caffe.interpreter import Interpreter, NoCaffe
from caffe_parity.cli.main import main
from caffe_parity.progress import Progress
from parity_tests.machine import cpu_caffe
from tests.test_install import SUITE, Archive, _sha256, key


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, without anything in it, and none of our variables set."""
    folder = tmp_path / "cache"
    folder.mkdir()
    configuration = tmp_path / "apt.conf"
    configuration.write_text("")
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    monkeypatch.setenv("PARITY_CACHE", str(folder))
    names = ("CAFFE", "BLAS", "CUDA_ARCH", "CUDA_LAYERS", "MIRROR")
    for name in ("CAFFE_PYTHON", *(f"PARITY_{each}" for each in names)):
        monkeypatch.delenv(name, raising=False)
    return folder


# The source package


class SourceArchive(Archive):
    """An archive that has one source package, too."""

    def add_source(self, name: str, files: dict[str, bytes]) -> None:
        """Put the files of the source package `name` into the archive."""
        self.sources = self.suite / "main/source/Sources"
        self.sources.parent.mkdir(parents=True)
        listed = ""
        for file, content in files.items():
            (self.folder / file).write_bytes(content)
            listed += f"\n {_sha256(content)} {len(content)} {file}"
        self.sources.write_text(
            f"Package: {name}\nBinary: {name}\nVersion: 1-2\nFormat: 3.0 (quilt)\n"
            f"Directory: .\nChecksums-Sha256:{listed}\n\n"
        )

    def publish(self, signer: int = 1) -> None:
        """Write the Release file for both kinds of packages, signed with the key `signer`."""
        lines = ""
        self.index.touch()
        for index in (self.index, self.sources):
            content = index.read_bytes()
            lines += f" {_sha256(content)} {len(content)} {index.relative_to(self.suite)}\n"
        release = (
            f"Origin: Debian\nLabel: Debian\nSuite: {SUITE}\nCodename: {SUITE}\n"
            "Date: Wed, 01 Jan 2020 00:00:00 UTC\nArchitectures: amd64\nComponents: main\n"
            f"SHA256:\n{lines}"
        )
        (self.suite / "Release").write_text(release)
        (self.suite / "Release.gpg").write_text(key(signer).sign(release.encode()))


SOURCE_FILES = {
    "caffe_1-2.dsc": b"Format: 3.0 (quilt)\nSource: caffe\n",
    "caffe_1.orig.tar.gz": b"original",
    "caffe_1-2.debian.tar.xz": b"debian",
}


@pytest.fixture
def source_archive(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceArchive:
    """A good archive with a source package, which PARITY_MIRROR points to."""
    made = SourceArchive(tmp_path / "archive")
    made.add_source("caffe", SOURCE_FILES)
    made.publish()
    monkeypatch.setenv("PARITY_MIRROR", str(made.folder))
    return made


def fetch_source(archive: Archive, folder: Path) -> Path:
    """Fetch the source package as a build does."""
    ours = apt.Apt(folder, SUITE, archive.edition.keyrings, sources=True)
    ours.update()
    return ours.download_source("caffe")


def test_source_package_is_fetched(source_archive: SourceArchive, tmp_path: Path) -> None:
    """The files of a source package come as the archive has them."""
    folder = fetch_source(source_archive, tmp_path / "apt")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == SOURCE_FILES


def _file_altered(archive: SourceArchive) -> None:
    (archive.folder / "caffe_1.orig.tar.gz").write_bytes(b"Original")


def _list_altered(archive: SourceArchive) -> None:
    archive.sources.write_text(archive.sources.read_text() + "Package: more\n\n")


def _signed_by_a_stranger(archive: SourceArchive) -> None:
    archive.publish(signer=2)


@pytest.mark.parametrize("break_it", [_file_altered, _list_altered, _signed_by_a_stranger])
def test_only_source_that_debian_signed(
    source_archive: SourceArchive, tmp_path: Path, break_it: Callable[[SourceArchive], None]
) -> None:
    """A source package that the keys do not vouch for is refused."""
    break_it(source_archive)
    with pytest.raises(InstallError, match="not what Debian signed"):
        fetch_source(source_archive, tmp_path / "apt")


def test_archive_without_the_source(source_archive: SourceArchive, tmp_path: Path) -> None:
    """A mirror that lacks the source package is reported with its name."""
    text = source_archive.sources.read_text()
    source_archive.sources.write_text(text.replace(": caffe\n", ": other\n"))
    source_archive.publish()
    with pytest.raises(InstallError, match=r"lacks a package(.|\n)*package for caffe"):
        fetch_source(source_archive, tmp_path / "apt")


def test_source_is_unpacked_with_debians_patches(tmp_path: Path) -> None:
    """The two archives are unpacked over each other, and the patches applied in their order."""
    fetched, tools, source = (tmp_path / name for name in ("fetched", "tools", "source"))
    for folder in (fetched, tools, tmp_path / "debian/patches"):
        folder.mkdir(parents=True)
    (tmp_path / "debian/patches/series").write_text("second\nfirst\n")
    (tmp_path / "code").write_text("code")
    (fetched / "caffe_1.0+git-8.dsc").touch()
    with tarfile.open(fetched / "caffe.orig.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "code", "code")
    with tarfile.open(fetched / "caffe.debian.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "debian", "debian")
    (tools / "patch").write_text('#!/bin/sh\necho "$(basename "$4")" >> applied\n')
    (tools / "patch").chmod(0o755)
    assert source_build.unpack_source(fetched, source, tools) == "1.0+git-8"
    assert (source / "code").read_text() == "code"
    assert (source / "applied").read_text() == "second\nfirst\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files that hold what is to be deleted, between other lines."""
    for file, texts in cuda_build.DELETED.items():
        path = tmp_path / "tree" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"before {number}\n{text}" for number, text in enumerate(texts)))
    return tmp_path / "tree"


def test_only_the_listed_lines_are_deleted(tree: Path) -> None:
    """The texts of `DELETED` go, and everything around them stays."""
    cuda_build.delete_lines(tree)
    for file, texts in cuda_build.DELETED.items():
        expected = "".join(f"before {number}\n" for number in range(len(texts)))
        assert (tree / file).read_text() == expected


@pytest.mark.parametrize("how", ["gone", "twice", "no file"])
def test_unknown_source_is_refused(tree: Path, how: str) -> None:
    """Where a text is not there exactly once, file and text are named, and nothing is changed."""
    file, texts = list(cuda_build.DELETED.items())[-1]
    content = (tree / file).read_text()
    if how == "no file":
        (tree / file).unlink()
    else:
        (tree / file).write_text(content.replace(texts[0], "") if how == "gone" else content * 2)
    others = {path: path.read_text() for path in tree.rglob("*") if path.is_file()}
    with pytest.raises(InstallError) as caught:
        cuda_build.delete_lines(tree)
    assert file in str(caught.value) and repr(texts[0].strip()) in str(caught.value)
    assert ("more than once" if how == "twice" else "is not there") in str(caught.value)
    assert {path: path.read_text() for path in tree.rglob("*") if path.is_file()} == others


# The build


@pytest.mark.parametrize(
    ("text", "architectures"),
    [
        ("", ("90",)),
        ("75", ("75",)),
        (" 90 80,75;80 ", ("75", "80", "90")),
        ("120 90", ("90", "120")),
    ],
)
def test_architectures(
    cache: Path, monkeypatch: pytest.MonkeyPatch, text: str, architectures: tuple[str, ...]
) -> None:
    """PARITY_CUDA_ARCH names the architectures; each choice is an install of its own."""
    plain = cuda_build.name()
    monkeypatch.setenv("PARITY_CUDA_ARCH", text)
    assert cuda_build.architectures() == architectures
    assert (cuda_build.name() == plain) == (architectures == ("90",))


@pytest.mark.parametrize("text", ["sm_90", "9.0", "70", "90 x", "-90", "1000"])
def test_no_architecture(
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
) -> None:
    """What is no architecture that CUDA 13 builds for ends at once, with exit status 2."""
    monkeypatch.setenv("PARITY_CUDA_ARCH", text)
    assert main(["install-caffe", "--cuda"]) == 2
    assert f"PARITY_CUDA_ARCH is {text!r}" in capsys.readouterr().err
    assert list(cache.iterdir()) == []


def test_layers_of_a_user_become_part_of_the_source(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PARITY_CUDA_LAYERS: each file goes where Caffe's build looks; the name changes with it."""
    plain = cuda_build.name()
    folder = tmp_path / "layers"
    folder.mkdir()
    for name in ("a_layer.cpp", "a_layer.cu", "a_layer.hpp", "README.md", "CMakeLists.txt"):
        (folder / name).write_text(name)
    monkeypatch.setenv("PARITY_CUDA_LAYERS", str(folder))
    assert cuda_build.extra_layers() == {
        "include/caffe/layers/a_layer.hpp": folder / "a_layer.hpp",
        "src/caffe/layers/a_layer.cpp": folder / "a_layer.cpp",
        "src/caffe/layers/a_layer.cu": folder / "a_layer.cu",
    }
    with_layers = cuda_build.name()
    (folder / "a_layer.cu").write_text("edited")
    assert len({plain, with_layers, cuda_build.name()}) == 3
    monkeypatch.setenv("PARITY_CUDA_LAYERS", "")
    assert cuda_build.name() == plain


def test_folder_without_layers(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A PARITY_CUDA_LAYERS that holds no layer ends at once, with exit status 2."""
    for folder in (tmp_path / "nowhere", cache):
        monkeypatch.setenv("PARITY_CUDA_LAYERS", str(folder))
        assert main(["install-caffe", "--cuda"]) == 2
        assert f"PARITY_CUDA_LAYERS is {str(folder)!r}" in capsys.readouterr().err
    assert list(cache.iterdir()) == []


def test_folder_that_make_cannot_hold(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder with a space in its path is refused before anything is fetched."""
    monkeypatch.setenv("PARITY_CACHE", str(cache / "my cache"))
    with pytest.raises(InstallError, match=r"my cache'(.|\n)*set PARITY_CACHE"):
        cuda_build.build()
    assert list(cache.iterdir()) == []


def test_failed_step_is_quoted_and_its_log_kept(cache: Path, tmp_path: Path) -> None:
    """A compiler's first error is in the message, and the log in the cache folder."""
    script = "echo fine; echo 'a.cu(3): error: bad' >&2; echo 'make: *** [x] Error 1'; exit 2"
    seen: list[str] = []
    log = tmp_path / cuda_build.LOG
    with pytest.raises(InstallError) as caught:
        source_build.run(["sh", "-c", script], tmp_path, log, watch=seen.append)
    assert "said:     a.cu(3): error: bad\n" in str(caught.value)
    assert str(cache / cuda_build.LOG) in str(caught.value)
    assert "fine\na.cu(3): error: bad\nmake" in (cache / cuda_build.LOG).read_text()
    assert "".join(seen) == "fine\na.cu(3): error: bad\nmake: *** [x] Error 1\n"


def test_full_disk_is_told_from_a_failed_step(cache: Path, tmp_path: Path) -> None:
    """A disk that fills up during the build is reported as that."""
    script = "echo 'fatal error: x.o: No space left on device'; exit 1"
    with pytest.raises(InstallError, match=r"disk is full(.|\n)*5 GB"), install.understood(5):
        source_build.run(["sh", "-c", script], tmp_path, None)


def test_python_without_pip(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a pip that works, the message names it, and quotes what it said."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(InstallError) as caught:
        cuda_build._fetch_toolkit(tmp_path, Progress())
    message = str(caught.value)
    assert f"said:     {python}: No module named pip" in message and "from PyPI" in message
    assert f"{python} -m pip" in message


# Which Caffe


def test_unknown_kind_of_caffe(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PARITY_CAFFE that is neither cpu nor cuda is refused, with the two."""
    monkeypatch.setenv("PARITY_CAFFE", "gpu")
    with pytest.raises(NoCaffe, match=r"PARITY_CAFFE is 'gpu'(.|\n)*cpu or cuda"):
        interpreter.find()


def test_caffe_with_cuda_is_not_built_on_a_look(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`find(install=False)` says how to get the Caffe with CUDA, and builds nothing."""
    monkeypatch.setenv("PARITY_CAFFE", "cuda")
    with pytest.raises(interpreter.NotInstalled, match="install-caffe --cuda"):
        interpreter.find(install=False)
    assert list(cache.iterdir()) == []


def test_caffe_with_cuda_has_its_own_source(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PARITY_CAFFE=cuda leads to the build, with CUDA's and the driver's libraries."""
    root = cache / cuda_build.name()
    blas = root / "usr/lib/x86_64-linux-gnu/blas/libblas.so.3"
    driver = cache / "driver/libcuda.so.1"
    for file in (root / install.LOADER, root / install.COMPLETE, blas, driver):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.setenv("PARITY_CAFFE", "cuda")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver.parent))
    python = interpreter.find(install=False)
    assert python.source == "installed-cuda"
    path = python.command[python.command.index("--library-path") + 1].split(":")
    assert path[-2:] == [str(root / cuda_build.TOOLKIT / "lib"), str(driver.parent)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu"], "unrecognized arguments: --gpu"),
        (["--pack", "x.tar.xz"], "--pack needs --cuda"),
        (["--cuda", "--load", "x.cpp"], "--load needs --pack"),
        (["--cuda", "--pack", "x.tar.xz", "--load", "no.cpp"], "no.cpp: there is no such file"),
        (["--cuda", "--pack"], "expected one argument"),
        (["--cuda", "--pack", "x.zip"], "x.zip is no name for the archive"),
        (["--cuda", "--pack", "/proc/x.tar.xz"], "/proc/x.tar.xz cannot be written"),
        (["--cuda", "--pack", "/no/x.tar.xz"], "/no/x.tar.xz cannot be written"),
    ],
)
def test_wrong_options(
    cache: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Wrong options end with exit status 2 and a reason, before anything is built."""
    assert main(["install-caffe", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(cache.iterdir()) == []


# The archive


def make_stage(folder: Path) -> Path:
    """A small folder to pack."""
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/program").write_text("program")
    (folder / "sub/program").chmod(0o700)
    (folder / "data").write_text("data")
    (folder / "data").chmod(0o600)
    (folder / "link").symlink_to("data")
    return folder


def test_archive_depends_on_the_content_alone(tmp_path: Path) -> None:
    """Two folders with the same content, made at different times, give the same archive."""
    files: list[Path] = []
    for name in ("one", "two"):
        stage = make_stage(tmp_path / name)
        os.utime(stage / "data", (len(files), len(files)))
        files.append(tmp_path / f"{name}.tar.xz")
        cuda_pack._write(stage, files[-1], Progress())
    assert files[0].read_bytes() == files[1].read_bytes()
    with tarfile.open(files[0]) as archive:
        members = {member.name: oct(member.mode) for member in archive}
        assert {member.mtime for member in archive} == {cuda_pack.WHEN}
    assert list(members) == [
        *("caffe-cuda", "caffe-cuda/data", "caffe-cuda/link"),
        *("caffe-cuda/sub", "caffe-cuda/sub/program"),
    ]
    assert members["caffe-cuda/sub/program"] == "0o755" and members["caffe-cuda/data"] == "0o644"


def test_archive_appears_whole_or_not(tmp_path: Path) -> None:
    """An archive that cannot be finished leaves the older one, and nothing beside it."""
    file = tmp_path / "x.tar.xz"
    file.write_text("older")
    interrupted = pytest.raises(KeyboardInterrupt)
    with interrupted, cuda_pack._replaced(file) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.tar.xz", "older")]


# The launcher

LIBRARIES = ("libcublas.so.13", "libcublasLt.so.13", "libcudart.so.13", "libcurand.so.10")


class Pack:
    """An unpacked archive whose loader prints how it is called, on a machine that has no CUDA."""

    def __init__(self, folder: Path, machine: Path) -> None:
        self.folder = folder
        self.machine = machine
        loader = folder / install.LOADER
        loader.parent.mkdir(parents=True)
        loader.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho "home $PYTHONHOME"\nenv\n')
        loader.chmod(0o755)
        text = cuda_pack.LAUNCHER_SOURCE.read_text()
        text = re.sub(r" (/usr/l|/opt)", rf" {machine}\1", text)
        self.launcher = folder / "caffe-python"
        self.launcher.write_text(text)
        self.launcher.chmod(0o755)
        (machine / "bin").mkdir(parents=True)
        self.program("python3", "exit 1")
        self.program("ldconfig", "exit 1")

    def program(self, name: str, script: str) -> None:
        """Make `name` mean the shell script `script`."""
        (self.machine / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.machine / "bin" / name).chmod(0o755)

    def put(self, folder: str, *libraries: str) -> Path:
        """Put empty libraries into a folder of the machine."""
        path = self.machine / folder
        path.mkdir(parents=True, exist_ok=True)
        for library in libraries:
            (path / library).touch()
        return path

    def run(self, *arguments: str, program: Path | None = None, **variables: str) -> Any:
        """Run the launcher, or a link to it."""
        environment = {"PATH": f"{self.machine}/bin:/usr/bin:/bin", **variables}
        return subprocess.run(
            [program or self.launcher, *arguments], env=environment, capture_output=True, text=True
        )

    def search_path(self, program: Path | None = None, **variables: str) -> list[str]:
        """The folders behind those of the archive on the loader's search path."""
        ran = self.run("-c", "pass", program=program, **variables)
        assert ran.returncode == 0, ran.stderr
        words = ran.stdout.splitlines()
        assert words[3:6] == [str(self.folder / "usr/bin/python3.9"), "-c", "pass"]
        assert f"home {self.folder}/usr" in words
        path: list[str] = words[words.index("--library-path") + 1].split(":")
        assert all(folder.startswith(str(self.folder)) for folder in path[:5])
        return path[5:]


@pytest.fixture
def packed(tmp_path: Path) -> Pack:
    """An unpacked archive in a folder with a space in its name."""
    return Pack(tmp_path / "any where", tmp_path / "machine")


@pytest.mark.parametrize(
    "where", ["usr/local/cuda/lib64", "usr/local/cuda-13.1/lib64", "opt/cuda/lib64", "usr/lib64"]
)
def test_launcher_finds_cuda_in_usual_folders(packed: Pack, where: str) -> None:
    """CUDA's libraries are found where they usually are."""
    folder = packed.put(where, *LIBRARIES)
    assert packed.search_path() == [str(folder)]


@pytest.mark.parametrize("part", ["lib64", "lib", "targets/x86_64-linux/lib"])
@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_launcher_finds_cuda_by_variable(packed: Pack, variable: str, part: str) -> None:
    """CUDA_HOME and CUDA_PATH lead to CUDA's libraries, and win over the usual folders."""
    packed.put("usr/local/cuda/lib64", *LIBRARIES)
    folder = packed.put(f"my cuda/{part}", *LIBRARIES)
    assert packed.search_path(None, **{variable: f"{packed.machine}/my cuda"}) == [str(folder)]


def test_launcher_follows_the_search_path(packed: Pack) -> None:
    """LD_LIBRARY_PATH wins over everything; folders that lack the libraries are passed over."""
    packed.put("usr/local/cuda/lib64", *LIBRARIES)
    folder = packed.put("mine", *LIBRARIES)
    empty = packed.put("empty")
    assert packed.search_path(LD_LIBRARY_PATH=f"{empty}:relative::{folder}") == [str(folder)]


def test_launcher_finds_what_ldconfig_knows(packed: Pack) -> None:
    """Folders that the system's loader knows are searched, too."""
    folder = packed.put("odd", *LIBRARIES, "libcuda.so.1")
    packed.program(
        "ldconfig", f'printf "\\tlibcuda.so.1 (libc6,x86-64) => {folder}/libcuda.so.1\\n"'
    )
    assert packed.search_path() == [str(folder)]


def test_launcher_finds_pypis_packages(packed: Pack) -> None:
    """What is nowhere else is taken from the packages of the python3 on PATH."""
    packed.program("python3", f'exec {sys.executable} "$@"')
    site = packed.put("site")
    blas = packed.put("site/nvidia/cublas/lib", "libcublas.so.13", "libcublasLt.so.13")
    rest = packed.put("site/nvidia/cu13/lib", "libcurand.so.10", "libcudart.so.13")
    runtime = packed.put("usr/local/cuda/lib64", "libcudart.so.13")
    found = packed.search_path(PYTHONPATH=str(site))
    assert found == [str(folder) for folder in (blas, runtime, rest)]


def test_launcher_adds_the_driver(packed: Pack) -> None:
    """The folder of the driver's libcuda is on the search path where there is one."""
    folder = packed.put("usr/local/cuda/lib64", *LIBRARIES)
    driver = packed.put("usr/local/nvidia/lib64", "libcuda.so.1")
    assert packed.search_path() == [str(folder), str(driver)]


def test_launcher_names_what_is_missing(packed: Pack) -> None:
    """Without CUDA's libraries it says which are missing and how to name them."""
    packed.put("usr/local/cuda/lib64", "libcudart.so.13", "libcurand.so.10")
    ran = packed.run("-c", "pass")
    assert (ran.returncode, ran.stdout) == (127, "")
    assert "not found: libcublas.so.13 libcublasLt.so.13\n" in ran.stderr
    assert "CUDA_HOME" in ran.stderr and "LD_LIBRARY_PATH" in ran.stderr


def test_launcher_runs_through_a_link(packed: Pack, tmp_path: Path) -> None:
    """A link to the launcher finds the folder that the launcher itself is in."""
    folder = packed.put("usr/local/cuda/lib64", *LIBRARIES)
    (tmp_path / "link").symlink_to(packed.launcher)
    assert packed.search_path(program=tmp_path / "link") == [str(folder)]


def test_launcher_keeps_the_hosts_settings_out(packed: Pack) -> None:
    """Variables that would load the host's files are gone; the log level stays the user's."""
    folder = packed.put("mine", *LIBRARIES)
    ran = packed.run(
        LD_LIBRARY_PATH=str(folder), PYTHONPATH="/x", PYTHONSTARTUP="/x", GLOG_minloglevel="0"
    )
    variables = dict(line.split("=", 1) for line in ran.stdout.splitlines() if "=" in line)
    assert {"LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP"} & set(variables) == set()
    assert variables["GLOG_minloglevel"] == "0" and variables["PYTHONNOUSERSITE"] == "1"


def test_launcher_refuses_a_folder_that_no_path_can_hold(tmp_path: Path) -> None:
    """In a folder with a colon in its name it says so, instead of finding nothing."""
    ran = Pack(tmp_path / "a:b", tmp_path / "machine").run()
    assert ran.returncode == 127 and "must not contain a colon" in ran.stderr


# GPU mode

worker: Any = importlib.import_module("caffe_parity.caffe.worker.worker")  # has no types


class Driver:
    """A CUDA driver that answers as it is told, with one device unless told otherwise."""

    def __init__(self, status: int = 0, devices: int = 1) -> None:
        self.status = status
        self.devices = devices

    def cuInit(self, flags: int) -> int:  # noqa: N802
        """Return the driver's state."""
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        """Write the number of devices."""
        count._obj.value = self.devices
        return 0

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802
        """Find every device."""
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
        """Write the device's name."""
        name.value = b"Test device"
        return 0


CUDA = ["/x/libcaffe.so.1.0.0", "/x/libcudart.so.13"]


def use_gpu(monkeypatch: pytest.MonkeyPatch, libraries: list[str], driver: Any) -> tuple[Any, Any]:
    """Run the worker's way into GPU mode; return the device's name and what Caffe was told."""
    told: list[Any] = []
    caffe = SimpleNamespace(set_device=told.append, set_mode_gpu=lambda: told.append("gpu"))
    monkeypatch.setattr(worker, "mapped_libraries", lambda: libraries)
    if driver is not None:
        monkeypatch.setattr(worker, "driver", lambda: driver)
    return worker.use_gpu(caffe), told


def test_gpu_mode_takes_the_first_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a device, Caffe is told to use it before it is told the mode."""
    assert use_gpu(monkeypatch, CUDA, Driver()) == ("Test device", [0, "gpu"])


def test_gpu_mode_needs_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Caffe without CUDA is refused, whatever the driver says: its set_mode_gpu() would lie."""
    with pytest.raises(worker.NoCuda):
        use_gpu(monkeypatch, CUDA[:1], Driver())


@pytest.mark.parametrize("driver", [Driver(100), Driver(34), Driver(devices=0)])
def test_gpu_mode_needs_a_device(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """Without a device Caffe is not asked for it: it would abort."""
    with pytest.raises(worker.NoDevice, match=r"^no CUDA device"):
        use_gpu(monkeypatch, CUDA, driver)


def test_gpu_mode_needs_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the driver's library has no device."""

    def none(name: str) -> None:
        raise OSError(f"{name}: cannot open")

    monkeypatch.setattr(ctypes, "CDLL", none)
    with pytest.raises(worker.NoDevice, match=r"^no CUDA device.*libcuda\.so\.1: cannot open"):
        use_gpu(monkeypatch, CUDA, None)


def test_broken_driver_is_no_missing_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that fails in another way is an error, never a reason not to run."""
    with pytest.raises(RuntimeError, match="999"):
        use_gpu(monkeypatch, CUDA, Driver(999))


ANSWERS = """
import json, struct, sys
body = json.dumps({answer!r}).encode()
assert "--gpu" in sys.argv
open(int(sys.argv[3]), "wb").write(struct.pack(">I", len(body)) + body)
"""


def answering(tmp_path: Path, kind: str, message: str) -> Caffe:
    """A Caffe in GPU mode whose worker greets with an error."""
    script = tmp_path / "worker.py"
    error = {"error": {"kind": kind, "message": message, "traceback": "", "op": None}}
    script.write_text(ANSWERS.format(answer=error))
    return Caffe(Interpreter((sys.executable, str(script)), {}, "CAFFE_PYTHON"), mode="gpu")


def test_no_device_is_an_error_of_its_own(tmp_path: Path) -> None:
    """The client tells a missing device from all else."""
    with answering(tmp_path, "no device", "no CUDA device: x") as caffe:
        with pytest.raises(NoDevice, match=r"^no CUDA device: x$"):
            caffe.start()
        assert caffe.pid is None


def test_gpu_mode_without_cuda_says_what_to_set(tmp_path: Path) -> None:
    """The client says which Caffe would do."""
    with (
        answering(tmp_path, "no cuda", "this Caffe has no CUDA") as caffe,
        pytest.raises(NoCaffe, match="PARITY_CAFFE=cuda, or CAFFE_PYTHON"),
    ):
        caffe.start()


def test_cpu_only_caffe_is_refused_in_gpu_mode() -> None:
    """The installed Caffe, which has no CUDA, says so in its greeting, and has no GPU mode."""
    python = cpu_caffe()
    with Caffe(python) as caffe:
        greeting = caffe.start()
        assert (greeting["mode"], greeting["cuda"]) == ("cpu", False)
    with Caffe(python, mode="gpu") as caffe, pytest.raises(NoCaffe, match="has no CUDA"):
        caffe.start()


def test_sh_accepts_the_launcher() -> None:
    """The launcher is plain POSIX sh."""
    shell = shutil.which("dash") or "sh"
    checked = subprocess.run([shell, "-n", cuda_pack.LAUNCHER_SOURCE], capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, b"")
