"""A plug-in is built once, in one step, and it is said what to do when that fails."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from caffe_parity.caffe import cache, install, plugin
from caffe_parity.caffe.client import Caffe, NetError
from caffe_parity.caffe.compile import (
    CompileError,
    cached,
    compile_with,
    toolchain,
)
from caffe_parity.caffe.cuda_build import TOOLKIT

ROOT = Path(__file__).parent.parent


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A C++ file that is compiled in a moment, with a header beside it."""
    (tmp_path / "number.h").write_text("#define NUMBER 1\n")
    file = tmp_path / "number_layer.cpp"
    file.write_text('#include "number.h"\nint number() { return NUMBER; }\n')
    return file


def add_line(file: Path, line: str) -> int:
    """Puts a line at the end of a source file; returns its number."""
    file.write_text(f"{file.read_text()}{line}\n")
    return len(file.read_text().splitlines())


def refuse() -> None:
    """What `starting` is where nothing may be compiled."""
    raise AssertionError("it is compiled again")


def test_it_is_compiled_again_only_when_it_or_a_header_says_something_else(source: Path) -> None:
    """A comment changes nothing; a number in a header gives another library."""
    root = install.ensure()
    first = plugin.build(root, [source])
    assert first.name == "number.so"
    add_line(source, "// of no weight")
    assert plugin.build(root, [source], starting=refuse) == first
    source.with_name("number.h").write_text("#define NUMBER 2\n")
    assert plugin.build(root, [source]) != first


def test_where_it_lies_is_of_no_weight(source: Path, tmp_path: Path) -> None:
    """A copy of file and header elsewhere is the same plug-in, also where it names itself."""
    root = install.ensure()
    add_line(source, "const char* file() { return __FILE__; }")
    first = plugin.build(root, [source])
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (source, source.with_name("number.h")):
        (copy / file.name).write_bytes(file.read_bytes())
    assert plugin.build(root, [copy / source.name], starting=refuse) == first


@pytest.mark.parametrize("suffix", [".cpp", ".h"])
def test_a_broken_source_is_named(source: Path, suffix: str) -> None:
    """The message quotes the compiler's first error, with the user's own file and line."""
    source.write_text('#include "caffe/layers/number.h"\n')
    file = source if suffix == ".cpp" else source.with_name("number.h")
    line = add_line(file, "int broken = nonsense;")
    with pytest.raises(CompileError) as caught:
        plugin.build(install.ensure(), [source])
    said = str(caught.value)
    assert f"first error: {file}:{line}:14: error: 'nonsense' was not declared" in said
    assert "to do:" in said
    assert f"{file}:{line}:14: error" in caught.value.printed
    assert not list(cache.folder().glob("layer.unfinished-*"))


def test_a_symbol_that_no_library_has_is_named(source: Path) -> None:
    """What would fail to load already fails to link."""
    add_line(source, "void Nowhere(); int nowhere = (Nowhere(), 0);")
    with pytest.raises(CompileError, match=r"first error: .*undefined reference to `Nowhere"):
        plugin.build(install.ensure(), [source])


NVCC = """#!/bin/sh
compiler=$2; shift 2
for word; do
  shift
  case $word in -gencode*|-Xcompiler*) ;; *) set -- "$@" "$word" ;; esac
done
exec "$compiler" -x c++ -fPIC "$@"
"""
"""Stands in for nvcc: C++ without kernels needs none."""


def test_kernels_are_compiled_with_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a Caffe with CUDA, the .cu beside the file; whatever it may read counts."""
    real = install.ensure()
    tools = toolchain(real)
    monkeypatch.setattr("caffe_parity.caffe.compile.toolchain", lambda root: tools)
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    root, toolkit = tmp_path / "root", tmp_path / "root" / TOOLKIT
    for folder in ("bin", "include", "lib"):
        (toolkit / folder).mkdir(parents=True)
    (toolkit / "bin/nvcc").write_text(NVCC)
    (toolkit / "bin/nvcc").chmod(0o755)
    (root / "usr").symlink_to(real / "usr")
    (root / install.COMPLETE).write_text('{"cuda": {"architectures": ["80", "90"]}}')
    runtime = [str(tools / "g++"), "-shared", "-x", "c++", "/dev/null"]
    subprocess.run([*runtime, "-o", toolkit / "lib/libcudart.so"], check=True)
    source.write_text("int kernels(); int number() { return kernels(); }\n")
    kernels = source.with_suffix(".cu")
    kernels.write_text('#include "caffe/layers/number.h"\nint kernels() { return NUMBER; }\n')
    first = plugin.build(root, [source])
    assert [file.name for file in first.parent.iterdir()] == ["number.so"]
    assert plugin.build(root, [source], starting=refuse) == first
    source.with_name("number.h").write_text("#define NUMBER 2\n")
    assert plugin.build(root, [source]) != first
    kernels.unlink()
    with pytest.raises(CompileError, match=r"undefined reference to `kernels\(\)'"):
        plugin.build(root, [source])


def test_headers_lie_as_in_a_caffe_tree(tmp_path: Path) -> None:
    """Of two headers with one name, that of the last folder counts."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "both.hpp").write_text(folder)
    (tmp_path / "one" / "first.h").write_text("one")
    layers = plugin.link_headers(tmp_path / "include", [tmp_path / "one", tmp_path / "two"])
    assert layers == tmp_path / "include/caffe/layers"
    found = {file.name: file.read_text() for file in layers.iterdir()}
    assert found == {"both.hpp": "two", "first.h": "one"}


def test_a_missing_compiler_is_said(tmp_path: Path) -> None:
    """An install without a compiler is named, with what to do."""
    with pytest.raises(CompileError, match=r"no C\+\+ compiler.*\n.*to do: remove"):
        toolchain(tmp_path)


def test_a_foreign_library_does_not_load(tmp_path: Path, caffe: Caffe) -> None:
    """A plug-in that wants a symbol which this Caffe lacks is refused in words, and no crash."""
    source, library = tmp_path / "foreign.cpp", tmp_path / "foreign.so"
    source.write_text("void Elsewhere(); int elsewhere = (Elsewhere(), 0);\n")
    compile_with(install.ensure(), library, [source], [], ["-shared", "-fPIC"])
    with pytest.raises(NetError) as caught:
        caffe.request([{"op": "load", "library": str(library)}])
    assert "does not fit this Caffe" in str(caught.value)
    assert "undefined symbol" in str(caught.value)
    assert "build it anew" in str(caught.value)


def test_a_path_that_is_no_library_does_not_load(tmp_path: Path, caffe: Caffe) -> None:
    """A wrong PARITY_PLUGIN is refused in words, too."""
    with pytest.raises(NetError, match=r"does not fit this Caffe \(.*cannot open shared"):
        caffe.request([{"op": "load", "library": str(tmp_path / "none.so")}])


def test_two_at_once_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes that ask at once, one builds, and both get what it built."""
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    code = (
        "import sys, time\n"
        "from caffe_parity.caffe.compile import cached\n"
        "def make(folder):\n"
        "    open(sys.argv[1], 'a').write('made ')\n"
        "    time.sleep(0.5)\n"
        "    (folder / 'built').touch()\n"
        "print(cached('test', 'key', make))\n"
    )
    log = tmp_path / "log"
    command = [sys.executable, "-c", code, str(log)]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    first, second = (process.communicate()[0].strip() for process in both)
    assert first == second
    assert (Path(first) / "built").exists()
    assert log.read_text() == "made "


def test_nothing_half_built_is_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure leaves nothing behind, and what a killed process left is removed."""
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path))
    (tmp_path / "test.unfinished-old").mkdir()

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise CompileError("no")

    with pytest.raises(CompileError):
        cached("test", "key", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["test.lock"]
    start = time.monotonic()
    assert cached("test", "key", lambda folder: None).is_dir()
    assert time.monotonic() - start < 10  # the lock was released


def test_a_cache_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the folder and the variable that chooses another."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(CompileError, match=r"(?s)file/cache: .*set PARITY_CACHE"):
        cached("test", "key", lambda folder: None)
