"""Build a compiled layer as a plug-in: a library that registers it in a Caffe that is running.

The compiler is the installed Caffe's own (g++ 10 of the same Debian release), with that folder as
its sysroot. The host's does not do: its headers clash with the older glibc's, and what it makes
wants newer symbols than that Caffe's libstdc++ has. One source file needs no build system, so the
compiler is called directly; ../cuda/CMakeLists.txt makes the same library for any other Caffe, with
CUDA too. Building takes a few seconds and happens once: what is built lies beside the installed
Caffe, in a folder whose name is a digest of all that it was made from.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from caffe_parity.caffe import install as installer

CUDA = Path(__file__).parents[2] / "caffe_impl" / "cuda"
NAME = "channel_sum_euclidean_loss"
FLAGS = ("-O3", "-DCPU_ONLY")
CUDA_FLAGS = ("-O3",)
NVCC = Path("cuda/nvidia/cu13/bin/nvcc")  # in the root of a Caffe with CUDA (cuda_build.TOOLKIT)
CACHED = 1  # counts the changes of what this file makes out of the same sources


class PluginError(Exception):
    """The plug-in could not be built; the message says why and what to do.

    Attributes:
        printed: what the compiler said, if it was the one who refused.
    """

    def __init__(self, message: str, printed: str = "") -> None:
        super().__init__(message)
        self.printed = printed


def build(root: Path, sources: Path = CUDA) -> Path:
    """Return the plug-in for the Caffe in `root`, compiling it if that has not been done yet.

    With CUDA if that Caffe was built with CUDA, which has its nvcc with it. Beside the plug-in lies
    `include`, the layer's headers under the names that they have in a Caffe tree.

    Args:
        root: the folder of an installed Caffe, as `install.ensure` returns it.
        sources: the folder that holds the layer's files.

    Raises:
        PluginError: there is no compiler, or it refuses the sources.
    """
    source = sources / f"{NAME}_layer.cpp"
    kernels = sources / f"{NAME}_layer.cu"
    headers = sorted(sources.glob("*.hpp"))
    cuda = (root / NVCC).exists()
    flags = (*(CUDA_FLAGS if cuda else FLAGS), "-shared", "-fPIC", "-Wl,-z,defs")

    def make(folder: Path) -> None:
        layers = folder / "include/caffe/layers"
        layers.mkdir(parents=True)
        for header in headers:
            shutil.copy(header, layers)
        include = folder / "include"
        try:
            objects = [_compile_cuda(root, folder, kernels, include)] if cuda else []
            compile_with(root, folder / f"{NAME}.so", [source, *objects], [include], flags)
            for each in objects:
                each.unlink()
        except PluginError as error:  # the compiler names the copies of the headers
            raise _renamed(error, layers, sources) from None

    files = (source, *headers, *([kernels] if cuda else []))
    content = [(file.name, file.read_bytes()) for file in files]
    return cached("plugin", (str(root), content, flags), make) / f"{NAME}.so"


def build_file(
    root: Path,
    source: Path,
    folders: Sequence[Path] = (),
    starting: Callable[[], None] = lambda: None,
) -> Path:
    """Return the plug-in made of one C++ file, compiling it unless an equal one has been.

    Equal is what the preprocessor makes equal, so a header that has changed counts. A header beside
    the file is found by its name, and as caffe/layers/NAME, which it would be in a Caffe tree.

    Args:
        root: the folder of an installed Caffe.
        source: the file; with a .cu file beside it where that Caffe has CUDA.
        folders: further ones with headers.
        starting: called before it is compiled, which takes some seconds.

    Raises:
        PluginError: there is no compiler, or it refuses the file.
    """
    cuda = (root / NVCC).exists()
    kernels = source.with_suffix(".cu")
    flags = CUDA_FLAGS if cuda else FLAGS
    with tempfile.TemporaryDirectory() as include:
        layers = Path(include, "caffe/layers")
        layers.mkdir(parents=True)
        for folder in (*folders, source.parent):
            for header in (*folder.glob("*.hpp"), *folder.glob("*.h")):
                (layers / header.name).unlink(missing_ok=True)
                (layers / header.name).symlink_to(header.absolute())
        flags = (*flags, f"-fmacro-prefix-map={layers}={source.parent}")
        places = (Path(include), *folders)

        def make(output: Path) -> None:
            starting()
            objects = []
            if cuda and kernels.exists():
                objects = [_compile_cuda(root, output, kernels, Path(include))]
            link = ("-shared", "-fPIC", "-Wl,-z,defs")
            compile_with(root, output / "layer.so", [source, *objects], places, (*flags, *link))
            for each in objects:
                each.unlink()

        try:
            text = _preprocessed(root, source, places, flags)
            kernels_text = kernels.read_bytes() if cuda and kernels.exists() else b""
            key = (str(root), text, kernels_text, CUDA_FLAGS if cuda else FLAGS)
            return cached("layer", key, make) / "layer.so"
        except PluginError as error:
            raise _renamed(error, layers, source.parent) from None


def _renamed(error: PluginError, copies: Path, originals: Path) -> PluginError:
    """The error with the user's own headers in place of the copies that the compiler names."""
    old, new = f"{copies}/", f"{originals}/"
    return PluginError(str(error).replace(old, new), error.printed.replace(old, new))


def _preprocessed(root: Path, source: Path, include: Sequence[Path], flags: Sequence[str]) -> str:
    return _run([*_compiler(root, include), "-E", "-P", *flags, str(source)], root)


def compile_with(
    root: Path, output: Path, sources: Sequence[Path], include: Sequence[Path], flags: Sequence[str]
) -> None:
    """Compile and link `sources` against the Caffe in `root` into `output`.

    Args:
        root: the folder of an installed Caffe.
        output: the file to make.
        sources: C++ files.
        include: folders with headers, which go before Caffe's.
        flags: further arguments for the compiler.

    Raises:
        PluginError: there is no compiler, or it refuses the sources.
    """
    # libcaffe is named because Python loads it with its symbols hidden from other libraries. What
    # it links to in turn (HDF5, OpenCV...) is none of a layer's business.
    libraries = ["-lcaffe", "-lglog", "-lprotobuf", "-Wl,--allow-shlib-undefined"]
    if (root / NVCC).exists():
        # The same runtime library as Caffe's, not one of its own.
        libraries += [f"-L{(root / NVCC).parents[1] / 'lib'}", "-lcudart"]
    files = list(map(str, sources))
    _run([*_compiler(root, include), *files, *flags, "-o", str(output), *libraries], root)


def _compiler(root: Path, include: Sequence[Path]) -> list[str]:
    """The compiler with the folders of headers: the given ones, Caffe's, CUDA's."""
    tools = toolchain(root)
    folders = [*include, tools / "include"]
    if (root / NVCC).exists():
        folders.append((root / NVCC).parents[1] / "include")
    return [str(tools / "g++"), *(f"-I{folder}" for folder in folders)]


def _compile_cuda(root: Path, folder: Path, source: Path, include: Path) -> Path:
    """Compile a .cu file with the nvcc in `root`, for the GPUs that Caffe was built for."""
    tools = toolchain(root)
    record = json.loads((root / installer.COMPLETE).read_text())
    known = record["cuda"]["architectures"]
    targets = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in known]
    newest = f"-gencode=arch=compute_{known[-1]},code=compute_{known[-1]}"  # for GPUs to come
    output = folder / f"{source.stem}.cu.o"
    command = [str(root / NVCC), "-ccbin", str(tools / "g++"), f"-I{include}"]
    command += [f"-I{tools / 'include'}", "-O3", "-Xcompiler=-fPIC", *targets, newest]
    _run([*command, "-c", str(source), "-o", str(output)], root)
    return output


def toolchain(root: Path) -> Path:
    """Return a folder with what compiles for the Caffe in `root`, made if it is not there yet.

    `g++` is that Caffe's own compiler as a script, which other tools can call too (nvcc -ccbin,
    CMake). `include` must go before Caffe's headers: its caffe/proto/caffe.pb.h is generated anew,
    because the packaged one does not compile with the packaged protobuf.

    Raises:
        PluginError: there is no compiler, or the header could not be generated.
    """
    program = root / "usr/bin/g++-10"
    if not program.exists():
        raise PluginError(
            f"There is no C++ compiler in the installed Caffe: {program}\n"
            "  to do: remove that folder and run again; it is installed anew, compiler included."
        )

    def make(folder: Path) -> None:
        _generate_proto(root, folder)
        script = folder / "g++"
        script.write_text(_COMPILER.format(root=shlex.quote(str(root))))
        script.chmod(0o755)

    complete = root / installer.COMPLETE
    packages = complete.read_bytes() if complete.exists() else b""
    return cached("toolchain", (str(root), packages, _COMPILER, _DESCRIBE), make)


_COMPILER = """#!/bin/sh
# The C++ compiler that the installed Caffe was built with, for that Caffe.
root={root}
lib="$root/usr/lib/x86_64-linux-gnu"
include="$root/usr/include/x86_64-linux-gnu/openblas-pthread"
# These would lead it to the host's files.
unset CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH LIBRARY_PATH COMPILER_PATH GCC_EXEC_PREFIX LD_PRELOAD
export LD_LIBRARY_PATH="$lib" LC_ALL=C
exec "$root/usr/bin/g++-10" --sysroot="$root" -B"$root/usr/bin/" -isystem "$include" "$@"
"""


def cached(name: str, key: object, make: Callable[[Path], None]) -> Path:
    """Return the folder that `make` fills, from the cache if it was made of an equal `key` before.

    The folder appears in one step, complete. Of several processes that ask at once, one makes it
    and the others wait.

    Args:
        name: what the folder's name begins with; `make` may not ask for the same one.
        key: everything that decides the content; its `repr` counts.
        make: fills an empty folder that it is given.

    Raises:
        PluginError: the cache cannot be written; and whatever `make` raises.
    """
    digest = hashlib.sha256(repr((CACHED, key)).encode()).hexdigest()[:16]
    cache = installer.cache_folder()
    final = cache / f"{name}-{digest}"
    if final.is_dir():
        return final
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # One lock for each name, since making a plug-in may first have to make its tool chain.
        with (cache / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not final.is_dir():  # or the process that we waited for has made it
                _make_in_one_step(final, name, make)
    except OSError as error:
        raise PluginError(
            f"The compiled layer cannot be kept in {cache}: {error}\n"
            "  to do: set PARITY_CACHE to a folder that can be written and has space."
        ) from error
    return final


def _make_in_one_step(final: Path, name: str, make: Callable[[Path], None]) -> None:
    """Fills a folder and renames it to `final`. The lock is held."""
    for leftover in final.parent.glob(f"unfinished-{name}-*"):  # of a process that died
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f"unfinished-{name}-", dir=final.parent))
    try:
        work.chmod(0o755)  # mkdtemp's 0700 would hide a shared cache from its other users
        make(work)
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


_DESCRIBE = """
import importlib.util, sys
from google.protobuf import descriptor_pb2
spec = importlib.util.spec_from_file_location("caffe_pb2", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
described = descriptor_pb2.FileDescriptorSet()
module.DESCRIPTOR.CopyToProto(described.file.add())
described.file[0].name = "caffe/proto/caffe.proto"
with open(sys.argv[2], "wb") as file:
    file.write(described.SerializeToString())
"""
"""The package has no caffe.proto, but the Python module that was made of it still knows it all."""


def _generate_proto(root: Path, folder: Path) -> None:
    module = root / "usr/lib/python3/dist-packages/caffe/proto/caffe_pb2.py"
    descriptors, include = folder / "descriptors", folder / "include"
    (include / "caffe/proto").mkdir(parents=True)
    python, environment = installer.python_command(root)
    _run([*python, "-c", _DESCRIBE, str(module), str(descriptors)], root, environment)
    protoc = [*python[:-1], f"{root}/usr/bin/protoc", f"--descriptor_set_in={descriptors}"]
    _run([*protoc, f"--cpp_out={include}", "caffe/proto/caffe.proto"], root, environment)
    descriptors.unlink()
    (include / "caffe/proto/caffe.pb.cc").unlink()  # libcaffe has it


def _run(command: Sequence[str], root: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a command; return what it wrote to its standard output."""
    try:
        ran = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise PluginError(
            f"{command[0]} cannot be run: {error}\n"
            f"  to do: remove {root} and run again; it is installed anew."
        ) from error
    if ran.returncode != 0:
        raise PluginError(
            f"The compiled layer could not be built (exit status {ran.returncode}).\n"
            f"  first error: {first_error(ran.stderr)}\n"
            "  to do:       correct the file that it names; if that file is not yours, remove\n"
            f"               {root} and run again; it is installed anew.\n"
            f"  command:     {shlex.join(command)}",
            ran.stderr,
        )
    return ran.stdout


def first_error(text: str) -> str:
    """Return the first error in what a compiler or linker printed, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = re.compile(r"error:|undefined reference|undefined symbol|cannot find|No space left")
    return next((line for line in lines if telling.search(line)), (lines or ["nothing"])[-1])
