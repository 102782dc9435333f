"""Reads a prototxt as it stands: also what the caffe.proto of this Caffe does not know of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from caffe_parity.contract import BadRequest
from caffe_parity.ports.catalogue import Fields


@dataclass
class Entry:
    """A field: its name, and its value as it is written, or the fields of a message."""

    name: str
    value: str | list[Entry]

    @property
    def fields(self) -> list[Entry]:
        """Those of a message; none of a plain value."""
        return self.value if isinstance(self.value, list) else []

    def said(self, name: str) -> str:
        """The last plain value of a field of this message, without quotes; "" where it is not."""
        found = [each.value for each in self.fields if each.name == name]
        return found[-1].strip("\"'") if found and isinstance(found[-1], str) else ""

    def __str__(self) -> str:
        if isinstance(self.value, str):
            return f"{self.name}: {self.value}"
        return f"{self.name} {{ {' '.join(map(str, self.value))} }}"


_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<token>(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|[{}<>:;,\[\]]|"""
    r"""[^\s{}<>:;,\[\]"'\#]+)"""
)
_MARKS = "{}<>:;,[]"


def entries(text: str) -> list[Entry]:
    """The fields of a prototxt.

    Raises:
        BadRequest: it is none.
    """
    tokens = [each["token"] for each in _TOKEN.finditer(text) if each["token"]]
    found, rest = _message(tokens, 0)
    if rest > len(tokens):
        raise BadRequest("not a valid net prototxt: it ends within a message")
    if rest != len(tokens):
        raise BadRequest(f"not a valid net prototxt: {tokens[rest]!r} closes nothing")
    return found


def _message(tokens: Sequence[str], at: int) -> tuple[list[Entry], int]:
    found: list[Entry] = []
    while at < len(tokens) and tokens[at] not in "}>":
        if tokens[at] in ";,":
            at += 1
            continue
        name, at = tokens[at], at + 1
        colon = tokens[at : at + 1] == [":"]
        at += colon
        if tokens[at : at + 1] in (["{"], ["<"]):
            inner, at = _message(tokens, at + 1)
            found.append(Entry(name, inner))
            at = at + 1 if at < len(tokens) else len(tokens) + 1
        elif tokens[at : at + 1] == ["["]:
            end = tokens.index("]", at) if "]" in tokens[at:] else len(tokens)
            found += [Entry(name, each) for each in tokens[at + 1 : end] if each != ","]
            at = end + 1
        elif colon and at < len(tokens) and tokens[at] not in _MARKS:
            value, at = tokens[at], at + 1
            while value[0] in "\"'" and at < len(tokens) and tokens[at][0] in "\"'":
                value, at = f"{value} {tokens[at]}", at + 1
            found.append(Entry(name, value))
        else:
            raise BadRequest(f"not a valid net prototxt: a value is expected behind {name!r}")
    return found, at


ENGINE = "engine"
"""The field that chooses how a layer computes, and not what: a Caffe without cuDNN aborts on it."""

DATA = re.compile(r"(?:.*Data|DATA|.*_DATA)$")
"""The types of layers that become inputs, of which nothing else is looked at."""


@dataclass
class Unknown:
    """What of a net this Caffe does not know.

    Attributes:
        text: the net without it; a layer of an unknown V1 type has the type NONE there.
        holes: by name of a layer, why this Caffe has nothing of that kind.
        types: by name, the types of layers that have another one in the text.
        kinds: by name, the type of each layer, as it is written.
        about: by name, what each layer says of itself beside its bottoms and tops.
    """

    text: str = ""
    holes: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)


def unknown(
    text: str, messages: Mapping[str, Fields], types: Sequence[str], python: str, filled: bool
) -> Unknown:
    """What this Caffe does not know of a net.

    Args:
        text: the net's.
        messages: the fields of every message.
        types: the layer types that are registered.
        python: why it has no Python layers; "" where it has.
        filled: whether a file gives the parameters, so that no filler is needed.

    Raises:
        BadRequest: it is no prototxt.
    """
    found = Unknown()
    net = entries(text)
    _give_names(net)
    for layer in net:
        if layer.name not in ("layer", "layers") or not isinstance(layer.value, list):
            continue
        name, kind = layer.said("name"), layer.said("type")
        if not kind:
            raise BadRequest(f"the layer {name!r} has no type")
        found.kinds[name] = kind
        found.about[name] = " ".join(str(each) for each in layer.value if each.name not in COMMON)
        old = layer.name == "layers"
        about = messages["V1LayerParameter" if old else "LayerParameter"]
        odd = [*_odd(layer.value, about, messages, "")]
        if old and kind not in about["type"]["values"]:
            found.types[name] = kind
            layer.value = [each for each in layer.value if each.name != "type"]
            layer.value.append(Entry("type", "NONE"))
        if (old and name in found.types) or (not old and kind not in types):
            found.holes[name] = "this Caffe has no layer of that type (--load gives it one)"
        elif python and kind in ("Python", "PYTHON"):
            found.holes[name] = python
        elif odd and not DATA.match(kind) and not (filled and all(map(IN_FILLER.search, odd))):
            said = ", ".join(odd)
            found.holes[name] = f"this Caffe's layer has no {said}"
            if all(map(IN_FILLER.search, odd)):
                found.holes[name] += "; with --weights no filler is needed"
    found.text = "\n".join(map(str, net))
    return found


def _give_names(net: Sequence[Entry]) -> None:
    """Names layers that have no name, and of those of one name that are in any phase the later.

    The worker does the same where it knows which layers are in the net.
    """
    layers = [each for each in net if each.name in ("layer", "layers") and each.fields]
    taken = {each.said("name") for each in layers}
    always: set[str] = set()
    for layer in layers:
        name, number = layer.said("name") or layer.said("type"), 2
        wanted = name
        while wanted in always or (wanted != layer.said("name") and wanted in taken):
            wanted, number = f"{name}_{number}", number + 1
        if wanted and wanted != layer.said("name"):
            rest = [each for each in layer.fields if each.name != "name"]
            layer.value = [Entry("name", f'"{wanted}"'), *rest]
            taken.add(wanted)
        if not any(each.name in ("include", "exclude") for each in layer.fields):
            always.add(wanted)


COMMON = (
    *("name", "type", "bottom", "top", "include", "exclude", "param", "loss_weight"),
    *("propagate_down", "phase", "blobs_lr", "weight_decay", "engine"),
)
"""The fields that a layer of any type has."""


IN_FILLER = re.compile(r"_filler\.\w+")
"""A field of a filler."""

FILLERS = ("bilinear", "constant", "gaussian", "msra", "positive_unitball", "uniform", "xavier")
"""The types of fillers that Caffe has; of others it aborts."""


def _odd(
    said: list[Entry], about: Fields, messages: Mapping[str, Fields], path: str
) -> Iterator[str]:
    """The fields that are none, as `pooling_param.ceil`; they are taken out."""
    for each in [*said]:
        place = f"{path}{each.name}"
        known = about.get(each.name)
        if each.name == ENGINE:
            said.remove(each)
        elif known is None:
            said.remove(each)
            yield place
        elif isinstance(each.value, list):
            yield from _odd(each.value, messages.get(known["type"], {}), messages, f"{place}.")
        elif (
            place.endswith("filler.type") and re.sub(r"[\s\"']", "", str(each.value)) not in FILLERS
        ):
            said.remove(each)
            yield f"{place}: {each.value}"
        elif known["values"] and each.value not in known["values"] and place != "type":
            if each.value.lstrip("-").isdigit():
                continue
            said.remove(each)
            yield f"{place}: {each.value}"


def stages_of(text: str) -> list[str]:
    """The stages that the rules of a net's layers name."""
    rules = [rule for layer in entries(text) for rule in layer.fields]
    said = [each for rule in rules if rule.name in ("include", "exclude") for each in rule.fields]
    names = [str(each.value).strip("\"'") for each in said if each.name in ("stage", "not_stage")]
    return list(dict.fromkeys(names))


def in_stages(text: str, names: Sequence[str]) -> str:
    """A net whose state has these stages, too.

    Raises:
        BadRequest: no rule names one of them.
    """
    known = stages_of(text)
    for name in names:
        if name not in known:
            rules = f"those of this net name {', '.join(known)}" if known else "this net has none"
            raise BadRequest(f"--stage {name}: no layer's rule names that stage; {rules}")
    net = entries(text)
    state = next((each for each in net if each.name == "state" and each.fields), None)
    if state is None:
        net.append(state := Entry("state", []))
    state.fields.extend(Entry("stage", f'"{name}"') for name in names)
    return "\n".join(map(str, net))


def with_batch_statistics(text: str) -> str:
    """A net whose every BatchNorm normalises by the statistics of its own batch."""
    net = entries(text)
    for layer in net:
        if layer.said("type") == "BatchNorm":
            rest = [each for each in layer.fields if each.name != "batch_norm_param"]
            said = [each for each in layer.fields if each.name == "batch_norm_param"]
            kept = [one for each in said for one in each.fields if one.name != USES_STATISTICS]
            kept.append(Entry(USES_STATISTICS, "false"))
            layer.value = [*rest, Entry("batch_norm_param", kept)]
    return "\n".join(map(str, net))


USES_STATISTICS = "use_global_stats"


def without(text: str, names: set[str]) -> str:
    """A net without the layers of these names, and without the Silence of what they make."""
    kept, unmade = [], set[str]()
    for each in entries(text):
        is_layer = each.name in ("layer", "layers")
        blobs = {str(field.value) for field in each.fields if field.name in ("top", "bottom")}
        if is_layer and each.said("name") in names:
            unmade |= {str(field.value) for field in each.fields if field.name == "top"}
        elif not (is_layer and each.said("type").upper() == "SILENCE" and blobs & unmade):
            kept.append(each)
    return "\n".join(map(str, kept))
