"""The words of the catalogue: a layer as its prototxt has it, and the calls that compute it.

A layer of a net is *said* in messages of caffe.proto; its counterpart is one *call* of a PyTorch
function for each thing that it computes. A field is honoured by being read: one that is set and
that nobody reads is refused by name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from caffe_parity.contract import Shape
from caffe_parity.errors import ParityError

Fields = Mapping[str, Mapping[str, Any]]
"""The fields of a message, as the worker's op "fields" gives them."""

EXACT = "exact"
BOUNDED = "within the bound"
DATA = "a data layer"
HOLE = "a named hole"
NOT_YET = "not yet"


class Refused(ParityError):
    """A layer has no counterpart as it is said: which field, and why."""


class Message:
    """The fields of one message of a layer; `message["axis"]` reads one, its default if unset.

    Args:
        name: of the field of LayerParameter, such as "pooling_param".
        said: the fields that are set.
        fields: all that there are.
        messages: those of every message, for messages within.
    """

    def __init__(
        self, name: str, said: Mapping[str, Any], fields: Fields, messages: Mapping[str, Fields]
    ) -> None:
        self.name = name
        self._said = said
        self._fields = fields
        self._messages = messages
        self._read: set[str] = set()
        self._silent: set[str] = set()
        self._inner: list[Message] = []

    def __contains__(self, name: str) -> bool:
        self._fields[name]  # a name that is none is a mistake of ours
        return name in self._said

    def __getitem__(self, name: str) -> Any:
        about = self._fields[name]
        self._read.add(name)
        value = self._said.get(name, about["default"])
        if about["type"] in self._messages:
            inner = [
                self._message(name, about["type"], each) for each in _several(value or {}, about)
            ]
            return inner if about["repeated"] else inner[0]
        convert = _CONVERSIONS.get(about["type"], lambda each: each)
        return [*map(convert, value)] if about["repeated"] else convert(value)

    def said(self, name: str) -> Any:
        """A field where it is set, else None."""
        value = self[name]
        return value if name in self._said else None

    def _message(self, name: str, kind: str, said: Any) -> Message:
        made = Message(f"{self.name}.{name}", said, self._messages[kind], self._messages)
        self._inner.append(made)
        return made

    def changes_nothing(self, *names: str) -> None:
        """Fields that choose a way to compute, print something, or fill what is set otherwise."""
        for name in names:
            self._fields[name]
            self._read.add(name)
            self._silent.add(name)

    @property
    def changing_nothing(self) -> list[str]:
        """The fields that do not change what is computed."""
        return [f"{self.name}.{each}" for each in sorted(self._silent)]

    @property
    def ignored(self) -> list[str]:
        """The fields that are set, and that nobody has read."""
        own = [f"{self.name}.{each}" for each in self._said if each not in self._read]
        return own + [each for inner in self._inner for each in inner.ignored]


def _several(value: Any, about: Mapping[str, Any]) -> list[Any]:
    return list(value) if about["repeated"] else [value]


def _float32(value: Any) -> float:
    """As Caffe holds it: 0.1 is not the float64 of that text."""
    return float(struct.unpack("f", struct.pack("f", float(value)))[0])


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "float": _float32,
    **dict.fromkeys(("int32", "int64", "uint32", "uint64"), int),
}


class Said:
    """A layer of a net, as its prototxt says it.

    Args:
        layer: the fields of LayerParameter that are set (the worker's op "messages").
        bottoms: the shapes of its bottoms.
        messages: the fields of every message (the worker's op "fields").
        phase: of the net, "TRAIN" or "TEST"; the layer's own goes first.
    """

    def __init__(
        self,
        layer: Mapping[str, Any],
        bottoms: Sequence[Shape],
        messages: Mapping[str, Fields],
        phase: str = "TRAIN",
    ) -> None:
        self.name = str(layer.get("name", ""))
        self.type = str(layer["type"])
        self.bottoms = tuple(tuple(each) for each in bottoms)
        self.tops = len(layer.get("top", ()))
        self.phase = str(layer.get("phase", phase))
        self._layer = layer
        self._messages = messages
        self._read: dict[str, Message] = {}

    def message(self, name: str) -> Message:
        """One of its messages, empty where it is not set."""
        if name not in self._read:
            kind = self._messages["LayerParameter"][name]["type"]
            said = self._layer.get(name, {})
            self._read[name] = Message(name, said, self._messages[kind], self._messages)
        return self._read[name]

    @property
    def read(self) -> tuple[str, ...]:
        """The names of the messages that were read."""
        return tuple(self._read)

    def without(self, name: str) -> Said:
        """The same layer, which does not set a field such as `pooling_param.pad`."""
        message, _, inner = name.partition(".")
        kept = {k: v for k, v in self._layer.get(message, {}).items() if k != inner}
        layer = {**self._layer, message: kept} if message in self._layer else self._layer
        return Said(layer, self.bottoms, self._messages, self.phase)

    @property
    def changing_nothing(self) -> list[str]:
        """The fields that do not change what is computed, of the messages that were read."""
        return [each for message in self._read.values() for each in message.changing_nothing]

    def axis(self, value: int, bottom: int = 0, past: bool = False) -> int:
        """An axis counted from the front.

        Raises:
            Refused: the bottom has no such axis.
        """
        count = len(self.bottoms[bottom])
        found = value + count + past if value < 0 else value
        if not 0 <= found < count + past:
            raise self.refused(f"there is no axis {value} in {self.bottoms[bottom]}")
        return found

    def refused(self, words: str) -> Refused:
        """An error that names the layer."""
        return Refused(f"layer {self.name!r} ({self.type}): {words}")

    def check(self) -> None:
        """Sees that every field that is set was read, of the messages that Caffe's layer reads.

        Raises:
            Refused: one was not.
        """
        ignored = [each for message in self._read.values() for each in message.ignored]
        if ignored:
            raise self.refused(f"the counterpart does not honour {', '.join(ignored)}")


@dataclass(frozen=True)
class Call:
    """One call of a counterpart.

    Attributes:
        function: of this package, plain PyTorch.
        tensors: what it takes by position: "bottom[0]", and "blob[0]" for a layer's parameters.
        named: what it takes by keyword, likewise.
        arguments: plain values by keyword: numbers, words, tuples.
        gives: what it returns: "top[0]"; "blob[0]" for what a layer writes itself; "" for nothing.
    """

    function: Callable[..., Any]
    tensors: tuple[str, ...] = ("bottom[0]",)
    named: Mapping[str, str] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    gives: tuple[str, ...] = ("top[0]",)

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What it gives, by name.

        Args:
            tensors: of the bottoms and blobs, by name.
        """
        found = self.function(
            *(tensors[each] for each in self.tensors),
            **{key: tensors[each] for key, each in self.named.items()},
            **self.arguments,
        )
        several = found if isinstance(found, tuple) else (found,)
        named = zip(self.gives, several, strict=True)
        return {name: each for name, each in named if name}


@dataclass(frozen=True)
class Port:
    """The counterpart of a layer type.

    Attributes:
        type: as Caffe registers it.
        state: `EXACT` (the same bits), `BOUNDED`, `DATA` (it becomes an input), `HOLE`, `NOT_YET`.
        calls: makes the calls of a layer; None where there is no counterpart.
        note: one sentence about it.
        impossible: what cannot have a counterpart, each with its counterexample.
    """

    type: str
    state: str
    calls: Callable[[Said], Sequence[Call]] | None = None
    note: str = ""
    impossible: tuple[str, ...] = ()

    def of(self, said: Said) -> tuple[Call, ...]:
        """The calls that compute a layer.

        Raises:
            Refused: it is none that has a counterpart, or sets a field that is not honoured.
        """
        if self.calls is None:
            raise said.refused(f"{self.state}: {self.note}")
        made = tuple(self.calls(said))
        said.check()
        return made


def evaluated(calls: Sequence[Call], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the calls of a layer give, by name ("top[0]", "blob[0]").

    Args:
        calls: of `Port.of`.
        tensors: of the bottoms and blobs, by name.
    """
    found: dict[str, Tensor] = {}
    for each in calls:
        found |= each(tensors)
    return found
