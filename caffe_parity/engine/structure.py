"""Which tops of a net are compared with what a reference returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from caffe_parity.contract import (
    PARAM,
    TOTAL,
    BadRequest,
    Case,
    Outline,
    Structure,
    is_state,
)
from caffe_parity.engine.expected import all_inputs, fed
from caffe_parity.engine.functions import result_of, with_params
from caffe_parity.engine.random_rounding import as_inputs
from caffe_parity.layer import Layer


def structure_of(layer: Layer, case: Case, outline: Outline | None) -> Structure:
    """What is compared of a variant.

    A reference may give all tops, the losses alone, or one number for the sum of several losses
    with their weights. What has no loss weight, beside a loss that has one, is compared, and gets
    no upstream gradient.

    Args:
        layer: with the reference.
        case: its inputs.
        outline: of the net; None for a port alone, whose tops are what the reference returns.

    Raises:
        BadRequest: the reference cannot be evaluated, or returns what no top is compared with.
    """
    if outline is not None:
        wanted = tuple(f"{each}[" for each in layer.arguments)
        params = tuple(each for each in outline.params if each.name.startswith(wanted))
        outline = replace(outline, params=params)
        if layer.bound is not None and outline.tops == outline.losses and len(outline.tops) == 1:
            return _made(outline, outline.losses, is_loss=True)
    result = _result(layer, case, outline)
    if outline is None:
        return _by_reference(result)
    if isinstance(result, Mapping):
        return _named(outline, result)
    if isinstance(result, (tuple, list)):
        return _counted(outline, len(result))
    one_number = isinstance(result, torch.Tensor) and result.numel() == 1
    if len(outline.losses) > 1 and one_number:
        return _made(outline, (TOTAL,), is_loss=True)
    outputs = outline.losses if len(outline.losses) == 1 else outline.tops
    if len(outputs) != 1:
        raise _other_number(outline, "1 tensor" if isinstance(result, torch.Tensor) else "none")
    alone = one_number and not outline.losses
    untrained = alone and not outline.bare
    return _made(outline, outputs, is_loss=alone or bool(outline.losses), untrained=untrained)


def tops_of_reference(layer: Layer, case: Case, outline: Outline | None) -> tuple[str, ...]:
    """The names of as many tops as the reference returns: the keys of a dict, or top0, top1, ...

    Raises:
        BadRequest: the reference cannot be evaluated.
    """
    result = _result(layer, case, outline)
    if isinstance(result, Mapping):
        return tuple(map(str, result))
    if isinstance(result, (tuple, list)) and len(result) > 1:
        return tuple(f"top{number}" for number in range(len(result)))
    return ("top",)


def _made(
    outline: Outline, outputs: tuple[str, ...], *, is_loss: bool, untrained: bool = False
) -> Structure:
    states = {each.name for each in outline.params if is_state(each.name)}
    without = set(outputs) - {*outline.losses, TOTAL} if outline.losses else states & set(outputs)
    if set(outputs) - without - outline.undriven:
        without |= outline.undriven & set(outputs)
    return Structure(
        outputs,
        is_loss,
        outline.params,
        frozenset(without),
        untrained,
        outline.in_place,
        () if states and states <= set(outputs) else outline.keep_statistics,
        outline.running,
    )


def _result(layer: Layer, case: Case, outline: Outline | None) -> Any:
    params = outline.params if outline else ()
    for argument in layer.arguments:
        if not any(each.name.startswith(argument) for each in params):
            what = "parameter blobs" if argument == PARAM else "running statistics that it writes"
            where = f"no layer of the net has {what}" if outline else "only a net has them"
            raise BadRequest(f"the reference takes `{argument}`, but {where}")
    arrays = {**fed(case, case.arrays(case)), **case.parameters(params, False)}
    function = with_params(layer.reference, params, "reference")
    return result_of(function, all_inputs(case, as_inputs(arrays)), "reference")


def _by_reference(result: Any) -> Structure:
    is_loss = isinstance(result, torch.Tensor) and result.numel() == 1
    if isinstance(result, Mapping):
        return Structure(tuple(result), False)
    if isinstance(result, (tuple, list)):
        return Structure(tuple(f"top{index}" for index in range(len(result))), False)
    return Structure(("loss",) if is_loss else ("top",), is_loss)


def _named(outline: Outline, result: Mapping[str, Any]) -> Structure:
    missing = [name for name in outline.losses or outline.tops if name not in result]
    if missing:
        raise BadRequest(f"the reference returns no {missing}; the net's tops are {outline.tops}")
    known = [*outline.tops, *(each.name for each in outline.params if is_state(each.name))]
    extra = [name for name in result if name not in known]
    if extra:
        raise BadRequest(
            f"the reference returns {', '.join(map(repr, extra))}, which would be compared with "
            f"nothing: the net's tops are {', '.join(known)}"
        )
    outputs = tuple(name for name in known if name in result)
    return _made(outline, outputs, is_loss=len(outline.losses) == 1)


def _counted(outline: Outline, count: int) -> Structure:
    for outputs in (outline.tops, outline.losses):
        if len(outputs) == count:
            return _made(outline, outputs, is_loss=len(outline.losses) == 1)
    raise _other_number(outline, f"{count} value{'s' * (count != 1)}")


def _other_number(outline: Outline, returned: str) -> BadRequest:
    total = ", or their weighted sum as one number" if len(outline.losses) > 1 else ""
    count = f"{len(outline.tops)} top{'s' * (len(outline.tops) != 1)}"
    return BadRequest(
        f"the reference must return the net's {count} ({', '.join(outline.tops)}) as a tensor, a "
        f"tuple or a dict{total}; it returned {returned}"
    )
