"""The certificate of a port: what was proved, of which files, with which versions.

`parity net --verify` reads it again, hashes the files, and tells what is another. It is no
signature: the digest shows that its text was changed, not by whom. docs/port.md has its fields.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from modulefinder import ModuleFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_parity.caffe.interpreter import find
from caffe_parity.caffe.session import SESSION
from caffe_parity.checkout import number
from caffe_parity.contract import GRADIENT, BadRequest, ParityError
from caffe_parity.report.record import Record, Report
from caffe_parity.report.schema import Misfit, check

if TYPE_CHECKING:
    import argparse

    from caffe_parity.whole.ported import Ported

SCHEMA = "parity-port-1"
FORMAT = Path(__file__).with_name("certificate.schema.json")
ENDING = ".parity.json"
LARGEST = 1e30
"""Of the fractions that are written: JSON has no infinity."""
PROVED, NOT_PROVED = "proved", "not proved"


def certificate_of(code: Path) -> Path:
    """The certificate of a port."""
    return code.with_name(code.stem + ENDING)


def may_be_written(code: Path) -> None:
    """Sees that no file is overwritten that somebody has written or changed.

    Raises:
        BadRequest: there is one, or there is no such folder.
    """
    if not code.parent.is_dir():
        raise BadRequest(f"-o {code}: there is no folder {code.parent}")
    if not code.exists():
        return
    try:
        known = _read(certificate_of(code))["files"]["code"]["sha256"]
    except (BadRequest, KeyError, TypeError):
        known = ""
    if not code.is_file() or known != _digest(code):
        raise BadRequest(
            f"-o {code}: there is such a file, and no {certificate_of(code).name} says that "
            "`parity port` wrote it as it is: name another one, or delete it"
        )


def certify(options: argparse.Namespace, port: Ported, report: Report, words: str) -> Path:
    """Writes the certificate of a port beside it; returns its path.

    Args:
        options: of the command.
        port: the port.
        report: what was compared.
        words: what that comes to.
    """
    file = certificate_of(port.file)
    own = {"net": Path(options.net), "code": port.file, "weights": port.weights_file}
    given = {
        "caffemodel": options.weights,
        "inputs": options.inputs,
        "proto": options.proto,
        **{f"load {each}": each for each in options.load},
        **{f"layer {each}": each for each in map(str, port.filling.files)},
        **{f"python {each.name}": each for each in port.python_files},
    }
    own |= {name: Path(each) for name, each in given.items() if each}
    for each in (*port.filling.files, *port.python_files):
        own |= {f"import {one.name} of {each.name}": one for one in _imported(each)}
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": NOT_PROVED if report.status else PROVED,
        "words": words,
        "files": {
            name: {"path": _relative(each, file.parent), "sha256": _digest(each)}
            for name, each in own.items()
        },
        "versions": _versions(report.environment["caffe"]["version"]),
        "options": {k: _plain(each) for k, each in report.selection.items()},
        "phases": {phase: _phase(port, phase, report) for phase in port.phases},
        "holes": dict(port.holes),
    }
    content["digest"] = digest_of(content)
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def _imported(file: Path) -> list[Path]:
    """The files beside a Python file that it imports, and those that they do."""
    finder = ModuleFinder([str(file.parent)])
    try:
        finder.run_script(str(file))
    except (SyntaxError, UnicodeDecodeError):  # of Python 2, which Caffe may have
        return []
    files = [getattr(each, "__file__", None) for each in finder.modules.values()]
    known = {Path(each) for each in files if each}
    return sorted(each for each in known if each.resolve() != file.resolve())


def _versions(caffe: str) -> dict[str, str]:
    import torch

    return {"caffe": caffe, "torch": torch.__version__, "parity": number()}


def _phase(port: Ported, phase: str, report: Report) -> dict[str, Any]:
    """What was compared in a phase, and how near each layer is to its bounds."""
    records = [each for each in report.results if each.variant == phase]
    return {
        "inputs": {name: list(shape) for name, shape in port.cases[phase].shapes.items()},
        "tensors": sum(len(each.tensors) for each in records),
        "numbers": sum(one.compared for each in records for one in each.tensors.values()),
        "layers": {each.case: _layer(each) for each in records},
    }


def _layer(record: Record) -> dict[str, Any]:
    """The verdict on a layer, and its largest errors as fractions of their bounds."""
    found: dict[str, Any] = {"verdict": record.verdict}
    if record.reason:
        found["reason"] = record.reason
    for name, agreement in record.tensors.items():
        kind = "forward" if not name.startswith(GRADIENT) else "params"
        kind = "backward" if " of " in name else kind
        fraction = min(float(f"{agreement.fraction:.2g}"), LARGEST)
        found[kind] = max(found.get(kind, 0.0), fraction)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool) else str(value)


def _relative(file: Path, folder: Path) -> str:
    return Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix()


def _digest(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(2**20):
            found.update(piece)
    return found.hexdigest()


def digest_of(content: Mapping[str, Any]) -> str:
    """The digest of all that a certificate says beside it."""
    said = {name: each for name, each in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _read(file: Path) -> Any:
    """What a certificate says.

    Raises:
        BadRequest: it is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise BadRequest(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise BadRequest(f"{file} is no certificate of `parity port`: {error}") from error
    try:
        check(content, json.loads(FORMAT.read_text(encoding="utf-8")))
    except Misfit as misfit:
        raise BadRequest(
            f"{file} is no certificate of `parity port` ({SCHEMA}): {misfit}"
        ) from None
    return content


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which each name stands once: of two, readers would take either."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a name stands twice among {', '.join(name for name, _ in pairs)}")
    return found


def _against(content: Mapping[str, Any]) -> str:
    """What a certificate itself says against its verdict; "" for nothing."""
    wrong = [
        layer
        for phase in content["phases"].values()
        for layer, said in phase["layers"].items()
        if said["verdict"] == "fail"
        or (said["verdict"] == "pass" and max(said.get(kind, 0) for kind in KINDS) > 1)
    ]
    words = [f"it has holes: {', '.join(content['holes'])}"] * bool(content["holes"])
    words += ["nothing was compared"] * (not content["phases"])
    words += [f"what it says of {', '.join(dict.fromkeys(wrong))} is no proof"] * bool(wrong)
    return "; ".join(words)


KINDS = ("forward", "backward", "params")


def changed(file: Path) -> Iterator[tuple[str, str]]:
    """What is not as it was when a port was proved: its name, and how in words; "" for what is.

    Args:
        file: the certificate.

    Raises:
        BadRequest: it is none.
    """
    content = _read(file)
    same = content.get("digest") == digest_of(content)
    yield file.name, "" if same else "its text is not as `parity port` has written it"
    if content["verdict"] != PROVED:
        yield "verdict", f"it does not say that the port is proved: {content['words']}"
    elif against := _against(content):
        yield "verdict", against
    for name, said in content["files"].items():
        path = file.parent / said["path"]
        words = "" if path.is_file() else "there is no such file any more"
        if not words and _digest(path) != said["sha256"]:
            words = "it is another file than the one that was proved"
        yield f"{name.partition(' ')[0]} {said['path']}", words
    for name, now in _versions(_caffe()).items():
        then = content["versions"][name]
        other = now and then != now
        yield f"{name} {then}", f"now it is {now}: prove it again" if other else ""


def _caffe() -> str:
    """The version of the Caffe here; "" where there is none."""
    try:
        find(install=False)
        return str(SESSION.running().start()["caffe"])
    except ParityError:
        return ""
