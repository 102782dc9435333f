"""Compile a layer into a plug-in: a library that registers it in a Caffe that is running.

The compiler is the installed Caffe's own (g++ 10 of the same Debian release), with that folder as
its sysroot. The host's does not do: its headers clash with the older glibc's, and what it makes
wants newer symbols than that Caffe's libstdc++ has. One source file needs no build system, so the
compiler is called directly. That takes a few seconds and happens once: what is built lies beside
the installed Caffe, in a folder whose name is a digest of all that it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from caffe_parity.caffe import cache
from caffe_parity.caffe import install as installer
from caffe_parity.caffe.cuda_build import TOOLKIT
from caffe_parity.caffe.programs import first_error, write_script
from caffe_parity.errors import ParityError

FLAGS = ("-O3", "-DCPU_ONLY")
CUDA_FLAGS = ("-O3",)
PLUGIN = ("-shared", "-fPIC", "-Wl,-z,defs")  # what would fail to load already fails to link
CACHED = 2  # counts the changes of what this file makes out of the same sources


class CompileError(ParityError):
    """Something could not be compiled; the message says why and what to do.

    Attributes:
        printed: what the compiler said, if it was the one who refused.
    """

    def __init__(self, message: str, printed: str = "") -> None:
        super().__init__(message)
        self.printed = printed


def build_file(
    root: Path,
    source: Path,
    folders: Sequence[Path] = (),
    starting: Callable[[], None] = lambda: None,
) -> Path:
    """Return the plug-in made of one C++ file, compiling it unless an equal one has been.

    Equal is what the preprocessor makes equal, so a header that has changed counts. A header beside
    the file is found by its name, and as caffe/layers/NAME, which it would be in a Caffe tree. The
    plug-in of NAME_layer.cpp is called NAME.so.

    Args:
        root: the folder of an installed Caffe.
        source: the file; with a .cu file beside it where that Caffe has CUDA.
        folders: further ones with headers.
        starting: called before it is compiled, which takes some seconds.

    Raises:
        CompileError: there is no compiler, or it refuses the file.
    """
    cuda = _has_cuda(root)
    kernels = source.with_suffix(".cu")
    with_kernels = cuda and kernels.exists()
    library = f"{source.stem.removesuffix('_layer')}.so"
    optimized = CUDA_FLAGS if cuda else FLAGS
    with tempfile.TemporaryDirectory() as include:
        headers = link_headers(Path(include), (*folders, source.parent))
        places = (Path(include), *folders)
        # Wherever the file lies, __FILE__ in it is the same, and so is the plug-in.
        names = [f"-fmacro-prefix-map={each}/=" for each in (headers, source.parent)]
        flags = (*optimized, *names)

        def make(output: Path) -> None:
            starting()
            objects = [_compile_cuda(root, output, kernels, places)] if with_kernels else []
            compile_with(root, output / library, [source, *objects], places, (*flags, *PLUGIN))
            for each in objects:
                each.unlink()

        try:
            text = _run([*_compiler(root, places), "-E", "-P", *flags, str(source)], root)
            # Of the kernels' text, what g++ would leave out may count.
            files = [kernels, *sorted(headers.iterdir())] if with_kernels else []
            key = (str(root), library, text, [file.read_bytes() for file in files], optimized)
            return cached("layer", key, make) / library
        except CompileError as error:
            # It names links to the headers, and shall name the user's own.
            old, new = f"{headers}/", f"{source.parent}/"
            said = str(error).replace(old, new), error.printed.replace(old, new)
            raise CompileError(*said) from None


def link_headers(include: Path, folders: Sequence[Path]) -> Path:
    """Link the headers in `folders` into caffe/layers in `include`; return that folder.

    That is where layers look for them in a Caffe tree. Of two with one name, the last one counts.
    """
    layers = include / "caffe/layers"
    layers.mkdir(parents=True)
    for folder in folders:
        for header in (*folder.glob("*.hpp"), *folder.glob("*.h")):
            (layers / header.name).unlink(missing_ok=True)
            (layers / header.name).symlink_to(header.absolute())
    return layers


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
        CompileError: there is no compiler, or it refuses the sources.
    """
    # libcaffe is named because Python loads it with its symbols hidden from other libraries. What
    # it links to in turn (HDF5, OpenCV...) is none of a layer's business.
    libraries = ["-lcaffe", "-lglog", "-lprotobuf", "-Wl,--allow-shlib-undefined"]
    if _has_cuda(root):
        # The same runtime library as Caffe's, not one of its own.
        libraries += [f"-L{root / TOOLKIT / 'lib'}", "-lcudart"]
    command = [*_compiler(root, include), *map(str, sources), *flags, "-o", str(output)]
    _run([*command, *libraries], root)


def _has_cuda(root: Path) -> bool:
    return (root / TOOLKIT / "bin/nvcc").exists()


def _compiler(root: Path, include: Sequence[Path]) -> list[str]:
    """The compiler with the folders of headers: the given ones, Caffe's, CUDA's."""
    tools = toolchain(root)
    folders = [*include, tools / "include"]
    if _has_cuda(root):
        folders.append(root / TOOLKIT / "include")
    return [str(tools / "g++"), *(f"-I{folder}" for folder in folders)]


def _compile_cuda(root: Path, folder: Path, source: Path, include: Sequence[Path]) -> Path:
    """Compile a .cu file with the nvcc in `root`, for the GPUs that Caffe was built for."""
    tools = toolchain(root)
    record = json.loads((root / installer.COMPLETE).read_text())
    known = record["cuda"]["architectures"]
    targets = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in known]
    newest = f"-gencode=arch=compute_{known[-1]},code=compute_{known[-1]}"  # for GPUs to come
    output = folder / f"{source.stem}.cu.o"
    places = [f"-I{each}" for each in (*include, tools / "include")]
    command = [str(root / TOOLKIT / "bin/nvcc"), "-ccbin", str(tools / "g++"), *places]
    command += ["-O3", "-Xcompiler=-fPIC", *targets, newest]
    _run([*command, "-c", str(source), "-o", str(output)], root)
    return output


def toolchain(root: Path) -> Path:
    """Return a folder with what compiles for the Caffe in `root`, made if it is not there yet.

    `g++` is that Caffe's own compiler as a script, which other tools can call too (nvcc -ccbin,
    CMake). `include` must go before Caffe's headers: its caffe/proto/caffe.pb.h is generated anew,
    because the packaged one does not compile with the packaged protobuf.

    Raises:
        CompileError: there is no compiler, or the header could not be generated.
    """
    program = root / "usr/bin/g++-10"
    if not program.exists():
        raise CompileError(
            f"There is no C++ compiler in the installed Caffe: {program}\n"
            "  to do: remove that folder and run again; it is installed anew, compiler included."
        )
    compiler = installer.compiler_command(root)

    def make(folder: Path) -> None:
        _generate_proto(root, folder)
        write_script(folder / "g++", *compiler)

    complete = root / installer.COMPLETE
    packages = complete.read_bytes() if complete.exists() else b""
    return cached("toolchain", (str(root), packages, compiler, _DESCRIBE), make)


def cached(name: str, key: object, make: Callable[[Path], None]) -> Path:
    """Return the folder that `make` fills, from the cache if it was made of an equal `key` before.

    The folder appears in one step, complete. Of several processes that ask at once, one makes it
    and the others wait.

    Args:
        name: what the folder's name begins with; `make` may not ask for the same one.
        key: everything that decides the content; its `repr` counts.
        make: fills an empty folder that it is given.

    Raises:
        CompileError: the cache cannot be written; and whatever `make` raises.
    """
    digest = hashlib.sha256(repr((CACHED, key)).encode()).hexdigest()[:16]
    try:
        return cache.made_once(f"{name}-{digest}", lambda work: make(work / cache.ROOT))
    except OSError as error:
        raise CompileError(
            f"The compiled layer cannot be kept in {cache.folder()}: {error}\n"
            "  to do: set PARITY_CACHE to a folder that can be written and has space."
        ) from error


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
        raise CompileError(
            f"{command[0]} cannot be run: {error}\n"
            f"  to do: remove {root} and run again; it is installed anew."
        ) from error
    if ran.returncode != 0:
        raise CompileError(
            f"The compiled layer could not be built (exit status {ran.returncode}).\n"
            f"  first error: {first_error(ran.stderr)}\n"
            "  to do:       correct the file that it names; if that file is not yours, remove\n"
            f"               {root} and run again; it is installed anew.\n"
            f"  command:     {shlex.join(command)}",
            ran.stderr,
        )
    return ran.stdout
