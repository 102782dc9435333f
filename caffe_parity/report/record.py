"""What came out, as it stands in memory and in results.json: one record for each variant and case.

`parity run`, `parity check`, `parity recorded` and the pytest plugin write the same file, whose
JSON Schema is results.schema.json beside this one; `parity diff` reads it. Needs NumPy only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from caffe_parity.contract import Agreement, BadRequest, Excerpt, Finding, ParityError
from caffe_parity.report import INDEX, bits
from caffe_parity.report.bits import Kept, number
from caffe_parity.report.schema import Misfit, Schema, check, unexpected

SCHEMA: Schema = json.loads(Path(__file__).with_name("results.schema.json").read_text("utf-8"))
NAME: str = SCHEMA["properties"]["schema"]["enum"][0]
"""The name of the format, with its version."""

FAMILIES = ("parity-results-", "parity-check-", "parity-pytest-")
"""What the name began with in every version, when there were several formats also."""

VERDICTS: Sequence[str] = SCHEMA["$defs"]["record"]["properties"]["verdict"]["enum"]
AGREEING = ("pass", "refused", "not run")
"""The verdicts that say nothing against a variant."""

COMPARED = ("pass", "fail", "unproven")
"""The verdicts whose tensors were held against the layer's own reference."""

Key = tuple[str, str, str]
"""Layer, variant and case: what a report has once."""

Json = dict[str, Any]


class Unreadable(ParityError):
    """A file is not what was expected; the message names it, the place in it, and what to do."""


@dataclass(frozen=True)
class InNet:
    """What a layer of a whole net has beside a verdict.

    Attributes:
        type: its type, or those of the layers that were compared with it.
        port: what of the port computes it, in words.
        inherited: the largest error where the port runs as a whole, as a fraction of the layer's
            own bound; None where it was not compared.
    """

    type: str
    port: str
    inherited: float | None = None


@dataclass(frozen=True)
class Record:
    """The verdict on one variant and one case.

    Attributes:
        verdict: one of `VERDICTS`.
        reason: why, in a sentence; "" for a pass.
        findings, notes: what is wrong; what is no verdict.
        tensors: by name, "loss" or "gradient:x1".
        detail: what was printed, or a picture of the error; may have many lines.
        seconds: how long the variant took.
        elements: of all inputs.
        inputs: their digest; "" where nothing ran.
        computed: what is kept of each tensor that came out, by name.
        in_net: of `parity net`, whose variants are phases and whose cases are layers; else None.
    """

    layer: str
    variant: str
    case: str
    verdict: str
    reason: str = ""
    findings: Sequence[Finding] = ()
    notes: Sequence[Finding] = ()
    tensors: Mapping[str, Agreement] = field(default_factory=dict)
    detail: str = ""
    seconds: float = 0.0
    elements: int = 0
    inputs: str = ""
    computed: Mapping[str, Sequence[Kept]] = field(default_factory=dict)
    in_net: InNet | None = None

    def __post_init__(self) -> None:
        """Refuses what contradicts itself: nothing that is wrong must ever look right.

        Raises:
            ValueError: an unknown verdict, a pass with something wrong, or no reason.
        """
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} is none of {', '.join(VERDICTS)}")
        if self.verdict == "pass":
            wrong = [name for name, each in self.tensors.items() if each.wrong]
            if self.findings or wrong:
                what = ", ".join([each.code for each in self.findings] + wrong)
                raise ValueError(f"verdict 'pass' of {self.id} contradicts {what}")
        elif not self.reason:
            raise ValueError(f"verdict {self.verdict!r} of {self.id} needs a reason")

    @property
    def key(self) -> Key:
        """Layer, variant and case."""
        return self.layer, self.variant, self.case

    @property
    def id(self) -> str:
        """The same in one word, as pytest has it."""
        return "-".join(part for part in self.key if part)

    @property
    def agrees(self) -> bool:
        """Whether it agrees, as far as it could run, and that is proven."""
        return self.verdict in AGREEING

    @property
    def wrong(self) -> bool:
        """Whether its verdict says something against the variant."""
        return not self.agrees and not self.weak

    @property
    def weak(self) -> bool:
        """Whether nothing is wrong, and of some tensor nothing is proved."""
        return self.verdict == "unproven"

    def as_json(self) -> Json:
        """JSON data, as it stands in a file and travels between processes."""
        data: Json = plain(self)
        if self.in_net is None:
            del data["in_net"]
        return {**data, "seconds": round(self.seconds, 6)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """What `as_json` made.

        Raises:
            Misfit: it is not that.
        """
        check(data, SCHEMA["$defs"]["record"], SCHEMA)
        return _record(data)


def not_compared(key: Key, reason: str) -> Record:
    """The record of a comparison that gave no result though one was asked for."""
    words = f"it could not be compared: {reason}"
    return Record(*key, "crash", words, [Finding("crash", words)])


@dataclass(frozen=True)
class Report:
    """Everything that one run tells.

    Attributes:
        command: "run", "check", "net", "port", "recorded" or "pytest".
        environment: what the results depend on beside the code, as JSON data; {} if nothing ran.
        selection: the options that say what is compared, those that were given, likewise.
        results: a record for each variant and case, in the order in which they are shown.
        selected: how many were asked for, if that is more.
        file: where it was read; "" for one that was not.
    """

    command: str
    environment: Mapping[str, Any]
    selection: Mapping[str, Any]
    results: Sequence[Record]
    selected: int = 0
    file: str = ""

    @property
    def missing(self) -> int:
        """How many results were asked for and did not come."""
        return max(self.selected - len(self.results), 0)

    @cached_property
    def status(self) -> int:
        """The exit status.

        0: all agree, as far as they could run; 1: one does not, or is missing; 2: nothing ran, or
        something is unproven.
        """
        if self.missing or any(each.wrong for each in self.results):
            return 1
        ran = any(each.verdict != "not run" for each in self.results)
        return 0 if ran and not self.unproven else 2

    @cached_property
    def unproven(self) -> list[Key]:
        """The tensors that no case proves anything of: layer, variant, tensor.

        That one case does not is no harm where another one does.
        """
        proved: dict[Key, bool] = {}
        for each in self.results:
            known = {name: tensor.proves for name, tensor in each.tensors.items()}
            if each.weak and all(known.values()):
                known = {"": False}
            for name, proves in known.items() if each.verdict in COMPARED else ():
                key = (each.layer, each.variant, name)
                proved[key] = proved.get(key, False) or proves
        return [key for key, found in proved.items() if not found]

    @property
    def agrees(self) -> bool:
        """Whether everything that was asked for and could run was proven."""
        return self.status == 0

    def as_json(self) -> Json:
        """The content of results.json."""
        return {
            "schema": NAME,
            "command": self.command,
            "environment": dict(self.environment) or None,
            "selection": dict(self.selection),
            "selected": len(self.results) + self.missing,
            "agrees": self.agrees,
            "results": [each.as_json() for each in self.results],
        }

    def write(self, path: Path) -> None:
        """Writes results.json, whole or not at all.

        Raises:
            OSError: the folder cannot be written to.
        """
        write_whole(path, json.dumps(self.as_json(), indent=1, allow_nan=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file, whole or not at all; a device or a pipe, which nothing may replace, as it is.

    Raises:
        OSError: its folder is not there, or cannot be written to.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


NEAR = 1000
"""Bytes."""

RESULTS = b'"schema": "parity-results'
"""What stands near the beginning of a file of results, of any version."""

PAGE = b'<meta name="generator" content="parity">'
"""The same of a page."""


def must_be_writable(option: str, path: Path | None, mark: bytes = RESULTS) -> None:
    """Looks before a run whether its results can be written: it must not be lost at its end.

    Args:
        option: by which the file was named, for the message.
        path: the file; None for none.
        mark: what such a file has near its beginning; one without is no earlier one of its kind.

    Raises:
        BadRequest: it cannot.
    """
    if path is None:
        return
    try:
        if path.is_dir():
            raise BadRequest(f"{option} {path} is a folder: name the file to write")
        if path.exists() and not path.is_file():
            return
        content = path.read_bytes()[:NEAR] if path.exists() else b""
        if content and mark not in content:  # a slip, such as the net
            raise BadRequest(f"{option} {path} would replace a file that {option} did not write")
        if path.parent.name == INDEX.parent.name:
            path.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except FileNotFoundError as error:
        raise BadRequest(f"{option} {path}: there is no folder {path.parent}: make it") from error
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise BadRequest(f"{option} {path} cannot be written: {words}") from error


def read(path: Path) -> Report:
    """Reads results.json, or that of a folder.

    Raises:
        Unreadable: the file cannot be read, or is no such report.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        if path.is_char_device() or path.is_block_device():  # it need not have an end
            raise Unreadable(f"{path} is a device, no file of results")
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also what is not UTF-8
        raise Unreadable(f"{path} is no JSON file: {error}") from error
    try:
        return _report(data, str(path))
    except (Misfit, RecursionError) as error:
        raise Unreadable(f"{path}: {error}") from error


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps another run from writing its report to the same folder meanwhile.

    Raises:
        OSError: there is no such folder, and none can be made.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def plain(value: Any) -> Any:
    """A value as JSON data: dataclasses and mappings as objects, tuples as lists."""
    if isinstance(value, np.ndarray):
        return bits.hexadecimal(value)
    if is_dataclass(value):
        data = {each.name: plain(getattr(value, each.name)) for each in fields(value)}
        if isinstance(value, Agreement):
            del data["note"]  # a finding says it
            data["suspicious"] = value.suspicious
            if value.excerpt is None:  # as nearly all
                del data["excerpt"]
        return data
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return number(value) if isinstance(value, float) else value


def _record(data: Mapping[str, Any]) -> Record:
    """A record, from data that fit the schema.

    Raises:
        Misfit: what is kept of a tensor contradicts itself.
    """
    parts: Json = {
        "findings": tuple(Finding(**each) for each in data["findings"]),
        "notes": tuple(Finding(**each) for each in data["notes"]),
        "tensors": {name: _agreement(each) for name, each in data["tensors"].items()},
        "computed": {name: _kept(name, each) for name, each in data["computed"].items()},
    }
    if "in_net" in data:
        parts["in_net"] = _in_net(data["in_net"])
    try:
        return Record(**{**data, **parts})
    except ValueError as error:
        raise Misfit(f": {error}") from None


def _in_net(data: Mapping[str, Any]) -> InNet:
    inherited = data["inherited"]
    return InNet(data["type"], data["port"], None if inherited is None else float(inherited))


def _agreement(data: Mapping[str, Any]) -> Agreement:
    given = {**data, "worst_index": tuple(data["worst_index"])}
    given |= {name: float(each) for name, each in given.items() if isinstance(each, str)}
    del given["suspicious"]
    if "excerpt" in given:
        given["excerpt"] = _excerpt(given["excerpt"])
    return Agreement(**given)


def _excerpt(data: Mapping[str, Any]) -> Excerpt:
    """What was kept of a wrong tensor.

    Raises:
        Misfit: its lists do not belong together.
    """
    numbers = {name: tuple(map(float, data[name])) for name in ("actual", "expected", "bound")}
    if any(len(each) != len(data["places"]) for each in numbers.values()):
        raise unexpected("as many numbers as places", len(data["places"]), "excerpt")
    return Excerpt(
        shape=tuple(data["shape"]),
        along=tuple(tuple(map(float, each)) for each in data["along"]),
        plane=tuple(tuple(map(float, each)) for each in data["plane"]),
        places=tuple(data["places"]),
        **numbers,
    )


def _kept(name: str, entries: Sequence[Json]) -> tuple[Kept, ...]:
    found = []
    for index, each in enumerate(entries):
        try:
            found.append(bits.from_json(each))
        except Misfit as misfit:
            raise misfit.inside("computed", name, index) from None
    return tuple(found)


def _report(data: Any, file: str) -> Report:
    if type(data) is not dict:
        raise unexpected("an object", data)
    found = data.get("schema", NAME)
    if found != NAME:
        misfit = unexpected(NAME, found, "schema")
        if str(found).startswith(FAMILIES):
            misfit.words += ": it is of another version; write both files with the same parity"
        raise misfit
    check(data, SCHEMA)
    records: dict[Key, Record] = {}
    for index, each in enumerate(data["results"]):
        try:
            record = _record(each)
            if record.key in records:
                raise Misfit(f": {record.id} is there twice")
        except Misfit as misfit:
            raise misfit.inside("results", index) from None
        records[record.key] = record
    return Report(
        data["command"],
        data["environment"] or {},
        data["selection"],
        tuple(records.values()),
        data["selected"],
        file,
    )


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")
