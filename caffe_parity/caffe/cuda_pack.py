"""Pack the Caffe with CUDA into one archive that runs, unpacked anywhere, on a machine with a GPU.

The archive holds what running needs and no more: Python, its packages, Caffe, and the libraries
that these link to. CUDA's libraries stay out: they are most of the size, and a machine with a GPU
has them. `caffe-python.sh`, as `caffe-python` at the top, finds them there and starts Python; that
is what CAFFE_PYTHON is set to. Compiled layers lie beside it, as no compiler is in the archive.
"""

import contextlib
import errno
import lzma
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from caffe_parity.caffe import cache, cuda_build, debian, install, plugin, programs
from caffe_parity.caffe.compile import CompileError
from caffe_parity.caffe.install import COMPLETE, LOADER
from caffe_parity.errors import ParityError
from caffe_parity.progress import Progress

TOP = "caffe-cuda"
LAUNCHER = "caffe-python"
LAUNCHER_SOURCE = Path(__file__).with_name("caffe-python.sh")
LIMIT = 64 * 10**6  # bytes that the archive may have
WHEN = 1534809600  # 2018-08-21, the date of this Caffe's source: the same content, the same archive

FOLDERS: list[str] = debian.DATA["pack"]["folders"]
LEFT_OUT: list[str] = debian.DATA["pack"]["left_out"]
"""Patterns of paths in the root that running Caffe does not need."""


class PackError(ParityError):
    """The archive could not be made; the message says why and what to do."""


def check_target(file: Path) -> None:
    """Raise PackError if the archive `file` could not be written, which is better known early."""
    if not file.name.endswith(".tar.xz"):
        raise PackError(
            f"{file} is no name for the archive.\n  to do: choose one that ends in .tar.xz."
        )
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        with _partial(file).open("wb"):  # os.access knows nothing of what root may not do, either
            pass
        _partial(file).unlink()
    except OSError as error:
        raise PackError(
            f"{file} cannot be written: {error.strerror}.\n"
            "  to do: choose a file in an existing folder in which this user may create files."
        ) from error


def pack(
    root: Path, file: Path, layers: Sequence[Path] = (), progress: Progress | None = None
) -> int:
    """Write the Caffe in `root`, as `cuda_build.build` returns it, to `file`; return its size.

    The archive's content has been run once, from another folder than `root`. `file` appears in one
    step.

    Args:
        root: the folder of that Caffe.
        file: the archive to write.
        layers: C++ files of layers; the plug-in of NAME_layer.cpp is NAME.so in the archive.
        progress: told what is going on.

    Raises PackError, or InstallError if what was packed does not run.
    """
    check_target(file)
    progress = Progress() if progress is None else progress
    try:
        with (
            install.understood(),
            tempfile.TemporaryDirectory(prefix="cuda-pack-", dir=cache.folder()) as work,
        ):
            stage = Path(work) / TOP
            progress("packing Caffe", "copying")
            _stage(root, stage, layers)
            progress("packing Caffe", "trying it")
            libraries = str(root / cuda_build.TOOLKIT / "lib")
            install.try_caffe(((str(stage / LAUNCHER),), {"LD_LIBRARY_PATH": libraries}))
            with _replaced(file) as partial:
                _write(stage, partial, progress)
                size = partial.stat().st_size
                if size > LIMIT:
                    raise PackError(
                        f"The archive has {size // 10**6} MB, more than {LIMIT // 10**6}.\n"
                        "  to do: name fewer architectures in PARITY_CUDA_ARCH."
                    )
    except CompileError as error:
        raise PackError(f"A compiled layer cannot be packed.\n{error}") from error
    finally:
        progress.close()
    return size


def _stage(root: Path, stage: Path, layers: Sequence[Path]) -> None:
    """Copy into `stage` what the archive shall hold."""
    for folder in FOLDERS:
        shutil.copytree(root / folder, stage / folder, symlinks=True, ignore=_ignored)
    for file in (LOADER, "usr/bin/python3.9", COMPLETE):
        _copy(root, stage, file)
    _copy(root, stage, "lib/x86_64-linux-gnu/libnss_files.so.2")  # loaded by name: for pwd
    command, _ = cuda_build.python_command(root)
    loader = command[:-1]  # and its options: all but the program
    programs = [stage / "usr/bin/python3.9", *stage.rglob("*.so")]
    needed = {file for program in programs for file in _libraries(loader, program, root)}
    for library in sorted(needed):
        _copy(root, stage, library)
    _compile(root, stage)
    for layer in layers:
        shutil.copy(plugin.build(root, [layer]), stage)
    shutil.copy(LAUNCHER_SOURCE, stage / LAUNCHER)
    (stage / LAUNCHER).chmod(0o755)


def _ignored(folder: str, names: list[str]) -> list[str]:
    return [
        name
        for name in names
        if any(fnmatchcase(os.path.join(folder, name), pattern) for pattern in LEFT_OUT)
    ]


def _copy(root: Path, stage: Path, file: str) -> None:
    """Copy a file, also where it is a link: libraries keep the one name that they are loaded by."""
    target = stage / file
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file, target)


def _libraries(loader: tuple[str, ...], program: Path, root: Path) -> list[str]:
    """Return the files in `root` that `program` links to, directly or not, but for CUDA's."""
    _, said = programs.run((loader[0], "--list", *loader[1:], str(program)), root)
    found = re.findall(r" => (/.*) \(0x", said)
    inside = [os.path.relpath(path, root) for path in found if path.startswith(f"{root}/")]
    return [path for path in inside if not path.startswith(f"{cuda_build.TOOLKIT}/")]


def _compile(root: Path, stage: Path) -> None:
    """Write the bytecode of all modules, valid whatever the files' dates: imports are fast then."""
    command, environment = install.python_command(root)
    folders = [str(stage / folder) for folder in FOLDERS]
    options = ("-q", "-q", "-s", str(stage), "--invalidation-mode", "unchecked-hash")
    # Its status is 1 where a module is not meant for this Python: that one has no bytecode.
    environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONHASHSEED": "0"}
    compileall = (*command, "-m", "compileall", *options, *folders)
    programs.run(compileall, stage, os.environ | environment)


@contextlib.contextmanager
def _replaced(file: Path) -> Iterator[Path]:
    """Give the name of a file that becomes `file` at the end, and vanishes on an error."""
    try:
        yield _partial(file)
        _partial(file).replace(file)
    finally:
        _partial(file).unlink(missing_ok=True)


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}.partial")


def _write(stage: Path, file: Path, progress: Progress) -> None:
    """Write the archive: members in order of their names, without dates and owners."""
    paths = sorted(stage.rglob("*"))
    try:
        with (
            lzma.open(file, "wb", preset=6) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for number, path in enumerate([stage, *paths]):
                member = archive.gettarinfo(str(path), str(Path(TOP) / path.relative_to(stage)))
                member.mtime = WHEN
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.mode = 0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644
                if member.isreg():
                    with path.open("rb") as content:
                        archive.addfile(member, content)
                else:
                    archive.addfile(member)
                part = number / len(paths)
                progress("packing Caffe", f"{100 * part:.0f} %", part)
    except OSError as error:
        raise PackError(f"{file} cannot be written.\n  said:  {error}") from error
