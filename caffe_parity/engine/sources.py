"""Finds what the user names: the reference, the port, the net. Says plainly what is wrong there."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_parity.contract import BadRequest, Shape


@dataclass(frozen=True)
class Net:
    """A net to check.

    Attributes:
        name: what the user called it.
        text: its prototxt.
        path: folders with its Python layers.
    """

    name: str
    text: str
    path: tuple[str, ...]


def load_object(spec: str, what: str) -> Any:
    """The object that `MODULE:NAME` or `FILE.py:NAME` names.

    Args:
        spec: what the user typed.
        what: "--reference" or "--port", for messages.

    Raises:
        BadRequest: there is no such file, module or name, or it cannot be imported.
    """
    module_name, colon, attribute = spec.rpartition(":")
    if not colon or not module_name or not attribute:
        raise BadRequest(f"{what} {spec!r}: expected MODULE:NAME or FILE.py:NAME")
    try:
        module = _from_file(module_name) if _is_file(module_name) else _from_path(module_name)
    except BadRequest:
        raise
    except BaseException as error:  # whatever the user's module raises while it is imported
        if isinstance(error, KeyboardInterrupt):
            raise
        raise BadRequest(
            f"{what} {spec!r}: {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, attribute):
        names = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise BadRequest(f"{what}: {module_name} has no {attribute!r}; it has {', '.join(names)}")
    return getattr(module, attribute)


def _is_file(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def _from_file(name: str) -> Any:
    file = Path(name)
    if not file.is_file():
        raise BadRequest(f"there is no file {name}")
    # Under a name of its own: a user's reference.py must not replace this project's package.
    name_in_python = f"parity_check_{file.stem}"
    spec = importlib.util.spec_from_file_location(name_in_python, file)
    if spec is None or spec.loader is None:
        raise BadRequest(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))  # its neighbours, as `python FILE` would have it
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _from_path(name: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def reference(spec: str | Callable[..., Any]) -> Callable[..., Any]:
    """The reference function: what the user named, or gave in Python.

    Raises:
        BadRequest: it cannot be had, or is no function.
    """
    found = load_object(spec, "--reference") if isinstance(spec, str) else spec
    if not callable(found):
        raise BadRequest(f"--reference {spec!r} is {type(found).__name__}, not a function")
    return found


def port(spec: str) -> Callable[..., Any]:
    """The port: a function, an nn.Module, or a Module's class that takes no arguments.

    Raises:
        BadRequest: it cannot be had or called.
    """
    found = load_object(spec, "--port")
    if inspect.isclass(found):
        try:
            found = found()
        except TypeError as error:
            raise BadRequest(
                f"--port {spec!r} is a class that needs arguments ({error}): "
                "name a function or a ready object instead"
            ) from error
    if not callable(found):
        raise BadRequest(f"--port {spec!r} is {type(found).__name__}, not callable")
    return found  # type: ignore[no-any-return]


def must_take(function: Callable[..., Any], names: Sequence[str], what: str) -> None:
    """Checks that a function takes keyword arguments of these names.

    Raises:
        BadRequest: it does not; the message names both sides.
    """
    target = function.forward if hasattr(function, "forward") else function
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**dict.fromkeys(names))
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise BadRequest(
            f"the {what} must take the net's inputs {', '.join(names)} as keyword arguments, "
            f"it takes ({takes}): {error}"
        ) from error


def net(spec: str, path: Sequence[str], bottoms: Mapping[str, Shape], param_str: str | None) -> Net:
    """The net that NET names: a prototxt file, or `module:LayerClass` for a Python layer.

    Args:
        spec: what the user typed.
        path: folders with Python layers.
        bottoms: input names and shapes, for `module:LayerClass` only.
        param_str: the layer's param_str, likewise.

    Raises:
        BadRequest: the file cannot be read, or what the layer needs is missing.
    """
    module, colon, layer = spec.rpartition(":")
    if colon and not Path(spec).exists():
        if not bottoms:
            raise BadRequest(f"{spec}: a Python layer needs --bottom NAME=SHAPE for each bottom")
        name = Path(module).stem if module.endswith(".py") else module
        folders = [*path]
        if module.endswith(".py"):
            if not Path(module).is_file():
                raise BadRequest(f"there is no file {module}")
            folders.append(str(Path(module).parent.resolve()))
        folders.append(str(Path.cwd()))
        return Net(
            spec, _python_net(name, layer, bottoms, param_str), tuple(map(_absolute, folders))
        )
    if bottoms or param_str is not None:
        raise BadRequest("--bottom and --param-str belong to NET given as module:LayerClass")
    file = Path(spec)
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"cannot read the net {spec}: {error}") from error
    folders = [*path] or [str(file.parent)]
    return Net(spec, text, tuple(map(_absolute, folders)))


def _absolute(folder: str) -> str:
    if not Path(folder).is_dir():
        raise BadRequest(f"--path {folder}: there is no such folder")
    return str(Path(folder).resolve())


def _python_net(
    module: str, layer: str, bottoms: Mapping[str, Shape], param_str: str | None
) -> str:
    text = ""
    for name, shape in bottoms.items():
        dims = " ".join(f"dim: {extent}" for extent in shape)
        text += (
            f'layer {{ name: "{name}" type: "Input" top: "{name}" '
            f"input_param {{ shape {{ {dims} }} }} }}\n"
        )
    lines = "".join(f'  bottom: "{name}"\n' for name in bottoms)
    param = "" if param_str is None else f" param_str: {json.dumps(param_str)}"
    return text + (
        f'layer {{\n  name: "layer"\n  type: "Python"\n{lines}  top: "top"\n'
        f'  python_param {{ module: "{module}" layer: "{layer}"{param} }}\n}}\n'
    )
