"""A program on disk: case.json, arrays.npz, net.prototxt and a README; read back as data only."""

from __future__ import annotations

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_impl.variants import LAYERS as LAYERS_FOLDER
from caffe_impl.variants import CaffeVariant
from caffe_parity.contract import Array32, Case, Variant
from reference.layers import LAYERS
from studies.fuzz.execute import Finding, net_edits
from studies.fuzz.program import GRADIENTS, LAYOUTS, SHARINGS, Program, Step

FORMAT = "parity-fuzz-1"
CASE, ARRAYS, NET, README = "case.json", "arrays.npz", "net.prototxt", "README.md"


class Damaged(Exception):
    """The folder does not hold a program; the message says which file is wrong, and how."""


@dataclass(frozen=True)
class Saved:
    """What a folder holds.

    Attributes:
        layer, variant: the names of what was run.
        net: the prototxt, before the edits; "" where no Caffe is involved.
        verdict: of the run that was saved; "" where it did not come to its end.
    """

    layer: str
    variant: str
    program: Program
    net: str
    verdict: str


def write(
    folder: Path, variant: Variant, program: Program, finding: Finding | None, origin: str
) -> None:
    """Writes the program, and what came of it if that is known.

    Args:
        folder: made if need be; files of the same names are replaced.
        variant: what runs the program.
        program: what is run.
        finding: what is wrong; None before it has run.
        origin: where the program came from, for the README.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"format": FORMAT, "layer": variant.layer, "variant": variant.name}
    content |= program.described()
    if isinstance(variant, CaffeVariant):
        content["net_edits"] = net_edits(program)
        (folder / NET).write_text(variant.net(program.case))
    if finding is not None:
        content["verdict"] = finding.verdict
        content["words"] = finding.words
    np.savez(folder / ARRAYS, **program.arrays())  # type: ignore[arg-type]
    (folder / CASE).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    (folder / README).write_text(_readme(folder, variant, program, finding, origin))


def _readme(
    folder: Path, variant: Variant, program: Program, finding: Finding | None, origin: str
) -> str:
    if finding is None:
        happened = "It was about to run. If this is still here, the run did not survive it."
    else:
        happened = f"{finding.verdict}: {finding.words}"
        if finding.detail:
            happened += f"\n\n```\n{finding.detail[-4000:]}\n```"
    count = len(program.steps)
    shapes = ", then ".join(f"{step.x1.shape} and {step.x2.shape}" for step in program.steps)
    net = (
        f"- `{NET}`: the net. Edit it to try a repair. The shapes, the loss weight and what asks\n"
        f"  for gradients are put in when it runs: `net_edits` in `{CASE}`.\n"
    )
    return f"""# {variant.layer}, {variant.name}

{happened}

x1 and x2 of shape {shapes}: {count} step{"s" if count > 1 else ""} on one net. {origin}

Again, from the project's folder:

    {replay_command(folder, variant)}

Exit status 1 means that it still disagrees, 0 that it does not any more.

{net if isinstance(variant, CaffeVariant) else ""}- `{CASE}`: what is done, step by step.
- `{ARRAYS}`: the inputs of each step; `numpy.load` reads it.
"""


def replay_command(folder: Path, variant: Variant) -> str:
    """The one command that runs a folder again."""
    path = ""
    if isinstance(variant, CaffeVariant) and variant.path != (str(LAYERS_FOLDER),):
        path = "".join(f" --path {each}" for each in variant.path)
    return f"python -m studies.fuzz --replay {folder}{path}"


def read(folder: Path) -> Saved:
    """The program that a folder holds. What the files say is checked, and never executed.

    Raises:
        Damaged: a file is missing, cannot be read, or says what cannot be.
    """
    content = _json(folder / CASE)
    if _field(content, "format", str) != FORMAT:
        raise Damaged(f"{folder / CASE}: the format is {content['format']!r}, not {FORMAT!r}")
    layer = _choice(content, "layer", tuple(LAYERS))
    sharing = _choice(content, "sharing", SHARINGS)
    gradients = _choice(content, "gradients", GRADIENTS)
    arrays = _arrays(folder / ARRAYS)
    steps = _field(content, "steps", list)
    if not steps:
        raise Damaged(f"{folder / CASE}: no steps")
    wanted = _field(content, "propagate_down", list)
    if len(wanted) != 2 or not all(isinstance(each, bool) for each in wanted):
        raise Damaged(f"{folder / CASE}: propagate_down must be two booleans, got {wanted}")
    made = tuple(
        _step(folder, arrays, index, step, sharing, layer) for index, step in enumerate(steps)
    )
    case = Case(
        "fuzz",
        made[0].x1.shape,
        made[0].x2.shape,
        loss_weight=_number(content, "loss_weight"),
        propagate_down=(wanted[0], wanted[1]),
        sharing=sharing,
    )
    net = ""
    if (folder / NET).is_file():
        net = _text(folder / NET)
    return Saved(
        layer=layer,
        variant=_field(content, "variant", str),
        program=Program(case, gradients, made),
        net=net,
        verdict=str(content.get("verdict", "")),
    )


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"cannot read {file}: {error}") from error


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(file))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise Damaged(f"{file} must hold an object, got {type(content).__name__}")
    return content


def _arrays(file: Path) -> dict[str, Array32]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise Damaged(f"cannot read the arrays in {file}: {error}") from error


def _field(content: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(content.get(name), kind):
        raise Damaged(f"{CASE}: {name!r} must be a {kind.__name__}, got {content.get(name)!r}")
    return content[name]


def _choice(content: dict[str, Any], name: str, known: tuple[str, ...]) -> str:
    value: str = _field(content, name, str)
    if value not in known:
        raise Damaged(f"{CASE}: {name!r} must be one of {', '.join(known)}, got {value!r}")
    return value


def _number(content: dict[str, Any], name: str) -> float:
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Damaged(f"{CASE}: {name!r} must be a finite number, got {value!r}")
    return float(value)


def _step(
    folder: Path,
    arrays: dict[str, Array32],
    index: int,
    step: Any,
    sharing: str,
    layer: str,
) -> Step:
    if not isinstance(step, dict):
        raise Damaged(f"{folder / CASE}: step {index} must be an object, got {step!r}")
    names = ["x1"] if sharing == "same-blob" else ["x1", "x2"]
    found = []
    for name in names:
        key = f"step{index}_{name}"
        array = arrays.get(key)
        if array is None:
            raise Damaged(f"{folder / ARRAYS} has no array {key!r}")
        if array.dtype != np.float32 or array.ndim < 2 or array.size == 0:
            what = f"{array.dtype} of shape {array.shape}"
            raise Damaged(f"{folder / ARRAYS}: {key} must be float32 (N, C, ...), got {what}")
        found.append(np.ascontiguousarray(array))
    x1, x2 = found[0], found[-1]
    refused = LAYERS[layer].refuses(x1.shape, x2.shape)
    if refused:
        raise Damaged(f"{folder / ARRAYS}: step {index}: {refused}")
    layouts = _field(step, "layouts", list)
    if len(layouts) != 2 or not all(each in LAYOUTS for each in layouts):
        raise Damaged(f"{folder / CASE}: layouts must be two of {', '.join(LAYOUTS)}")
    forwards = _field(step, "forwards", int)
    poisons = _field(step, "poisons", list)
    if not 1 <= forwards <= 100 or len(poisons) > 100:
        raise Damaged(f"{folder / CASE}: step {index} runs {forwards} and {len(poisons)} times")
    made = tuple(_number({"poisons": each}, "poisons") for each in poisons)
    return Step(x1, x2, (layouts[0], layouts[1]), forwards, made)
