"""Build a Caffe with a user's own files in it: what a plug-in cannot do.

Where a fork has changed messages that Caffe has itself, or classes of its core, its layers need
another Caffe. It is Debian's source (`source_build`) with the user's files where they belong in its
tree, and the merged caffe.proto; without CUDA. What is built is small, since all else of the
installed Caffe stays in use. It lies in the cache, under a name that is made of all that it was
built from; object files are kept by ccache, so that after an edit the rest is not compiled again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from caffe_parity.caffe import cache, debian, install, plugin, proto, source_build
from caffe_parity.caffe import compile as compiling
from caffe_parity.caffe.compile import CompileError
from caffe_parity.caffe.install import InstallError
from caffe_parity.caffe.source_build import BuildFailed, Tree
from caffe_parity.progress import Progress

DATA = debian.DATA["drop_in"]
LAYOUT = 1  # counts the changes of what this file makes out of the same files
LOG = "drop-in-build.log"
STUBS = "src/caffe/layers/parity_stubs.cpp"
PROTO = "src/caffe/proto/caffe.proto"
SHOWN = 12  # lines of what the compiler says, from the first error on
OBJECTS = "500M"  # of ccache; a build takes 30
EDITION = replace(install.BULLSEYE, room=2, packages=tuple(DATA["packages"]))
HEADERS = (".hpp", ".h", ".cuh")

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*[<"]([^">]+)[">]', re.MULTILINE)
_REGISTERED = re.compile(
    r"\bREGISTER_LAYER_(?:CLASS\(\s*(\w+)\s*\)|CREATOR\(\s*(\w+)\s*,[^)]*\))\s*;?"
)
_INSTANTIATED = re.compile(r"\bINSTANTIATE_CLASS\(\s*(\w+)Layer\s*\)")


@dataclass(frozen=True)
class Plan:
    """Which files go into Caffe's source.

    Attributes:
        root: the folder of an installed Caffe.
        files: by the place in Caffe's tree, the user's file.
        proto: the user's caffe.proto, if there is one.
    """

    root: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    proto: Path | None = None

    @cached_property
    def core(self) -> tuple[str, ...]:
        """The places that are no layer's: those of Caffe's core."""
        return tuple(each for each in self.files if "/layers/" not in each)

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The layer types that are in the files."""
        texts = [each.read_text(errors="replace") for each in self.files.values()]
        found = [a or b for text in texts for a, b in _REGISTERED.findall(text)]
        return tuple(
            dict.fromkeys([*found, *(t for each in texts for t in _INSTANTIATED.findall(each))])
        )

    @property
    def name(self) -> str:
        """The folder's name in the cache: all that decides what is built is in it."""
        parts = [LAYOUT, _base_name(self.root), DATA, source_build.DATA]
        parts += [(place, file.read_bytes()) for place, file in sorted(self.files.items())]
        parts.append(self.proto.read_bytes() if self.proto else b"")
        return f"drop-in-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"

    @property
    def built(self) -> bool:
        """Whether it is in the cache."""
        return (cache.folder() / self.name).is_dir()

    def mentions(self, name: str) -> bool:
        """Whether the code speaks of a field of a message."""
        word = re.compile(rf"\b((has|set|add|clear|mutable)_)?{name.lower()}(_size)?\b|\b{name}\b")
        return any(word.search(each.read_text(errors="replace")) for each in self.files.values())


def planned(root: Path, given: Sequence[Path], folders: Sequence[Path], proto: Path | None) -> Plan:
    """Say which files go into Caffe's source, and where.

    That is each file that is given, the headers that these include and Caffe does not have, or has
    in another version, and headers of Caffe's core that lie in a folder as another version.

    Args:
        root: the folder of an installed Caffe.
        given: sources and headers.
        folders: further ones with headers.
        proto: the user's caffe.proto.

    Raises:
        CompileError: two files belong at the same place.
    """
    known = _Known(root / "usr/include")
    trees = [each.parent / "../../../include" for each in given if plugin.in_tree(each.parent)]
    places = [each.parent for each in given if not plugin.in_tree(each.parent)]
    looked = list(dict.fromkeys([*folders, *places]))
    files = {known.place(each): each for each in given}
    if len(files) < len(given):
        twice = [str(each) for each in given if files[known.place(each)] != each]
        raise CompileError(f"two files are called {Path(twice[0]).name}: rename one")
    for folder in looked:
        files |= dict(known.core_in(folder))
    for tree in trees:
        own = (tree / f"caffe/layers/{each.stem}.hpp" for each in given)
        files |= {f"include/caffe/layers/{each.name}": each for each in own if each.is_file()}
    left = list(files.items())
    while left:
        place, file = left.pop()
        for name in _INCLUDE.findall(file.read_text(errors="replace")):
            found = known.included(name, file, looked, trees)
            if found is None or (found[0] in files and files[found[0]] == found[1]):
                continue
            target = found[0] if name.startswith("caffe/") else _beside(place, name)
            if target not in files:
                files[target] = found[1]
                left.append((target, found[1]))
    return Plan(root, files, proto)


def _beside(place: str, name: str) -> str:
    """Where a file that another one includes by a path of its own lies then."""
    made = os.path.normpath(os.path.join(os.path.dirname(place), name))
    return made if not made.startswith("..") else f"include/{os.path.basename(name)}"


@dataclass(frozen=True)
class _Known:
    """What Caffe 1.0 has in `include`, the folder of its headers."""

    include: Path

    def place(self, file: Path) -> str:
        """Where a file belongs in Caffe's tree."""
        header = file.suffix in HEADERS
        folder = "layers"
        for each in (".", "util", "layers"):
            stems = {one.stem for one in (self.include / "caffe" / each).glob("*.h*")}
            if file.stem in stems:
                folder = each
                break
        else:
            if file.stem.endswith("_solver") and not header:
                folder = "solvers"
        name = file.name if header else f"{file.stem}.cpp"  # Caffe's cmake knows no other
        return os.path.normpath(f"{'include' if header else 'src'}/caffe/{folder}/{name}")

    def core_in(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """The headers of Caffe's core that a folder has in another version."""
        for sub in (".", "util"):
            for own in sorted((self.include / "caffe" / sub).glob("*.h*")):
                for file in (folder / own.name, folder / "caffe" / sub / own.name):
                    if file.is_file() and plugin.code(file) != plugin.code(own):
                        yield os.path.normpath(f"include/caffe/{sub}/{own.name}"), file

    def included(
        self, name: str, by: Path, folders: Sequence[Path], trees: Sequence[Path]
    ) -> tuple[str, Path] | None:
        """The user's file that an #include means, and its place; None if it is Caffe's or none."""
        own = self.include / name
        candidates = [by.parent / name, *(each / name for each in folders)]
        if name.startswith("caffe/"):
            candidates += [each / Path(name).name for each in folders]
        if not own.is_file():
            candidates += [each / name for each in trees]
        for file in candidates:
            if file.is_file() and Path(name).suffix in HEADERS:
                if own.is_file() and plugin.code(file) == plugin.code(own):
                    return None
                return f"include/{os.path.normpath(name)}", file
        return None


def build(plan: Plan, progress: Progress | None = None) -> Path:
    """Return the folder of the Caffe that is built as planned, from the cache if it is there.

    That takes some minutes (measured: 4 on two cores, and half a minute after an edit of one file),
    a download of 30 MB at the first time, and 1 GB of disk while it lasts. `interpreter` runs it.

    Raises:
        CompileError: the compiler, the linker or protoc refuses a file, or Caffe does not start.
        InstallError: something else went wrong. Nothing half-made is left behind.
    """
    progress = Progress() if progress is None else progress
    source_build.check_folder()

    def make(work: Path) -> None:
        base = _base(plan.root, progress)
        tree = Tree(base, work, LOG, "building a Caffe with your files")
        shutil.copytree(base / "source", tree.source, symlinks=True)
        tree.make_tools("ccache")
        _lay(plan, tree)
        _compile(plan, tree, progress)
        for folder in ("lib", "python"):
            (work / cache.ROOT / folder).mkdir()
        tree.put_in_place(work / cache.ROOT / "lib", work / cache.ROOT / "python/caffe")
        progress("importing Caffe")
        try:
            command, environment = install.python_command(plan.root)
            install.try_caffe(install.overlaid(command, environment, work / cache.ROOT))
        except InstallError as error:
            raise CompileError(
                "the Caffe with your files was built, and does not start.\n"
                f"  said:  {_line(error.happened, 'said:')}\n"
                "  to do: look for a type that two files register, and for code that runs when a "
                "library is loaded."
            ) from error

    try:
        with install.understood(EDITION.room):
            return cache.made_once(plan.name, make, say=progress.say)
    finally:
        progress.close()


def _base_name(root: Path) -> str:
    parts = (LAYOUT, root.name, EDITION.key)
    return f"caffe-source-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def _base(root: Path, progress: Progress) -> Path:
    """The folder with Caffe's `source` and all that it is built with, fetched at the first time.

    It is the installed Caffe's own folder, in links that take no room, and a few packages more.
    """
    there = json.loads((root / install.COMPLETE).read_text())["packages"]

    def make(work: Path) -> None:
        install.check_host(EDITION)
        made = work / cache.ROOT
        shutil.copytree(root, made, symlinks=True, copy_function=_link, dirs_exist_ok=True)
        (made / install.COMPLETE).unlink()
        apt, _ = install.unpack_packages(work, EDITION, progress, sources=True, there=there)
        tree = Tree(made, work, LOG, "")
        tree.make_tools()
        progress("fetching Caffe's source")
        fetched = apt.download_source("caffe")
        source_build.unpack_source(fetched, made / "source", tree.tools)

    return cache.made_once(_base_name(root), make, say=progress.say)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without such links
        shutil.copy2(source, target)


def _lay(plan: Plan, tree: Tree) -> None:
    """Put the user's files where they belong in the source, and the merged caffe.proto.

    Raises:
        CompileError: protoc refuses it.
    """
    for place, file in plan.files.items():
        (tree.source / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tree.source / place)
    for file in (each for each in plan.files.values() if each.suffix not in HEADERS):
        _give_way(plan, tree, file.read_text(errors="replace"))
    if plan.proto is None:
        return
    target = tree.source / PROTO
    text = plan.proto.read_text(errors="replace")
    target.write_text(proto.merged(target.read_text(), text, plan.mentions))
    try:
        compiling.protoc(
            plan.root, f"-I{target.parent}", "--descriptor_set_out=/dev/null", target.name
        )
    except CompileError as error:
        said, lines = error.printed.strip(), target.read_text().splitlines()
        found = re.search(r"caffe\.proto:(\d+):\d+: (.*)", said)
        if found and 0 < int(found[1]) <= len(lines):
            said = f"{found[2]} ({lines[int(found[1]) - 1].strip()})"
        raise CompileError(
            f"protoc refuses Caffe's caffe.proto with what {plan.proto} changes in it.\n"
            f"  said:  {said}\n"
            "  to do: correct it; it can use the messages of Caffe 1.0, and those of this file.",
        ) from None


def _give_way(plan: Plan, tree: Tree, text: str) -> None:
    """Take out of Caffe's own files what registers a type that the user's file registers."""
    types = {a or b for a, b in _REGISTERED.findall(text)}
    classes = set(_INSTANTIATED.findall(text))
    factory = "src/caffe/layer_factory.cpp"
    others = [
        f"src/caffe/layers/{each.name}" for each in (tree.source / "src/caffe/layers").glob("*.cpp")
    ]
    for place in (each for each in (factory, *others) if each not in plan.files):
        file = tree.source / place
        content = file.read_text(errors="replace")
        if place != factory and classes & set(_INSTANTIATED.findall(content)):
            file.unlink()
            continue
        file.write_text(
            _REGISTERED.sub(lambda each: "" if (each[1] or each[2]) in types else each[0], content)
        )


def _compile(plan: Plan, tree: Tree, progress: Progress) -> None:
    """Build the tree; functions for a GPU that its classes lack are made up for.

    Raises:
        CompileError: the compiler or the linker refuses it.
    """
    variables = {
        "CCACHE_DIR": str(cache.folder() / "ccache"),
        "CCACHE_BASEDIR": str(tree.work),
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_COMPILERCHECK": "content",
        "CCACHE_MAXSIZE": OBJECTS,
    }
    own = [each.removeprefix("src/caffe/") for each in plan.files if each.endswith(".cpp")]
    try:
        try:
            tree.compile(DATA["options"], progress, variables=variables, first=own)
        except BuildFailed as error:
            missing = plugin.undefined(error.printed)
            if not missing or not all("_gpu" in each for each in missing):
                raise
            names = plugin.readable(plan.root, missing)
            stubs = plugin.stubs(dict(zip(missing, names, strict=True)))
            (tree.source / STUBS).write_text(stubs)
            (cache.folder() / LOG).unlink(missing_ok=True)  # nothing has failed yet
            tree.compile(DATA["options"], progress, variables=variables)
    except BuildFailed as error:
        raise _told(plan, error) from None


def _told(plan: Plan, error: BuildFailed) -> CompileError:
    """What stopped the build: the first error, with the user's own file and line."""
    missing = plugin.undefined(error.printed)
    if missing:
        printed = "\n".join(
            f"error: no file defines {each}" for each in plugin.readable(plan.root, missing)
        )
        advice = "add the source file that does with another --load"
        return CompileError(f"it is not whole\n{printed}", printed, advice)
    lines = [each for each in error.printed.splitlines() if not each.startswith("make")]
    first = next((n for n, each in enumerate(lines) if re.search(r"\berror:|Error:", each)), None)
    if first is None:
        return CompileError(str(error))
    start = first
    while start and re.match(
        r"In file included|\s+from |.*: In |.*required from", lines[start - 1]
    ):
        start -= 1
    printed, whose = _with_own_names(plan, lines[start : first + SHOWN], lines[first])
    if whose is None:
        advice = (
            "correct the line, or give what it misses: a header with --path DIR, a source with "
            "--load FILE.cpp, a field with --proto FILE"
        )
    else:
        advice = (
            f"{whose} is Caffe 1.0's own, and does not fit what you have changed: give the fork's "
            f"version of it as well, --load {Path(whose).name}"
        )
    return CompileError(f"the compiler refuses it\n{printed}", printed, advice)


def _with_own_names(plan: Plan, lines: Sequence[str], first: str) -> tuple[str, str | None]:
    """Lines of the compiler with the user's files, and the file of Caffe's that the error is in."""
    names = {place: str(file) for place, file in plan.files.items()}

    def own(found: re.Match[str]) -> str:
        return names.get(found[1], found[1])

    shown = "\n".join(
        re.sub(r"(?:[\w./-]*/)?source/((?:src|include|python)/[\w./-]+)", own, each)
        for each in lines
    )
    found = re.search(r"source/((?:src|include|python)/[\w./-]+):\d+", first)
    whose = found[1] if found and found[1] not in names else None
    return shown, whose


def _line(text: str, sign: str) -> str:
    """What a message has in the line that begins with `sign`."""
    lines = [each.strip() for each in text.splitlines()]
    return next((each.removeprefix(sign).strip() for each in lines if each.startswith(sign)), text)
