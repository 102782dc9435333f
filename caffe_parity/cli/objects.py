"""Finds the Python objects that a command line names, and says plainly what is wrong there."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_parity.contract import BadRequest
from caffe_parity.errors import meant
from caffe_parity.guest import ends_the_run, running
from caffe_parity.layer import Layer

if TYPE_CHECKING:
    import torch


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
    if _is_file(module_name) and not Path(module_name).is_file():
        raise BadRequest(
            f"there is no file {module_name}: {what} names a file with a function in PyTorch of "
            f"the net's inputs, such as `def {attribute}(x1, x2): ...`"
        )
    try:
        with running(module_name):
            module = _from_file(module_name) if _is_file(module_name) else _from_path(module_name)
    except BadRequest:
        raise
    except BaseException as error:  # whatever the user's module raises while it is imported
        if ends_the_run(error):
            raise
        raise BadRequest(
            f"{what} {spec!r}: {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, attribute):
        names = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise BadRequest(
            f"{what}: {module_name} has no {attribute!r}; it has "
            f"{', '.join(names) or 'none'}{meant(attribute, names)}"
        )
    return getattr(module, attribute)


def _is_file(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def _from_file(name: str) -> Any:
    file = Path(name)
    # Under a name of its own: a user's reference.py must not replace this project's package.
    name_in_python = f"parity_check_{file.stem}"
    spec = importlib.util.spec_from_file_location(name_in_python, file)
    if spec is None or spec.loader is None:
        raise BadRequest(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(file.parent.resolve())  # with its neighbours, as `python FILE` would have it
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _from_path(name: str) -> Any:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(name)


def reference(spec: str) -> Callable[..., Any] | Layer:
    """The reference: a function, or a layer with cases and a bound of its own.

    Raises:
        BadRequest: it cannot be had, or is neither.
    """
    found = load_object(spec, "--reference")
    if inspect.isclass(found):
        name = found.__name__
        raise BadRequest(
            f"--reference {spec!r} is a class: expected a function of the net's inputs, which get "
            f"there as float64; for an nn.Module: def reference(x): return {name}().double()(x)"
        )
    if not callable(found) and not isinstance(found, Layer):
        raise BadRequest(f"--reference {spec!r} is {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def port(spec: str) -> Callable[..., Any]:
    """The port: a function, an nn.Module, or a Module's class that takes no arguments.

    Raises:
        BadRequest: it cannot be had or called.
    """
    found = load_object(spec, "--port")
    if inspect.isclass(found):
        found = made(spec, found)
    if not callable(found):
        raise BadRequest(f"--port {spec!r} is {type(found).__name__}, not callable")
    return found  # type: ignore[no-any-return]


def module(spec: str) -> torch.nn.Module:
    """The port of a whole net: an nn.Module, its class, or a function that makes one.

    Raises:
        BadRequest: it cannot be had or made, or is none.
    """
    import torch

    model: Any = port(spec)
    if inspect.isfunction(model) and not any(map(_is_needed, _parameters(model))):
        model = made(spec, model)
    if not isinstance(model, torch.nn.Module):
        raise BadRequest(
            f"--port {spec!r} is {type(model).__name__}: expected an nn.Module, its "
            "class, or a function without arguments that makes it; `parity check` compares "
            "functions"
        )
    wrapped = torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel
    inner: torch.nn.Module = model.module if isinstance(model, wrapped) else model
    return inner


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def _is_needed(parameter: inspect.Parameter) -> bool:
    """Whether a call must give it."""
    several = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in several


def made(spec: str, maker: Callable[..., Any]) -> Any:
    """What a class, or a function that makes a model, gives without arguments.

    Raises:
        BadRequest: it needs some, or raises.
    """
    try:
        inspect.signature(maker).bind()
    except TypeError as error:
        raise BadRequest(
            f"--port {spec!r} is a {'class' if inspect.isclass(maker) else 'function'} that needs "
            f"arguments ({error}): name a function or a ready object instead"
        ) from error
    except ValueError:  # of what is not Python, nobody knows what it takes
        pass
    try:
        with running(f"the port {spec}"):
            return maker()
    except BaseException as error:
        if ends_the_run(error):
            raise
        raise BadRequest(
            f"--port {spec!r} cannot be made: {type(error).__name__}: {error}"
        ) from error
