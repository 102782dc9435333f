"""Compile C++ for the installed Caffe, and keep what was made.

The compiler is the installed Caffe's own (g++ 10 of the same Debian release), with that folder as
its sysroot. The host's does not do: its headers clash with the older glibc's, and what it makes
wants newer symbols than that Caffe's libstdc++ has. A few source files need no build system, so the
compiler is called directly. That takes a few seconds and happens once: what is built lies beside
the installed Caffe, in a folder whose name is a digest of all that it was made from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from caffe_parity.caffe import cache
from caffe_parity.caffe import install as installer
from caffe_parity.caffe.cuda_build import TOOLKIT
from caffe_parity.caffe.programs import first_error, write_script
from caffe_parity.errors import ParityError
from caffe_parity.progress import PROGRESS

CACHED = 3  # counts the changes of what this file makes out of the same sources


class CompileError(ParityError):
    """Something could not be compiled; the message says why and what to do.

    Attributes:
        printed: what the compiler said, if it was the one who refused.
        advice: what to do about that, if it is known.
    """

    def __init__(self, message: str, printed: str = "", advice: str = "") -> None:
        super().__init__(message)
        self.printed = printed
        self.advice = advice


def compile_with(
    root: Path, output: Path, sources: Sequence[Path], include: Sequence[Path], flags: Sequence[str]
) -> None:
    """Compile and link `sources` against the Caffe in `root` into `output`.

    Args:
        root: the folder of an installed Caffe.
        output: the file to make.
        sources: C++ files, and objects that were made of such.
        include: folders with headers, which go before Caffe's.
        flags: further arguments for the compiler.

    Raises:
        CompileError: there is no compiler, or it refuses the sources.
    """
    # libcaffe is named because Python loads it with its symbols hidden from other libraries. What
    # it links to in turn (HDF5, OpenCV...) is none of a layer's business.
    libraries = ["-lcaffe", "-lglog", "-lprotobuf", "-Wl,--allow-shlib-undefined"]
    if has_cuda(root):
        # The same runtime library as Caffe's, not one of its own.
        libraries += [f"-L{root / TOOLKIT / 'lib'}", "-lcudart"]
    command = [*compiler(root, include), *map(str, sources), *flags, "-o", str(output)]
    run([*command, *libraries], root)


def has_cuda(root: Path) -> bool:
    """Whether the Caffe in `root` was built with CUDA, and has its compiler."""
    return (root / TOOLKIT / "bin/nvcc").exists()


def compiler(root: Path, include: Sequence[Path]) -> list[str]:
    """The compiler with the folders of headers: the given ones, Caffe's, CUDA's.

    Raises:
        CompileError: there is none.
    """
    tools = toolchain(root)
    folders = [*include, tools / "include"]
    if has_cuda(root):
        folders.append(root / TOOLKIT / "include")
    return [str(tools / "g++"), *(f"-I{folder}" for folder in folders)]


def compile_cuda(root: Path, folder: Path, source: Path, include: Sequence[Path]) -> Path:
    """Compile a .cu file with the nvcc in `root`, for the GPUs that Caffe was built for.

    Raises:
        CompileError: nvcc refuses it.
    """
    tools = toolchain(root)
    record = json.loads((root / installer.COMPLETE).read_text())
    known = record["cuda"]["architectures"]
    targets = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in known]
    newest = f"-gencode=arch=compute_{known[-1]},code=compute_{known[-1]}"  # for GPUs to come
    output = folder / f"{source.stem}.cu.o"
    places = [f"-I{each}" for each in (*include, tools / "include")]
    command = [str(root / TOOLKIT / "bin/nvcc"), "-ccbin", str(tools / "g++"), *places]
    command += ["-O3", "-Xcompiler=-fPIC", *targets, newest]
    run([*command, "-c", str(source), "-o", str(output)], root)
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
described.file[0].name = "caffe.proto"
with open(sys.argv[2], "wb") as file:
    file.write(described.SerializeToString())
"""
"""The package has no caffe.proto, but the Python module that was made of it still knows it all.

The name is the one that libcaffe knows it by."""


def describe_proto(root: Path, output: Path) -> None:
    """Write what Caffe's caffe.proto says to `output`, a FileDescriptorSet of the file caffe.proto.

    Raises:
        CompileError: Caffe's Python does not tell it.
    """
    module = root / "usr/lib/python3/dist-packages/caffe/proto/caffe_pb2.py"
    python, environment = installer.python_command(root)
    run([*python, "-c", _DESCRIBE, str(module), str(output)], root, environment)


def protoc(root: Path, *arguments: str) -> None:
    """Run the protoc of the Caffe in `root`.

    Raises:
        CompileError: it refuses something.
    """
    python, environment = installer.python_command(root)
    run([*python[:-1], f"{root}/usr/bin/protoc", *arguments], root, environment)


def _generate_proto(root: Path, folder: Path) -> None:
    descriptors, include = folder / "descriptors", folder / "include/caffe/proto"
    include.mkdir(parents=True)
    describe_proto(root, descriptors)
    protoc(root, f"--descriptor_set_in={descriptors}", f"--cpp_out={include}", "caffe.proto")
    descriptors.unlink()
    (include / "caffe.pb.cc").unlink()  # libcaffe has it


def run(command: Sequence[str], root: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a command of the Caffe in `root`; return what it wrote to its standard output.

    Raises:
        CompileError: it fails, or cannot be run.
    """
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise CompileError(
            f"{command[0]} cannot be run: {error}\n"
            f"  to do: remove {root} and run again; it is installed anew."
        ) from error
    written, said = _awaited(process, Path(command[0]).name)
    if process.returncode != 0:
        raise CompileError(
            f"The compiled layer could not be built (exit status {process.returncode}).\n"
            f"  first error: {first_error(said)}\n"
            "  to do:       correct the file that it names; if that file is not yours, remove\n"
            f"               {root} and run again; it is installed anew.\n"
            f"  command:     {shlex.join(command)}",
            said,
        )
    return written


def _awaited(process: subprocess.Popen[str], name: str) -> tuple[str, str]:
    """What a program wrote and what it said; whoever waits is told that it runs."""
    with process:
        try:
            while True:
                try:
                    return process.communicate(timeout=0.2)
                except subprocess.TimeoutExpired:
                    PROGRESS.tell(f"running {name}")
        except BaseException:
            process.kill()
            raise
