"""What a user gives for layers that the catalogue has no counterpart of."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from caffe_parity.cli.objects import load_object
from caffe_parity.contract import BadRequest
from caffe_parity.whole.declared import Declared
from caffe_parity.whole.written import Filled


@dataclass
class Filling:
    """The objects of --layer.

    Attributes:
        given: by name of layers, class of Python layers, or type: FILE.py:OBJECT.
        folder: of the port, at which the paths in it begin.
        used: those of `given` that a layer has needed.
    """

    given: Mapping[str, str]
    folder: Path
    used: set[str] = field(default_factory=set)

    @property
    def files(self) -> list[Path]:
        """The Python files that the port imports."""
        return [Path(spec.rpartition(":")[0]) for spec in self.given.values()]

    def __call__(self, layer: Declared) -> Filled | None:
        """What stands for a layer; None for nothing.

        Raises:
            BadRequest: the object cannot be had, or not be made.
        """
        names = (layer.name, layer.said.plain.get("layer", ""), layer.type)
        key = next((each for each in names if each in self.given), None)
        if key is None:
            return None
        self.used.add(key)
        file, _, name = self.given[key].rpartition(":")
        made = load_object(self.given[key], "--layer")
        relative = os.path.relpath(Path(file).resolve(), self.folder.resolve())
        code = f'from_file("{relative}", "{name}")'
        if not inspect.isclass(made):
            if not callable(made):
                raise BadRequest(f"--layer {key}={self.given[key]}: it cannot be called")
            return Filled(code, False)
        if not issubclass(made, nn.Module):
            raise BadRequest(
                f"--layer {key}={self.given[key]}: expected an nn.Module, or a function"
            )
        arguments = self._arguments(layer, made)
        try:
            module = made(**arguments)
        except Exception as error:
            raise BadRequest(
                f"--layer {key}={self.given[key]}: {name} cannot be made for layer {layer.name!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        blobs = {own: tuple(value.shape) for own, value in module.named_parameters()}
        if tuple(blobs.values()) != layer.blobs:
            own = ", ".join(f"{each} {shape}" for each, shape in blobs.items()) or "none"
            raise BadRequest(
                f"--layer {key}={self.given[key]}: {name} has the parameters {own}, layer "
                f"{layer.name!r} has {', '.join(map(str, layer.blobs)) or 'none'}"
            )
        said = ", ".join(f"{each}={value!r}" for each, value in arguments.items())
        return Filled(f"{code}({said})", True, tuple(blobs))

    def must_be_used(self) -> None:
        """Sees that each object has been put somewhere.

        Raises:
            BadRequest: there is no such layer, or the catalogue has its type.
        """
        for key in self.given:
            if key not in self.used:
                raise BadRequest(
                    f"--layer {key}={self.given[key]}: no layer without a counterpart has that "
                    "type or name"
                )

    def _arguments(self, layer: Declared, made: Any) -> dict[str, Any]:
        """What a class takes of what the layer says: `param_str`, or fields of its messages."""
        names = inspect.signature(made).parameters
        return {name: each for name, each in layer.said.plain.items() if name in names}
