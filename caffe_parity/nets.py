"""Nets of a user's own as variants: a prototxt file, or a Python layer on its own."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_parity.caffe.session import SESSION
from caffe_parity.caffe.sources import Sources
from caffe_parity.contract import BadRequest, Case, Shape
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.layer import BadLayer


@dataclass(frozen=True)
class Declared:
    """A net as the user declares it; `located` makes the variant.

    Attributes:
        spec: FILE.prototxt, or FILE.py:CLASS or MODULE:CLASS for a Python layer.
        is_layer: whether it is a Python layer.
        param_str: of that layer, if it takes one.
        path: folders with Python layers.
        load: compiled layers: libraries, C++ files, headers.
        proto: the caffe.proto that they have of their own; None for Caffe's.
        tops: of that layer; empty for as many as the reference returns.
        weights: a .caffemodel with the net's parameters; "" for none.
    """

    spec: str
    is_layer: bool
    param_str: str | None = None
    path: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    proto: str | None = None
    tops: tuple[str, ...] = ()
    weights: str = ""

    def observe(self, plan: object) -> None:
        """Never called: it stands for a variant until it is located."""
        raise NotImplementedError


def python_layer(
    spec: str,
    *,
    param_str: str | None = None,
    path: Sequence[str] = (),
    tops: Sequence[str] = (),
) -> Declared:
    """A variant: a Caffe Python layer, whose bottoms are the layer's inputs in their order.

    Args:
        spec: "FILE.py:CLASS", or "MODULE:CLASS" for a module in one of the folders of `path`.
        param_str: the layer's own, if it takes one.
        path: folders with modules that it imports, beside its own.
        tops: names of its tops; by default it gets as many as the reference returns.

    Relative paths start at the folder of the test file.
    """
    names = _several(tops, "tops")
    return Declared(str(spec), True, param_str, _several(path, "path"), tops=names)


def net(
    file: str,
    *,
    path: Sequence[str] = (),
    load: Sequence[str] = (),
    proto: str | None = None,
    weights: str = "",
) -> Declared:
    """A variant: a net with Input layers named like the layer's inputs; they get its shapes.

    The tops of its data layers are inputs as well, and nothing is read from their files.

    Args:
        file: a .prototxt file.
        path: folders with its Python layers; by default its own folder.
        load: compiled layers, as `parity check --load` takes them: .so or .cpp.
        proto: the caffe.proto that a .cpp of `load` has of its own, or the part added to Caffe's.
        weights: a .caffemodel, from which layers of its names get their parameters.

    Relative paths start at the folder of the test file.
    """
    several = _several(path, "path"), _several(load, "load")
    return Declared(str(file), False, None, *several, proto=proto, weights=str(weights))


def _several(names: Sequence[str], what: str) -> tuple[str, ...]:
    if isinstance(names, str):
        raise BadLayer(f"{what}={names!r}: expected a list, such as [{names!r}]")
    return tuple(str(each) for each in names)


def located(
    declared: Declared,
    folder: Path,
    say: Callable[[str], None] = lambda text: None,
    dashes: str = "",
) -> CaffeNet:
    """The variant, with absolute paths.

    Args:
        declared: as the user wrote it.
        folder: where relative paths start.
        say: told, in a line, what becomes of compiled layers.
        dashes: of the names `load` and `proto`, where they are options of a command.

    Raises:
        BadRequest: a file or a folder is not there, cannot be read, or a class is not named.
    """
    path = [_existing(folder / each, "folder") for each in declared.path]
    if not declared.is_layer:
        if declared.spec.partition(".py:")[2]:
            raise BadRequest(f"{declared.spec!r} is a Python layer: caffe_parity.python_layer(...)")
        file = _existing(folder / declared.spec, "file")
        made = CaffeNet(
            lambda case: text_of(file), declared.spec, _folders([*path] or [file.parent])
        )
    else:
        made = _of_class(declared, folder, path)
    if declared.weights:
        weights = _existing(folder / declared.weights, "file").resolve()
        made = replace(made, weights=str(weights))
    if not declared.load and declared.proto is None:
        return made
    sources = Sources(
        declared.load,
        declared.proto,
        declared.path,
        lambda: SESSION.running().interpreter.root,
        lambda: "" if declared.is_layer else text_of(folder / declared.spec),
        folder,
        say,
        dashes,
    )
    sources.check()
    return replace(made, sources=sources)


def text_of(file: Path) -> str:
    """The text of a net.

    Raises:
        BadRequest: it cannot be read.
    """
    try:
        if file.is_char_device() or file.is_block_device():  # it need not have an end
            raise BadRequest(f"cannot read the net {file}: it is a device")
        data = file.read_bytes()
    except OSError as error:
        raise BadRequest(f"cannot read the net {file}: {error.strerror}") from error
    if data.startswith(BOM_UTF8):
        raise BadRequest(f"{file} begins with a byte order mark, which Caffe refuses: save without")
    if b"\0" in data:
        raise BadRequest(f"{file} is no text in UTF-8, as a .prototxt must be: it holds zero bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:  # Caffe takes any bytes; in Latin-1 each has a character of its own
        return data.decode("latin-1")


def _of_class(declared: Declared, folder: Path, path: Sequence[Path]) -> CaffeNet:
    module, colon, layer = declared.spec.rpartition(":")
    if not colon or not module or not layer:
        raise BadRequest(f"{declared.spec!r}: expected FILE.py:CLASS or MODULE:CLASS")
    folders = [*path]
    if module.endswith(".py"):
        file = _existing(folder / module, "file")
        module = file.stem
        folders.insert(0, file.parent)  # this file, whatever the others have of its name
    folders.append(folder)

    def with_tops(tops: Sequence[str]) -> Callable[[Case], str]:
        return python_net(module, layer, declared.param_str, tops)

    made = CaffeNet(
        with_tops(declared.tops or ("top",)), declared.spec, _folders(folders), bare=True
    )
    return made if declared.tops else replace(made, with_tops=with_tops)


def _folders(folders: Sequence[Path]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(each.resolve()) for each in folders))


def _existing(path: Path, what: str) -> Path:
    """The path, of a file or a folder that is there.

    Raises:
        BadRequest: it is not.
    """
    if path.is_dir() if what == "folder" else path.is_file():
        return path
    raise BadRequest(f"there is no {what} {path}")


def python_net(
    module: str, layer: str, param_str: str | None, tops: Sequence[str]
) -> Callable[[Case], str]:
    """Makes the text of a net that is one Python layer over the inputs of a case."""
    param = "" if param_str is None else f" param_str: {quoted(param_str)}"

    def text(case: Case) -> str:
        lines = "".join(f"  bottom: {quoted(name)}\n" for name in case.names)
        lines += "".join(f"  top: {quoted(name)}\n" for name in tops)
        return input_layers(case.shapes) + (
            f'layer {{\n  name: "layer"\n  type: "Python"\n{lines}'
            f"  python_param {{ module: {quoted(module)} layer: {quoted(layer)}{param} }}\n}}\n"
        )

    return text


def quoted(text: str) -> str:
    """A string of a prototxt, its bytes in UTF-8; a file's name need not be any."""
    plain = set(range(32, 127)) - set(b'"\\')
    data = text.encode(errors="surrogateescape")
    return '"' + "".join(chr(each) if each in plain else f"\\{each:03o}" for each in data) + '"'


def input_layers(shapes: Mapping[str, Shape]) -> str:
    """The text of an Input layer for each input."""
    text = ""
    for name, shape in shapes.items():
        dims = " ".join(f"dim: {extent}" for extent in shape)
        text += (
            f'layer {{\n  name: {quoted(name)}\n  type: "Input"\n  top: {quoted(name)}\n'
            f"  input_param {{ shape {{ {dims} }} }}\n}}\n"
        )
    return text
