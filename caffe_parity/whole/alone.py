"""A part that is wrong, on files of its own: whoever mends it needs nothing else of the net.

`LAYER.prototxt` has the layer and its inputs, `LAYER.npz` what Caffe's layer got in the net, and
`LAYER.py` what computes it in the port.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from caffe_parity.checkout import program
from caffe_parity.contract import Array32, BadRequest, Case
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.whole.judged import Comparison, Part
from caffe_parity.whole.recipe import Value, ingredients

PORT = '''"""What computes {layers} in {spec}."""

from torch import nn

from caffe_parity.cli.objects import module


class Alone(nn.Module):
    def __init__(self):
        super().__init__()
        self.{name} = module({spec!r}).get_submodule({module!r})

    def forward(self, {arguments}):
        return self.{name}({given})
'''


def must_be_new(folder: Path) -> None:
    """Checks that nothing would be overwritten.

    Raises:
        BadRequest: there are files.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadRequest(f"-o {folder}: it is there, and not empty: name a folder that is new")


def write(
    folder: Path,
    compared: Comparison,
    part: Part,
    net: CaffeNet,
    case: Case,
    spec: str,
    options: Sequence[str],
) -> str:
    """Writes the files of a part; returns the command that compares it alone, or why there is none.

    Args:
        folder: where they go.
        compared: the comparison in which it is wrong.
        part: the part.
        net: the net.
        case: its inputs.
        spec: where the port is, as the user named it.
        options: those that the net needs, such as --path.

    Raises:
        BadRequest: a file cannot be written.
    """
    found = compared.net
    stem = re.sub(r"[^\w.-]+", "_", f"{part.name}.{found.phase}")
    outside = [
        name
        for number, step in enumerate(part.steps)
        for name in step.bottoms
        if all(name not in before.tops for before in part.steps[:number])
    ]
    values = list(dict.fromkeys(outside))
    said = net.request(
        [
            {
                "op": "alone",
                "text": net.prototxt(case),
                "fed": list(case.names),
                "phase": found.phase,
                "names": [step.name for step in part.steps],
                "shapes": [list(found.values[name].shape) for name in values],
            }
        ]
    )[-1]
    arrays: dict[str, Array32] = {
        name: found.values[value] for name, value in zip(said["inputs"], values, strict=True)
    }
    params = [name for step in part.steps for name in step.params]
    arrays |= {f"param[{number}]": found.params[name] for number, name in enumerate(params)}
    arrays |= {f"diff[{top.partition(' (')[0]}]": found.diffs[top] for top in part.tops}
    prototxt, file, port = (folder / f"{stem}{kind}" for kind in (".prototxt", ".npz", ".py"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        prototxt.write_text(said["text"])
        np.savez(file, **arrays)  # type: ignore[arg-type]
        text = _port(compared, part, values, spec)
        if text:
            port.write_text(text)
    except OSError as error:
        raise BadRequest(f"-o {folder}: cannot write there: {error.strerror}") from error
    if not text:
        return f"{part.name} alone: {prototxt}, {file}; in the port it lies between modules"
    where = ["--port", f"{port}:Alone", "--inputs", str(file), "--phase", found.phase]
    return f"{program()} {shlex.join(['net', str(prototxt), *where, *options])}"


def _port(compared: Comparison, part: Part, values: Sequence[str], spec: str) -> str:
    """The file of the one module that computes a part; "" where it is not one module."""
    if len(part.calls) != 1 or part.calls[0].module == "":
        return ""
    recipe = compared.first.recipes.get(part.tops[0])
    shapes = {}
    for each in ingredients(recipe) if recipe else ():
        if isinstance(each, Value):
            shapes[each.name] = each.shape
    arguments = [f"x{number}" for number in range(len(values))]
    given = []
    for argument, value in zip(arguments, values, strict=True):
        shape = shapes.get(value)
        changed = shape is not None and shape != compared.net.values[value].shape
        said = f"{argument}.reshape({shape})" if changed else argument
        given.append(f"{said}.long()" if value in compared.net.labels else said)
    return PORT.format(
        layers=part.name,
        spec=spec,
        name=re.sub(r"\W", "_", part.steps[0].name),
        module=part.calls[0].module,
        arguments=", ".join(arguments),
        given=", ".join(given),
    )
