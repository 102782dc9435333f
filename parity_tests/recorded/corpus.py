"""The corpus: what is recorded, how it lies in its files, and how it is read back and trusted.

Three files in one folder, all of them data:

`corpus.json`
    {"schema", "provenance", "cases", "tensors", "recordings", "left_out"}. A case has its fields
    and the digests of its inputs, which are made again from the seed. A recording has a layer, a
    variant and a case, and either the digests of its loss, dx1 and dx2 (null: Caffe computed none)
    or what Caffe said when it refused. A tensor lies in the values as `stored`, its shape with the
    axes along which it is constant cut to one, from the index `at` on, negated where `negated` is
    true.
`values.npz`
    One float32 array `values`, of one axis.
`SHA256SUMS.txt`
    The checksums of both, as `sha256sum -c` reads them.

A digest is the SHA-256 of the shape and the bytes of a whole tensor, as Caffe computed it: that of
what is unpacked must be the same. So a changed byte in a file is found by its checksum, a changed
value under a corrected checksum by its digest, and one under a corrected digest by the reference.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from caffe_parity import Case, Expectation, ParityError
from caffe_parity.contract import GRADIENT, Array32, spoken

SCHEMA = "parity-corpus-1"
FOLDER = Path(__file__).with_name("corpus")
INDEX, VALUES, SUMS = "corpus.json", "values.npz", "SHA256SUMS.txt"
INPUTS = ("x1", "x2")
TENSORS = ("loss", *(GRADIENT + name for name in INPUTS))

LARGEST_STORED = 1 << 18
"""Elements of a tensor that are kept at most, 1 MiB; what is larger is left out, and named."""

SIGN = np.uint32(1 << 31)

RECORD_AGAIN = "to do: get its files again, or record them anew where a Caffe runs: tox -e record"


class Damaged(ParityError):
    """The corpus cannot be used; the message says which file or tensor is wrong, and how."""


@dataclass(frozen=True)
class Recording:
    """What one Caffe variant did with one case.

    Attributes:
        digests: of each of `TENSORS`; None for a gradient that Caffe did not compute.
        refusal: what Caffe said when it refused; "" where it computed.
        expectation: what the variant claims about the case, if it does not simply compute it.
    """

    layer: str
    variant: str
    case: str
    digests: Mapping[str, str | None] = field(default_factory=dict)
    refusal: str = ""
    expectation: Expectation | None = None

    def __str__(self) -> str:
        return f"{self.layer}-{self.variant}-{self.case}"


@dataclass(frozen=True)
class Omission:
    """A layer's case that is not in the corpus, and why."""

    layer: str
    case: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """Everything that was recorded.

    Attributes:
        provenance: the Caffe, and the machine that it ran on, when it was recorded.
        cases: each case by name, as `described` gives it.
        tensors: the tensors by their digests.
        recordings: in the order in which they were made.
        left_out: what is too large.
    """

    provenance: Mapping[str, Any]
    cases: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, Array32]
    recordings: tuple[Recording, ...]
    left_out: tuple[Omission, ...] = ()


def digest(array: Array32) -> str:
    """The SHA-256 of an array's shape and its float32 bytes, little-endian, in C order."""
    made = hashlib.sha256(repr(tuple(array.shape)).encode())
    for part in array if array.ndim else [array]:  # a broadcast array never stands there whole
        made.update(np.ascontiguousarray(part).astype("<f4", copy=False).tobytes())
    return made.hexdigest()


def described(case: Case) -> dict[str, Any]:
    """A case as JSON data: its fields but the name, and the digests of its inputs."""
    arrays = case.arrays(case)
    return {
        **{f"{name}_shape": list(case.shapes[name]) for name in INPUTS},
        "fill": case.fill,
        "seed": case.seed,
        "loss_weight": case.loss_weight,
        "propagate_down": [name in case.gradients for name in INPUTS],
        "sharing": case.sharing,
        **{name: digest(arrays[name]) for name in INPUTS},
    }


def drifted(case: Case, recorded: Mapping[str, Any]) -> str:
    """What differs between a case of this suite and the one that was recorded; "" if nothing."""
    changed = {k: v for k, v in described(case).items() if v != recorded.get(k)}
    fields = [f"{k} is {v}, was {recorded.get(k)}" for k, v in changed.items() if k not in INPUTS]
    words = "; ".join(fields) or f"the same seed makes other numbers for {' and '.join(changed)}"
    return f"{case.name}: {words}" if changed else ""


def _bits(array: Array32) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.ascontiguousarray(array).view(np.uint32).reshape(array.shape)


def collapsed(array: Array32) -> Array32:
    """The array with each axis cut to one along which all its bits are the same."""
    for axis in range(array.ndim):
        first = np.take(array, [0], axis)
        if np.array_equal(np.broadcast_to(_bits(first), array.shape), _bits(array)):
            array = first
    return np.ascontiguousarray(array).reshape(array.shape)  # which gives a scalar an axis


def packed(corpus: Corpus) -> dict[str, bytes]:
    """The files of a corpus by name; the same corpus gives the same bytes."""
    places: dict[bytes, int] = {}
    pieces: list[Array32] = []
    tensors = {}
    end = 0
    for name, array in corpus.tensors.items():
        piece = collapsed(array)
        entry: dict[str, Any] = {"shape": list(array.shape), "stored": list(piece.shape)}
        minus = places.get((_bits(piece) ^ SIGN).tobytes())
        if minus is not None:
            entry |= {"at": minus, "negated": True}
        else:
            entry["at"] = places.setdefault(piece.tobytes(), end)
            if entry["at"] == end:
                pieces.append(piece.reshape(-1))
                end += piece.size
        tensors[name] = entry
    values = io.BytesIO()
    np.savez_compressed(values, values=np.concatenate(pieces).astype("<f4"))
    index = {
        "schema": SCHEMA,
        "provenance": corpus.provenance,
        "cases": corpus.cases,
        "tensors": tensors,
        "recordings": [_entry(each) for each in corpus.recordings],
        "left_out": [asdict(each) for each in corpus.left_out],
    }
    files = {INDEX: _json(index), VALUES: values.getvalue()}
    sums = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()]
    return {**files, SUMS: "".join(sums).encode()}


def _entry(recording: Recording) -> dict[str, Any]:
    entry = asdict(recording)
    digests = {spoken(name): key for name, key in entry.pop("digests").items()}
    optional = {name: each for name in ("refusal", "expectation") if (each := entry.pop(name))}
    return {**entry, **digests, **optional}


def _json(content: Mapping[str, Any]) -> bytes:
    """JSON with one line for each case, tensor and recording, so that a change can be read."""
    parts = []
    for key, value in content.items():
        if key in ("cases", "tensors"):
            lines = [f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in value.items()]
            text = "{\n" + ",\n".join(lines) + "\n }"
        elif isinstance(value, list):
            text = "[\n" + ",\n".join(f"  {json.dumps(each)}" for each in value) + "\n ]"
        else:
            text = json.dumps(value)
        parts.append(f" {json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def write(corpus: Corpus, folder: Path) -> None:
    """Writes the files of a corpus; the folder is made if need be.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in packed(corpus).items():
        (folder / name).write_bytes(data)


def load(folder: Path = FOLDER) -> Corpus:
    """Reads a corpus and checks all of it.

    Raises:
        Damaged: a file is missing, is not the one that was recorded, or does not hold together.
    """
    files = _trusted(folder)
    try:
        content = json.loads(files[INDEX])
        if content.get("schema") != SCHEMA:
            words = f"has the schema {content.get('schema')!r}; this suite reads {SCHEMA}"
            raise Damaged(f"{folder / INDEX} {words}")
        values = _values(folder / VALUES, files[VALUES])
        corpus = Corpus(
            provenance=dict(content["provenance"]),
            cases={name: dict(each) for name, each in content["cases"].items()},
            tensors={k: _unpacked(k, each, values) for k, each in content["tensors"].items()},
            recordings=tuple(_recording(each) for each in content["recordings"]),
            left_out=tuple(Omission(**each) for each in content["left_out"]),
        )
        _must_hold_together(corpus)
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        raise Damaged(f"{folder / INDEX} does not have the form of a corpus ({said})") from error
    return corpus


def _trusted(folder: Path) -> dict[str, bytes]:
    """The bytes of both files, which have the checksums that stand beside them."""
    try:
        lines = (folder / SUMS).read_text(encoding="ascii").splitlines()
        sums = {name: value for value, _, name in (line.partition("  ") for line in lines)}
        files = {name: (folder / name).read_bytes() for name in (INDEX, VALUES)}
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"the corpus in {folder} cannot be read: {error}.\n{RECORD_AGAIN}") from error
    for name, data in files.items():
        found = hashlib.sha256(data).hexdigest()
        if found != sums.get(name):
            raise Damaged(
                f"{folder / name} is not the file that was recorded: its SHA-256 is {found[:16]}..."
                f", {SUMS} says {sums.get(name, 'nothing')[:16]}...\n{RECORD_AGAIN}"
            )
    return files


def _values(path: Path, data: bytes) -> Array32:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            values = archive["values"]
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        words = f"{path} cannot be read as an array of float32: {error}.\n{RECORD_AGAIN}"
        raise Damaged(words) from error
    if values.dtype != np.float32 or values.ndim != 1:
        words = f"{path} holds {values.dtype} of shape {values.shape}, not a row of float32"
        raise Damaged(words)
    return np.asarray(values, np.float32)


def _unpacked(name: str, entry: Mapping[str, Any], values: Array32) -> Array32:
    """A tensor as it was recorded, as a view that cannot be written to."""
    stored = tuple(int(extent) for extent in entry["stored"])
    start = int(entry["at"])
    count = int(np.prod(stored, dtype=object))
    if start < 0 or start + count > values.size:
        raise IndexError(f"tensor {name[:16]} lies beyond the values")
    piece = values[start : start + count].reshape(stored)
    if entry.get("negated", False):
        piece = (_bits(piece) ^ SIGN).view(np.float32)
    array: Array32 = np.broadcast_to(piece, tuple(int(extent) for extent in entry["shape"]))
    return array


def _recording(entry: Mapping[str, Any]) -> Recording:
    claimed, refusal = entry.get("expectation"), entry.get("refusal", "")
    digests = {} if refusal else {name: entry[spoken(name)] for name in TENSORS}
    expectation = Expectation(**claimed) if claimed else None
    who = entry["layer"], entry["variant"], entry["case"]
    return Recording(*who, digests, refusal, expectation)


def _must_hold_together(corpus: Corpus) -> None:
    """Checks each tensor against its digest, and its shape against its case.

    Raises:
        Damaged: one does not fit; the message names the first recording that it belongs to.
    """
    seen: set[str] = set()
    for recording in corpus.recordings:
        case = corpus.cases[recording.case]
        shapes = {"loss": [], **{GRADIENT + each: case[f"{each}_shape"] for each in INPUTS}}
        for name, key in recording.digests.items():
            if key is None:
                if name == "loss":
                    raise Damaged(f"{recording} has no loss in the corpus")
                continue
            array, what = corpus.tensors[key], f"{spoken(name)} of {recording}"
            if list(array.shape) != shapes[name]:
                words = f"{array.shape} in the corpus, and the case asks for {tuple(shapes[name])}"
                raise Damaged(f"{what} has shape {words}")
            if key not in seen and digest(array) != key:
                words = f"its digest is {digest(array)[:16]}..., not {key[:16]}..."
                raise Damaged(f"{what} is not what was recorded: {words}\n{RECORD_AGAIN}")
            seen.add(key)
