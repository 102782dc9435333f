"""Build the compiled layer as a plug-in: a library that registers it in a Caffe that is running.

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
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from caffe_impl.runtime import install as installer

CUDA = Path(__file__).parents[1] / "cuda"
NAME = "channel_sum_euclidean_loss"
FLAGS = ("-O3", "-DCPU_ONLY")
CACHED = 1  # counts the changes of what this file makes out of the same sources


class PluginError(Exception):
    """The plug-in could not be built; the message says why and what to do."""


def build(root: Path, sources: Path = CUDA) -> Path:
    """Return the plug-in for the Caffe in `root`, compiling it if that has not been done yet.

    Args:
        root: the folder of an installed Caffe, as `install.ensure` returns it.
        sources: the folder that holds the layer's files.

    Raises:
        PluginError: there is no compiler, or it refuses the sources.
    """
    include = headers(root, sources)
    source = sources / f"{NAME}_layer.cpp"
    flags = (*FLAGS, "-shared", "-fPIC", "-Wl,-z,defs")

    def make(folder: Path) -> None:
        try:
            compile_with(root, folder / f"{NAME}.so", [source], include, flags)
        except PluginError as error:  # the compiler names its copies of the headers
            said = str(error).replace(f"{include}/caffe/layers/", f"{sources}/")
            raise PluginError(said) from None

    key = (str(include), source.read_bytes(), flags)
    return cached("plugin", (root, *key), make) / f"{NAME}.so"


def headers(root: Path, sources: Path = CUDA) -> Path:
    """Return a folder to put first on the include path, made if it is not there yet.

    It holds the layer's headers under the names that they have in a Caffe tree, and Caffe's own
    caffe/proto/caffe.pb.h generated anew: the packaged one does not compile with the packaged
    protobuf.

    Raises:
        PluginError: the header could not be generated.
    """
    ours = sorted(sources.glob("*.hpp"))
    proto = root / "usr/lib/python3/dist-packages/caffe/proto/caffe_pb2.py"

    def make(folder: Path) -> None:
        (folder / "caffe/layers").mkdir(parents=True)
        for header in ours:
            shutil.copy(header, folder / "caffe/layers")
        (folder / "caffe/proto").mkdir()
        _generate_proto(root, proto, folder)

    content = [(header.name, header.read_bytes()) for header in ours]
    return cached("headers", (root, content), make)


def compile_with(
    root: Path, output: Path, sources: Sequence[Path], include: Path, flags: Sequence[str]
) -> None:
    """Compile and link `sources` against the Caffe in `root` into `output`.

    Raises:
        PluginError: there is no compiler, or it refuses the sources.
    """
    command, environment = compiler(root)
    arguments = [f"-I{include}", *include_flags(root), *map(str, sources), *flags]
    _run([*command, *arguments, "-o", str(output), *LINK_FLAGS], environment, root)


# libcaffe is named because Python loads it with its symbols hidden from other libraries. What it
# links to in turn (HDF5, OpenCV...) is none of the layer's business.
LINK_FLAGS = ("-lcaffe", "-lglog", "-lprotobuf", "-Wl,--allow-shlib-undefined")


def compiler(root: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command and the whole environment of the C++ compiler inside `root`.

    Raises:
        PluginError: there is none.
    """
    program = root / "usr/bin/g++-10"
    if not program.exists():
        raise PluginError(
            f"There is no C++ compiler in the installed Caffe: {program}\n"
            "  to do: remove that folder and run again; it is installed anew, compiler included."
        )
    return [str(program), f"--sysroot={root}", f"-B{root}/usr/bin/"], _environment(root)


def include_flags(root: Path) -> list[str]:
    """Return the flags that lead to the headers of the Caffe in `root`.

    As system headers: their warnings are not ours.
    """
    usr = root / "usr/include"
    multi = usr / "x86_64-linux-gnu"
    folders = (multi / "openblas-pthread", usr / "hdf5/serial")
    return [argument for folder in folders for argument in ("-isystem", str(folder))]


def cached(name: str, key: object, make: Callable[[Path], None]) -> Path:
    """Return the folder that `make` fills, from the cache if it was made of an equal `key` before.

    The folder appears in one step, complete. Of several processes that ask at once, one makes it
    and the others wait.

    Args:
        name: what the folder's name begins with.
        key: everything that decides the content; its `repr` counts.
        make: fills an empty folder that it is given.
    """
    digest = hashlib.sha256(repr((CACHED, key)).encode()).hexdigest()[:16]
    cache = installer.cache_folder()
    final = cache / f"{name}-{digest}"
    if final.is_dir():
        return final
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "plugin.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob("unfinished-*"):  # of a process that died: we hold the lock
            shutil.rmtree(leftover, ignore_errors=True)
        if final.is_dir():
            return final
        work = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
        try:
            work.chmod(0o755)  # mkdtemp's 0700 would hide a shared cache from its other users
            make(work)
            os.rename(work, final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return final


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


def _generate_proto(root: Path, module: Path, folder: Path) -> None:
    descriptors = folder / "descriptors"
    python, environment = installer.python_command(root)
    describe = [*python, "-c", _DESCRIBE, str(module), str(descriptors)]
    _run(describe, os.environ | environment, root)
    protoc = [f"{root}/usr/bin/protoc", f"--descriptor_set_in={descriptors}"]
    _run([*protoc, f"--cpp_out={folder}", "caffe/proto/caffe.proto"], _environment(root), root)
    descriptors.unlink()
    (folder / "caffe/proto/caffe.pb.cc").unlink()  # libcaffe has it


def _environment(root: Path) -> dict[str, str]:
    """The variables for a program of `root` that runs on the host's loader."""
    # These would lead the compiler to the host's files.
    foreign = (
        "CPATH",
        "CPLUS_INCLUDE_PATH",
        "C_INCLUDE_PATH",
        "COMPILER_PATH",
        "GCC_EXEC_PREFIX",
        "LD_PRELOAD",
        "LIBRARY_PATH",
    )
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    libraries = f"{root}/usr/lib/x86_64-linux-gnu"
    return kept | {"LD_LIBRARY_PATH": libraries, "LC_ALL": "C"}


def _run(command: Sequence[str], environment: dict[str, str], root: Path) -> None:
    try:
        ran = subprocess.run(
            command,
            env=environment,
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
            f"  command:     {' '.join(command)}"
        )


def first_error(text: str) -> str:
    """Return the first error in what a compiler or linker printed, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = re.compile(r"error:|undefined reference|undefined symbol|cannot find|No space left")
    return next((line for line in lines if telling.search(line)), (lines or ["nothing"])[-1])
