"""Give a plug-in messages of its own: what a fork adds to caffe.proto, without another Caffe.

New messages go into a second file, in a namespace of its own, compiled with the protobuf that Caffe
uses. New fields of LayerParameter cannot be in LayerParameter, whose layout libcaffe knows. So a
private copy of its header declares the fields' accessors, which need no room in an object; they
read the layer's block from a string field that Caffe has no use for outside Python layers,
`python_param.param_str`, where the worker's op "plain" puts it.

What a fork changes in messages that Caffe has itself is left out, and named; where it is needed, a
Caffe is built with the `merged` file (`drop_in`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_parity.caffe import compile as compiling
from caffe_parity.caffe import install as installer
from caffe_parity.caffe.compile import CompileError, cached

FIELDS = "ParityLayerParameter"
"""The message that has the new fields of LayerParameter."""

SCHEMA = "schema"


@dataclass(frozen=True)
class Changes:
    """What a caffe.proto says that Caffe's own does not.

    Attributes:
        new: the new messages and enums, by their names.
        fields: the new fields of LayerParameter.
        left_out: what it changes in messages of Caffe's own, as `MESSAGE.FIELD`.
        defaults: of these, the fields of which it changes nothing but the default.
    """

    new: Mapping[str, str]
    fields: Mapping[str, str]
    left_out: tuple[str, ...]
    defaults: tuple[str, ...]


@dataclass(frozen=True)
class Extension:
    """What a caffe.proto adds to Caffe's own, for a plug-in.

    Attributes:
        library: a library with the messages, which a plug-in links to.
        include: a folder with headers, to go before all others.
        schema: a file for the worker's op "plain".
    """

    library: Path
    include: Path
    schema: Path


def changes(root: Path, file: Path) -> Changes:
    """Return what `file` says that the caffe.proto of the Caffe in `root` does not.

    Args:
        root: the folder of an installed Caffe.
        file: a whole caffe.proto, or only what is to be added to one.

    Raises:
        CompileError: it cannot be read, or says nothing new.
    """
    try:
        text = without_comments(file.read_text(errors="replace"))
    except OSError as error:
        raise CompileError(f"cannot read {file}: {error.strerror}") from error
    known = json.loads((_caffe_proto(root) / "known.json").read_text())
    found = _sorted(text, known)
    if not found.new and not found.fields and not found.left_out:
        raise CompileError(
            f"{file} adds no message and no field of LayerParameter to Caffe's own caffe.proto.\n"
            "  to do: name the caffe.proto of the layer's fork, or the part that was added to it; "
            "a layer that needs none needs no --proto."
        )
    return found


def extension(root: Path, file: Path, found: Changes) -> Extension:
    """Return what `file` adds to the caffe.proto of the Caffe in `root`, compiled if it is new.

    Raises:
        CompileError: protoc refuses it.
    """
    own = _caffe_proto(root)
    new, fields = found.new, found.fields
    body = "\n".join([*new.values(), f"message {FIELDS} {{", *fields.values(), "}"])
    space = f"parity_{hashlib.sha256(body.encode()).hexdigest()[:12]}"

    def make(folder: Path) -> None:
        (folder / "include").mkdir()
        source = folder / f"{space}.proto"
        lines = ['syntax = "proto2";', 'import "caffe.proto";', f"package caffe.{space};"]
        source.write_text("\n".join([*lines, body]))
        described = folder / "described"
        include = folder / "include"
        try:
            compiling.protoc(
                root,
                f"-I{folder}",
                f"-I{own}",
                f"--descriptor_set_out={described}",
                f"--cpp_out={include}",
                source.name,
            )
        except CompileError as error:
            said = error.printed.replace(f"{source.name}:", "").strip()
            raise CompileError(
                f"protoc refuses what {file} adds to Caffe's caffe.proto.\n  said:  {said}\n"
                "  to do: correct it; a new message can use those of Caffe 1.0, as they are there, "
                "and those of this file.",
            ) from None
        python, environment = installer.python_command(root)
        script = [*python, "-c", _MERGE, str(own / "described"), str(described), space]
        compiling.run([*script, str(folder / SCHEMA)], root, environment)
        _write_headers(root, include, space, fields)
        accessors = folder / "accessors.cpp"
        accessors.write_text(_ACCESSORS.replace("SPACE", space))
        # caffe.pb.h first: it includes the header of the new messages itself, at its end.
        flags = ("-include", "caffe/proto/caffe.pb.h", "-O1", "-shared", "-fPIC", "-Wl,-z,defs")
        sources = [include / f"{space}.pb.cc", accessors]
        compiling.compile_with(root, folder / f"{space}.so", sources, [include], flags)
        for each in (*sources, source, described):
            each.unlink()

    folder = cached("proto", (str(root), space, _ACCESSORS, _MERGE, own.name), make)
    return Extension(folder / f"{space}.so", folder / "include", folder / SCHEMA)


def without_comments(text: str) -> str:
    """A .proto file's text without its comments."""
    comment = r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
    return re.sub(
        comment, lambda each: each[0] if each[0][0] in "\"'" else " ", text, flags=re.DOTALL
    )


def statements(text: str) -> Iterator[str]:
    """The statements of a .proto file's text, or of a message's body: `...;` or `... {...}`."""
    depth, start = 0, 0
    for match in re.finditer(r"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|[{};]", text):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] in ";}":
            statement = text[start : match.end()].strip()
            start = match.end()
            if statement != ";":
                yield statement


_BLOCK = re.compile(r"(message|enum)\s+(\w+)\s*\{(.*)\}$", re.DOTALL)
_FIELD = re.compile(r"(optional|required|repeated)\s+([\w.]+)\s+(\w+)\s*=\s*\d+\s*(\[.*\])?")
_DEFAULT = re.compile(r"\bdefault\s*=\s*(\"[^\"]*\"|'[^']*'|[^,\]\s]+)")


def _sorted(text: str, known: Mapping[str, Any]) -> Changes:
    new: dict[str, str] = {}
    fields: dict[str, str] = {}
    others: dict[str, str] = {}
    for statement in statements(text):
        block = _BLOCK.match(statement)
        if not block:
            continue
        if block[2] not in known:
            new[block[2]] = statement
        elif block[2] == "LayerParameter":
            for each in statements(block[3]):
                field = _FIELD.match(each)
                if field and field[3] not in known["LayerParameter"]:
                    fields[field[3]] = each
                elif field and (kind := _difference(each, known["LayerParameter"][field[3]])):
                    others[f"LayerParameter.{field[3]}"] = kind
        else:
            others |= dict(_changes(block[2], block[1], block[3], known))
    defaults = tuple(name for name, kind in others.items() if kind == "default")
    return Changes(new, fields, tuple(others), defaults)


def _changes(
    name: str, kind: str, body: str, known: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """What a message or an enum of Caffe's own has in `body` that it does not have in Caffe.

    Each with what is changed in it: "new", or what `_difference` says.
    """
    for each in statements(body):
        if kind == "enum":
            value = each.partition("=")[0].strip()
            if "=" in each and value not in known[name]:
                yield f"{name}.{value}", "new"
            continue
        block, field = _BLOCK.match(each), _FIELD.match(each)
        if block:
            inner = f"{name}.{block[2]}"
            if inner in known:
                yield from _changes(inner, block[1], block[3], known)
            else:
                yield inner, "new"
        elif field and field[3] not in known[name]:
            yield f"{name}.{field[3]}", "new"
        elif field and (what := _difference(each, known[name][field[3]])):
            yield f"{name}.{field[3]}", what


def _difference(statement: str, known: list[str]) -> str:
    """What a field has another than Caffe's, whose label, type and default are `known`, or "".

    "kind" is a label or a type, "default" the default alone.
    """
    field = _FIELD.match(statement)
    assert field is not None
    label, kind, default = known
    if (field[1], field[2].rpartition(".")[2]) != (label, kind):
        return "kind"
    given = _DEFAULT.search(field[4] or "")
    value = given[1].strip("\"'") if given else ""
    try:
        same = float(value or 0) == float(default or 0)
    except ValueError:
        same = value == default or not (value and default)
    return "" if same else "default"


def merged(own: str, added: str, wants: Callable[[str], bool]) -> str:
    """Caffe's caffe.proto with what another one adds and changes.

    Where both have a field, the other's declaration counts, and where its number is that of another
    field, that one gets a number that nobody has. Only a field with another label or type, which
    Caffe's own code could not use, stays as it is, unless the other's code wants it.

    Args:
        own: the text of Caffe's.
        added: that of the other, which may be a part of a file.
        wants: whether code that comes with the second one speaks of a field.
    """
    theirs = (each for each in statements(without_comments(added)) if _BLOCK.match(each))
    return "\n".join(_merged(list(statements(without_comments(own))), list(theirs), wants)) + "\n"


_VALUE = re.compile(r"(\w+)\s*=\s*-?\d+")
_NUMBER = re.compile(r"=\s*(-?\d+)")


def _merged(own: Sequence[str], theirs: Sequence[str], wants: Callable[[str], bool]) -> list[str]:
    """The statements of a file, a message or an enum with those of another of the same name."""
    made = {_name(each): each for each in own}
    taken: dict[str, str] = {}
    for each in theirs:
        name = _name(each)
        mine = made.get(name)
        block, field = _BLOCK.match(each), _FIELD.match(each)
        if mine is None or not (block or field):
            made[name] = each
        elif block and (inside := _BLOCK.match(mine)):
            body = _merged([*statements(inside[3])], [*statements(block[3])], wants)
            made[name] = f"{inside[1]} {inside[2]} {{\n{chr(10).join(body)}\n}}"
        elif field and (before := _FIELD.match(mine)):
            other_kind = field[1] != before[1] or _plain(field[2]) != _plain(before[2])
            made[name] = _numbered(mine, _number(each)) if other_kind and not wants(name) else each
        taken[name] = made[name]
    numbers = {_number(each) for each in taken.values()}
    free = max([0, *(_number(each) or 0 for each in made.values())]) + 1
    for name, each in made.items():
        if name not in taken and _number(each) in numbers - {None}:
            made[name] = _numbered(each, free)
            free += 1
    return list(made.values())


def _plain(kind: str) -> str:
    return kind.rpartition(".")[2]


def _name(statement: str) -> str:
    """What two statements of one name are told to be the same by."""
    block, field, value = (each.match(statement) for each in (_BLOCK, _FIELD, _VALUE))
    return block[2] if block else field[3] if field else value[1] if value else statement


def _number(statement: str) -> int | None:
    """The number of a field or a value of an enum."""
    if _BLOCK.match(statement) or not (_FIELD.match(statement) or _VALUE.match(statement)):
        return None
    found = _NUMBER.search(statement)
    return int(found[1]) if found else None


def _numbered(statement: str, number: int | None) -> str:
    return _NUMBER.sub(f"= {number}", statement, count=1)


_KNOWN = """
import json, sys
from google.protobuf import descriptor_pb2
described = descriptor_pb2.FileDescriptorSet.FromString(open(sys.argv[1], "rb").read())
file = described.file[0]
kinds, labels = descriptor_pb2.FieldDescriptorProto.Type, ["", "optional", "required", "repeated"]
known = {}

def enum(each, name):
    known[name] = [value.name for value in each.value]
    values = "".join("%s = %d; " % (value.name, value.number) for value in each.value)
    return "enum %s { %s}\\n" % (each.name, values)

def message(each, name):
    text = "message %s {\\n" % each.name
    text += "".join(enum(inner, name + "." + inner.name) for inner in each.enum_type)
    text += "".join(message(inner, name + "." + inner.name) for inner in each.nested_type)
    known[name] = {}
    for field in each.field:
        kind = field.type_name or kinds.Name(field.type)[5:].lower()
        label = labels[field.label]
        known[name][field.name] = [label, kind.rpartition(".")[2], field.default_value]
        text += "%s %s %s = %d;\\n" % (label, kind, field.name, field.number)
    return text + "}\\n"

text = 'syntax = "proto2"; package caffe;\\n'
text += "".join(enum(each, each.name) for each in file.enum_type)
text += "".join(message(each, each.name) for each in file.message_type)
open(sys.argv[2], "w").write(text)
json.dump(known, open(sys.argv[3], "w"))
"""
"""Writes Caffe's caffe.proto as text, from what its Python module knows, and what is in it."""


def _caffe_proto(root: Path) -> Path:
    """A folder with Caffe's own caffe.proto, as `described`, as text and as `known.json`."""

    def make(folder: Path) -> None:
        described = folder / "described"
        compiling.describe_proto(root, described)
        python, environment = installer.python_command(root)
        made = (str(described), str(folder / "caffe.proto"), str(folder / "known.json"))
        compiling.run([*python, "-c", _KNOWN, *made], root, environment)

    complete = root / installer.COMPLETE
    packages = complete.read_bytes() if complete.exists() else b""
    return cached("caffe-proto", (str(root), packages, _KNOWN), make)


_MERGE = """
import sys
from google.protobuf import descriptor_pb2
own, added = (
    descriptor_pb2.FileDescriptorSet.FromString(open(name, "rb").read()).file[0]
    for name in sys.argv[1:3]
)
old = ".caffe.%s." % sys.argv[3]

def rename(message):
    for field in message.field:
        if field.type_name.startswith(old):
            field.type_name = ".caffe." + field.type_name[len(old):]
    for inner in message.nested_type:
        rename(inner)

layer = next(each for each in own.message_type if each.name == "LayerParameter")
number = max(field.number for field in layer.field)
for message in added.message_type:
    rename(message)
    if message.name != "ParityLayerParameter":
        own.message_type.add().CopyFrom(message)
        continue
    for field in message.field:
        number += 1
        layer.field.add().CopyFrom(field)
        layer.field[-1].number = number
own.enum_type.extend(added.enum_type)
open(sys.argv[4], "wb").write(own.SerializeToString())
"""
"""Writes the caffe.proto in which a net with the new messages is valid; it is for text alone."""

_ACCESSORS = """
#include <map>
#include <mutex>
#include <string>
#include <glog/logging.h>
#include <google/protobuf/text_format.h>
#include "caffe/proto/caffe.pb.h"

namespace caffe {
const SPACE::ParityLayerParameter& SPACE::ParityFields(const LayerParameter& layer) {
  static std::mutex mutex;
  static std::map<std::string, SPACE::ParityLayerParameter>* known =
      new std::map<std::string, SPACE::ParityLayerParameter>();  // references to it stay valid
  const std::string& text = layer.python_param().param_str();
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known->find(text);
  if (found == known->end()) {
    found = known->emplace(text, SPACE::ParityLayerParameter()).first;
    CHECK(google::protobuf::TextFormat::ParseFromString(text, &found->second))
        << "layer " << layer.name() << ": its block of the net is not valid: " << text;
  }
  return found->second;
}
}  // namespace caffe
"""


def _write_headers(root: Path, include: Path, space: str, fields: Mapping[str, str]) -> None:
    """Write the private copy of caffe.pb.h, beside that of the new messages in `include`."""
    second = include / f"{space}.pb.h"
    text = second.read_text()
    second.write_text(text.replace('"caffe.pb.h"', '"caffe/proto/caffe.pb.h"'))
    text = (compiling.toolchain(root) / "include/caffe/proto/caffe.pb.h").read_text()
    declared, defined = "", ""
    for name, statement in fields.items():
        repeated = statement.startswith("repeated")
        functions = {
            f"{'' if repeated else 'has_'}{name.lower()}{'_size' if repeated else ''}": "",
            name.lower(): "",
        }
        wanted = [(each, "", "") for each in functions]
        if repeated:
            wanted.append((name.lower(), "int index", "index"))
        for function, taken, given in wanted:
            declared += f"  decltype(auto) {function}({taken}) const;\n"
            defined += (
                f"inline decltype(auto) LayerParameter::{function}({taken}) const {{\n"
                f"  return {space}::ParityFields(*this).{function}({given});\n}}\n"
            )
    head, found, rest = text.partition("class LayerParameter PROTOBUF_FINAL")
    opening, public, body = rest.partition(" public:\n")
    end = body.rindex("#endif  // GOOGLE_PROTOBUF_INCLUDED")
    assert found and public
    added = (
        f"namespace caffe {{ inline namespace {space} {{}} }}\n"
        f'#include "{space}.pb.h"\n'
        f"namespace caffe {{\nnamespace {space} {{\n"
        f"const {FIELDS}& ParityFields(const LayerParameter& layer);\n}}\n{defined}}}\n"
    )
    folder = include / "caffe/proto"
    folder.mkdir(parents=True)
    parts = (head, found, opening, public, declared, body[:end], added, body[end:])
    (folder / "caffe.pb.h").write_text("".join(parts))
