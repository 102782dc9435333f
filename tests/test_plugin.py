"""The plug-in is built once, in one step, and says what to do when that fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from caffe_impl.variants import compiled_layer, shared_caffe, variants
from caffe_parity.caffe import compile as plugin
from caffe_parity.caffe import install
from caffe_parity.caffe.client import RequestError
from caffe_parity.caffe.interpreter import Interpreter
from caffe_parity.engine.judge import judge
from reference.cases import by_name

ROOT = Path(__file__).parent.parent


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the layer's files that a test may spoil."""
    return Path(shutil.copytree(plugin.CUDA, tmp_path / "cuda"))


def add_line(file: Path, line: str) -> None:
    """Puts a line at the end of a source file, outside of everything."""
    file.write_text(f"{file.read_text()}\n{line}\n")


def test_what_is_built_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second build starts no compiler, and nothing else."""
    root = install.ensure()
    first = plugin.build(root)

    def refuse(*_: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(plugin, "_run", refuse)
    assert plugin.build(root) == first
    assert first.is_file()


@pytest.mark.parametrize("part", ["layer.cpp", "layer.hpp", "kernels.hpp"])
def test_an_edit_is_built_anew(sources: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in any of the files gives another plug-in, in another folder."""
    root = install.ensure()
    started = []

    def note(command: list[str], *_: object) -> None:
        started.append(command)
        Path(command[command.index("-o") + 1]).touch()

    monkeypatch.setattr(plugin, "_run", note)
    monkeypatch.setenv("PARITY_CACHE", str(sources / "cache"))
    tools = sources / "tools"
    monkeypatch.setattr(plugin, "toolchain", lambda root: tools)
    first = plugin.build(root, sources)
    assert plugin.build(root, sources) == first
    assert len(started) == 1
    add_line(sources / f"{plugin.NAME}_{part}", "// edited")
    assert plugin.build(root, sources) != first
    assert len(started) == 2


@pytest.mark.parametrize("part", ["layer.cpp", "layer.hpp"])
def test_a_broken_source_is_named(sources: Path, part: str) -> None:
    """The message quotes the compiler's first error, with the user's own file and line."""
    file = sources / f"{plugin.NAME}_{part}"
    add_line(file, "int broken = nonsense;")
    line = len(file.read_text().splitlines())
    with pytest.raises(plugin.PluginError) as caught:
        plugin.build(install.ensure(), sources)
    said = str(caught.value)
    assert f"first error: {file}:{line}:14: error: 'nonsense' was not declared" in said
    assert "to do:" in said
    assert not list(install.cache_folder().glob("unfinished-plugin-*"))


def test_a_symbol_that_no_library_has_is_named(sources: Path) -> None:
    """What would fail to load already fails to link."""
    layer = sources / f"{plugin.NAME}_layer.cpp"
    add_line(layer, "void Nowhere(); int nowhere = (Nowhere(), 0);")
    with pytest.raises(plugin.PluginError, match=r"first error: .*undefined reference to `Nowhere"):
        plugin.build(install.ensure(), sources)


def test_a_missing_compiler_is_said(tmp_path: Path) -> None:
    """An install without a compiler is named, with what to do."""
    with pytest.raises(plugin.PluginError, match=r"no C\+\+ compiler.*\n.*to do: remove"):
        plugin.toolchain(tmp_path)


def test_a_foreign_library_does_not_load(tmp_path: Path) -> None:
    """A plug-in that wants a symbol which this Caffe lacks is refused in words, and no crash."""
    source, library = tmp_path / "foreign.cpp", tmp_path / "foreign.so"
    source.write_text("void Elsewhere(); int elsewhere = (Elsewhere(), 0);\n")
    plugin.compile_with(install.ensure(), library, [source], [], ["-shared", "-fPIC"])
    with pytest.raises(RequestError) as caught:
        shared_caffe().request([{"op": "load", "library": str(library)}])
    assert "does not fit this Caffe" in str(caught.value)
    assert "undefined symbol" in str(caught.value)
    assert "build it anew" in str(caught.value)


def test_a_path_that_is_no_library_does_not_load(tmp_path: Path) -> None:
    """A wrong PARITY_PLUGIN is refused in words, too."""
    with pytest.raises(RequestError, match=r"does not fit this Caffe \(.*cannot open shared"):
        shared_caffe().request([{"op": "load", "library": str(tmp_path / "none.so")}])


def test_two_at_once_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes that ask at once, one builds, and both get what it built."""
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    code = (
        "import sys, time\n"
        "from caffe_parity.caffe import plugin\n"
        "def make(folder):\n"
        "    open(sys.argv[1], 'a').write('made ')\n"
        "    time.sleep(0.5)\n"
        "    (folder / 'built').touch()\n"
        "print(plugin.cached('test', 'key', make))\n"
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
    (tmp_path / "unfinished-test-old").mkdir()

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise plugin.PluginError("no")

    with pytest.raises(plugin.PluginError):
        plugin.cached("test", "key", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["test.lock"]
    start = time.monotonic()
    assert plugin.cached("test", "key", lambda folder: None).is_dir()
    assert time.monotonic() - start < 10  # the lock was released


def test_a_cache_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the folder and the variable that chooses another."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(plugin.PluginError, match=r"(?s)file/cache: .*set PARITY_CACHE"):
        plugin.cached("test", "key", lambda folder: None)


def test_another_caffe_needs_a_plug_in_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CAFFE_PYTHON, whose headers are unknown, the message says how to get the layer there."""

    class Other:
        """A Caffe without the layer."""

        interpreter = Interpreter(("python",), {}, "CAFFE_PYTHON")

        def start(self) -> dict[str, list[str]]:
            return {"layers": ["Python", "EuclideanLoss"]}

    monkeypatch.delenv("PARITY_PLUGIN", raising=False)
    monkeypatch.setattr("caffe_impl.variants.shared_caffe", Other)
    with pytest.raises(plugin.PluginError, match="PARITY_PLUGIN"):
        compiled_layer.__wrapped__()
    monkeypatch.setattr(Other, "start", lambda self: {"layers": ["ChannelSumEuclideanLoss"]})
    assert compiled_layer.__wrapped__() == ()


def test_a_plug_in_that_cannot_be_built_is_a_verdict() -> None:
    """The variant fails with the compiler's words instead of ending the whole run."""

    def fail() -> tuple[str, ...]:
        raise plugin.PluginError("first error: x.cpp:1: error: no")

    cuda = next(each for each in variants() if each.name == "caffe-cuda")
    outcome = judge(replace(cuda, libraries=fail), by_name("base"))
    assert outcome.verdict == "crash"
    assert "x.cpp:1: error: no" in outcome.reason
