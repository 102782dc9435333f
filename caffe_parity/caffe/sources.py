"""Compiled layers as a user names them: libraries, C++ files, headers, a caffe.proto.

What can be a plug-in for the installed Caffe is one, which takes seconds (`plugin`, `proto`). Where
that does not do, since messages that Caffe has itself or classes of its core are others, a Caffe is
built with the files, which takes minutes (`drop_in`). Which it is, the files themselves say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from caffe_parity.caffe import cache, drop_in, layer_errors, plugin
from caffe_parity.caffe.compile import CompileError, has_cuda
from caffe_parity.caffe.drop_in import HEADERS, Plan
from caffe_parity.caffe.proto import Changes, changes, extension, without_comments
from caffe_parity.contract import BadRequest, ParityError

COMPILER_LINES = 20
"""Of what a compiler says, the lines that are shown: the rest follows from the first error."""

LEFT_OUT = 8
"""Of what --proto changes, the names that are shown."""


@dataclass(frozen=True)
class Made:
    """What became of compiled layers.

    Attributes:
        libraries: the paths of what is loaded, and how the user called each.
        schema: the messages that the layers have of their own, for the worker's op "plain".
        drop_in: the folder of the Caffe that was built with them, if one was.
        types: the layer types that were built into it; none where its core is another.
    """

    libraries: Mapping[str, str] = field(default_factory=dict)
    schema: Path | None = None
    drop_in: Path | None = None
    types: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sources:
    """Compiled layers, made when they are asked for, once.

    Attributes:
        load: libraries, C++ files and headers, as the user wrote them, from `folder` on.
        proto: a caffe.proto, or the part of one that was added or changed.
        path: further folders with headers.
        folder: where relative paths start.
        root: finds the folder of the installed Caffe; None for a Caffe of the user's own.
        text: gives the net's text, which may use what only the other caffe.proto has.
        say: told, in a line, what is being done.
        dashes: of the options' names, where they are options of a command.
    """

    load: tuple[str, ...]
    proto: str | None
    path: tuple[str, ...]
    root: Callable[[], Path | None]
    text: Callable[[], str]
    folder: Path = Path()
    say: Callable[[str], None] = lambda text: None
    dashes: str = ""

    def check(self) -> None:
        """Checks that the files are there, before anything is compiled.

        Raises:
            BadRequest: one is not, or does not belong here.
        """
        for name in self.load:
            if not (self.folder / name).is_file():
                raise BadRequest(f"{self.dashes}load {name}: there is no such file")
            if self.load.count(name) > 1:
                raise BadRequest(f"{self.dashes}load {name} is given twice")
            if name.endswith(".cu"):
                raise BadRequest(
                    f"{self.dashes}load {name}: the .cu file beside a source is found by itself; "
                    "give the .cpp"
                )
        if self.proto is not None:
            if not self.code:
                raise BadRequest(
                    f"{self.dashes}proto {self.proto}: it belongs to a compiled layer's source: "
                    f"{self.dashes}load FILE.cpp"
                )
            if not (self.folder / self.proto).is_file():
                raise BadRequest(f"{self.dashes}proto {self.proto}: there is no such file")

    @property
    def code(self) -> list[str]:
        """What is to be compiled: sources and headers."""
        return [each for each in self.load if Path(each).suffix in (*plugin.SOURCES, *HEADERS)]

    @property
    def made(self) -> Made:
        """What became of them.

        Raises:
            BadRequest: a file is not there, or cannot be compiled; that is not tried again.
            InstallError: what is needed to build a Caffe cannot be had.
        """
        made = self._tried
        if isinstance(made, ParityError):
            raise made
        return made

    @cached_property
    def _tried(self) -> Made | ParityError:
        try:
            return self._make()
        except ParityError as error:
            return error

    def _make(self) -> Made:
        self.check()
        libraries = [each for each in self.load if each not in self.code]
        loaded = {
            str((self.folder / each).resolve()): f"{self.dashes}load {each}" for each in libraries
        }
        if not self.code:
            return Made(loaded)
        named = " ".join(self.code)
        root = self.root()
        if root is None:
            raise BadRequest(
                f"{self.dashes}load {self.code[0]}: only for the Caffe that is installed by "
                "`parity install-caffe` there is a compiler; for the one of CAFFE_PYTHON give the "
                "library (docs/compiled_layer.md)"
            )
        files = [self.folder / each for each in self.code]
        for each in plugin.without_code(files):
            advice = layer_errors.NO_FORWARD if each.forward else layer_errors.NO_BACKWARD
            self.say(f"  {each.where}: {each.function} is NOT_IMPLEMENTED: {advice}")
        try:
            return self._compiled(root, named, files, loaded)
        except CompileError as error:
            raise BadRequest(_refused(f"{self.dashes}load {named}", error)) from error

    def _compiled(
        self, root: Path, named: str, files: Sequence[Path], loaded: Mapping[str, str]
    ) -> Made:
        folders = [self.folder / each for each in self.path]
        file = self.folder / self.proto if self.proto is not None else None
        plan = drop_in.planned(root, files, folders, file)
        found = self._changes(root, file) if file else None
        reason = _needs_another_caffe(plan, found, self.text())
        if not reason and all(each.suffix in HEADERS for each in files):
            raise CompileError(f"{named}: a header is compiled with a source; give that as well")
        if not reason:
            try:
                return self._plug_in(root, named, files, folders, file, found, loaded)
            except CompileError as error:
                reason = _would_be_mended(plan, found, error)
                if not reason:
                    raise
        return self._drop_in(root, plan, reason, loaded)

    def _changes(self, root: Path, file: Path) -> Changes:
        try:
            return changes(root, file)
        except CompileError as error:
            raise BadRequest(f"{self.dashes}proto {self.proto}: {error}") from error

    def _plug_in(
        self,
        root: Path,
        named: str,
        files: Sequence[Path],
        folders: Sequence[Path],
        file: Path | None,
        found: Changes | None,
        loaded: Mapping[str, str],
    ) -> Made:
        messages = None
        if file is not None and found is not None:
            try:
                messages = extension(root, file, found)
            except CompileError as error:
                raise BadRequest(f"{self.dashes}proto {self.proto}: {error}") from error
            self.say(f"  {self.dashes}proto: {', '.join((*found.new, *found.fields))}")
            if found.left_out:
                self.say(
                    f"  {self.dashes}proto: left out: {_some(found.left_out)}, which neither the "
                    "net nor the layer's code uses: a plug-in cannot change Caffe's own messages"
                )
        sources = [each for each in files if each.suffix in plugin.SOURCES]
        more = dict.fromkeys(each.parent for each in files if each.suffix in HEADERS)
        built = plugin.build(
            root,
            sources,
            [*folders, *more],
            lambda: self.say(f"  compiling {named}"),
            messages,
        )
        called = " ".join(f"{self.dashes}load {each}" for each in self.code)
        return Made({**loaded, str(built): called}, messages.schema if messages else None)

    def _drop_in(self, root: Path, plan: Plan, reason: str, loaded: Mapping[str, str]) -> Made:
        if loaded:
            raise BadRequest(
                f"{next(iter(loaded.values()))}: it was built for another Caffe than the one with "
                f"{reason}: give its source"
            )
        if has_cuda(root):
            raise BadRequest(
                f"a plug-in cannot have {reason}, and a Caffe is built with the files without CUDA "
                "only: unset PARITY_CAFFE"
            )
        where = f"a plug-in cannot have {reason}"
        if plan.built:
            self.say(f"  {where}: in the Caffe that was built with the files before, {plan.name}")
        else:
            files = [each.name for each in (*plan.files.values(), *filter(None, [plan.proto]))]
            self.say(
                f"  {where}, so a Caffe is built with {_some(files)}: about 4 minutes on 2 cores, "
                f"once; it is kept as {cache.folder() / plan.name}"
            )
        folder = drop_in.build(plan)
        return Made({}, None, folder, () if plan.core else plan.types)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LEFT_OUT} more" if len(names) > LEFT_OUT else ""
    return f"{', '.join(names[:LEFT_OUT])}{more}"


def _needs_another_caffe(plan: Plan, found: Changes | None, net: str) -> str:
    """What the files change that no plug-in can have; "" for nothing."""
    if plan.core:
        return f"another {_some([Path(each).name for each in plan.core])} in Caffe's core"
    if found is None:
        return ""
    if not found.new and not found.fields:
        return f"another {_some(found.left_out)} in Caffe's own messages"
    words = {*re.findall(r"\w+", without_comments(net.replace("#", "//")))}
    used = [
        each
        for each in found.left_out
        if (each in found.defaults and _owner(each) & words)
        or (each not in found.defaults and each.rpartition(".")[2] in words)
    ]
    return f"another {_some(used)} in Caffe's own messages" if used else ""


def _owner(name: str) -> set[str]:
    """The words by which a net uses a message: its layer's type, and its field."""
    kind = name.partition(".")[0].removesuffix("Parameter")
    return {kind, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower() + "_param"}


def _would_be_mended(plan: Plan, found: Changes | None, error: CompileError) -> str:
    """What no plug-in can have, as the refusal of one shows, and a built Caffe can; or ""."""
    said = f"{error}\n{error.printed}"
    if "is another than that of Caffe 1.0" in said:
        return f"another {Path(said.split()[0]).name} than Caffe 1.0's"
    if found is None:
        return ""
    if re.search(r"LayerParameter'\}? has no member named '(mutable|set|add|clear)_", said):
        return "a new field of LayerParameter that its layer writes"
    missing = set(re.findall(r"'(\w+)'", "\n".join(re.findall(r".*\berror: .*", said))))
    words = {
        re.sub(r"^(has|set|add|clear|mutable)_|_size$", "", each) for each in missing
    } | missing
    names = [
        each
        for each in found.left_out
        if {each.rpartition(".")[2].lower(), each.rpartition(".")[2], each.replace(".", "_")}
        & words
        or any(word.endswith(f"_{each.rpartition('.')[2]}") for word in missing)
    ]
    return f"another {_some(names)} in Caffe's own messages" if names else ""


def _refused(named: str, error: CompileError) -> str:
    """What is said where C++ sources cannot be compiled."""
    if not error.printed:
        return f"{named}: {error}"
    lines = error.printed.rstrip().splitlines()
    shown = [*lines[:COMPILER_LINES], *(["[...]"] if len(lines) > COMPILER_LINES else [])]
    advice = [f"  to do: {error.advice}"] if error.advice else []
    return "\n".join([f"{named}: the compiler refuses it", *shown, *advice])
