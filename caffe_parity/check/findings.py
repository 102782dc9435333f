"""Compares an observation with what is expected, and names what is wrong by stable codes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from caffe_parity.check.observe import HUGE, ONE, Arrays, Observation
from caffe_parity.contract import Array32, Array64, Case, Inputs
from caffe_parity.engine.explain import Failure, explain
from caffe_parity.engine.random_rounding import GRADIENT, Expected
from reference.rounding import UNIT_ROUNDOFF

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        code: a stable word, such as "ignores-top-diff" or "gradient:x1".
        words: what it means.
    """

    code: str
    words: str


def wrong(actual: Array32, expected: Array64, bound: Array64) -> Bools:
    """Which elements lie beyond their bound; NaN agrees with NaN only."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(actual.astype(np.float64) - expected)
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        finite = np.isfinite(actual) | ~np.isfinite(expected)
        fine: Bools = same | ((error <= bound) & finite)
    return ~fine


def findings(
    seen: Observation,
    expected: Sequence[Expected],
    inputs: Arrays,
    is_loss: bool,
    params: Collection[str] = (),
) -> Iterator[Finding]:
    """Everything that is wrong in one case.

    Args:
        seen: what Caffe did.
        expected: the truth for each upstream gradient.
        inputs: the case.
        is_loss: whether the upstream gradient is a loss weight.
        params: which of the gradients are those of parameters.
    """
    shape = next(iter(inputs.values())).shape
    yield from _mutations(seen, inputs, params)
    yield from _forward(seen, expected[0], shape)
    for name in seen.diffs[0]:
        if name in params:
            yield from _param_gradient(name, seen, expected, is_loss, shape)
        else:
            yield from _gradient(name, seen, expected, is_loss)


def _mutations(seen: Observation, inputs: Arrays, params: Collection[str]) -> Iterator[Finding]:
    for when, data in (("forward", seen.after_forward), ("backward", seen.after_backward)):
        for name, value in data.items():
            if not np.array_equal(value, inputs[name], equal_nan=True):
                code, what = ("param", "parameter") if name in params else ("bottom", "bottom")
                words = f"the {when} overwrites its own {what} {name}"
                yield Finding(f"mutates-{code}:{name}", words)


def _forward(seen: Observation, expected: Expected, shape: tuple[int, ...]) -> Iterator[Finding]:
    for name, actual in seen.tops.items():
        truth, bound = expected.truth[name], expected.bound[name]
        if not np.any(wrong(actual, truth, bound)):
            if np.any(wrong(seen.second_tops[name], truth, bound)):
                yield Finding("stale-state", f"a second pass gives another {name} than the first")
            continue
        warm = seen.warm_up[name]
        if np.array_equal(actual, warm) and warm.size and not np.array_equal(warm, truth):
            yield Finding("stale-state", f"{name} is the one of the pass before, with other inputs")
            continue
        yield Finding(
            "forward-value",
            _explained(name, truth, bound, actual, shape=shape if truth.size == 1 else ()),
        )


def _gradient(
    name: str, seen: Observation, expected: Sequence[Expected], is_loss: bool
) -> Iterator[Finding]:
    key = GRADIENT + name
    truth, bound = expected[0].truth[key], expected[0].bound[key]
    first = seen.diffs[0][name]
    off = wrong(first, truth, bound)
    again = seen.again[name]
    held = np.any(off) and np.all(first[off] == np.float32(HUGE)) and np.all(again[off] == ONE)
    if held:
        yield Finding(f"unwritten-diff:{name}", _unwritten(name, off))
        return
    if _accumulates(again, truth, bound):
        words = f"the diff of {name} is added to what it held (`+=`): it must be overwritten"
        yield Finding(f"accumulates-diff:{name}", words)
        return
    found = list(_first_backwards(name, seen, expected, is_loss, again))
    yield from found
    if found:
        return
    if np.any(wrong(again, truth, bound)):
        yield Finding("stale-state", f"a second backward gives another gradient of {name}")
    elif np.any(wrong(seen.second_diffs[name], truth, bound)):
        yield Finding("stale-state", f"a second pass gives another gradient of {name}")


def _param_gradient(
    name: str,
    seen: Observation,
    expected: Sequence[Expected],
    is_loss: bool,
    shape: tuple[int, ...],
) -> Iterator[Finding]:
    """Parameter diffs are added to: Caffe sets them to 0 itself, once for iter_size backwards."""
    key = GRADIENT + name
    truth, bound = expected[0].truth[key], expected[0].bound[key]
    first, again = seen.diffs[0][name], seen.again[name]
    off = wrong(first, truth, bound)
    if np.any(off) and not np.any(first[off]) and not np.any(again[off]):
        yield Finding(f"unwritten-diff:{name}", _unwritten(name, off))
        return
    found = list(_first_backwards(name, seen, expected, is_loss, None, shape))
    yield from found
    if found:
        return
    if np.any(wrong(again, 2 * truth, 2 * bound + 4 * UNIT_ROUNDOFF * np.abs(truth))):
        if np.any(wrong(again, truth, bound)):
            yield Finding("stale-state", f"a second backward gives another gradient of {name}")
        else:
            words = (
                f"the diff of {name} is overwritten: it must be added to (`+=`), or all but the "
                "last of iter_size batches, and of layers that share it, are lost"
            )
            yield Finding(f"overwrites-param-diff:{name}", words)
    elif np.any(wrong(seen.second_diffs[name], truth, bound)):
        yield Finding("stale-state", f"a second pass gives another gradient of {name}")


def _first_backwards(
    name: str,
    seen: Observation,
    expected: Sequence[Expected],
    is_loss: bool,
    again: Array32 | None,
    shape: tuple[int, ...] = (),
) -> Iterator[Finding]:
    """What the first backward of each upstream gradient has wrong; `again` as in `_explained`."""
    key = GRADIENT + name
    truth, bound = expected[0].truth[key], expected[0].bound[key]
    first = seen.diffs[0][name]
    off = wrong(first, truth, bound)
    if _ignores(name, seen, expected):
        what = "the same at every loss weight" if is_loss else "the same for every top diff"
        yield Finding(
            "ignores-top-diff", f"the gradient of {name} is {what}: top[0].diff is unused"
        )
        if not is_loss or not np.any(off):
            return
    if np.any(off):
        if np.array_equal(first, seen.warm_up[key]) and np.any(first):
            yield Finding("stale-state", f"the gradient of {name} is the one of the pass before")
            return
        words = _explained("d" + name, truth, bound, first, again, shape)
        yield Finding(f"gradient:{name}", words)
        return
    for index in range(1, len(expected)):
        later = seen.diffs[index][name]
        if np.any(wrong(later, expected[index].truth[key], expected[index].bound[key])):
            words = f"the gradient of {name} is right for one top diff and wrong for another"
            yield Finding(f"gradient:{name}", words)
            return


def _accumulates(again: Array32, truth: Array64, bound: Array64) -> bool:
    """Whether the diff that held 1 now holds 1 more than it should, everywhere."""
    sum_ = ONE + truth
    room = bound + 4 * UNIT_ROUNDOFF * np.abs(sum_)
    room = np.where(np.isfinite(room), room, 0.25)  # at kinks, where the gradient is not known
    plain = np.abs(again - truth) <= np.where(np.isfinite(bound), bound, 0.25)
    return bool(again.size and np.all(np.abs(again - sum_) <= room) and not np.all(plain))


def _ignores(name: str, seen: Observation, expected: Sequence[Expected]) -> bool:
    key = GRADIENT + name
    diffs = [each[name] for each in seen.diffs]
    if not np.any(diffs[0]) or np.all(diffs[0] == np.float32(HUGE)):
        return False
    same = all(np.array_equal(diffs[0], each) for each in diffs[1:])
    differs = any(
        not np.array_equal(expected[0].truth[key], each.truth[key]) for each in expected[1:]
    )
    return same and differs


def _unwritten(name: str, off: Bools) -> str:
    if off.all():
        return f"the diff of {name} is never written"
    return f"{np.count_nonzero(off)} of {off.size} elements of {name}'s diff are never written"


def _explained(
    tensor: str,
    truth: Array64,
    bound: Array64,
    actual: Array32,
    again: Array32 | None = None,
    shape: tuple[int, ...] = (),
) -> str:
    """What a wrong tensor means, in the words of caffe_parity.engine.explain.

    Args:
        tensor: its name; with `again`, a gradient's, "d" + input.
        truth: what is expected.
        bound: how far rounding may carry it.
        actual: what was computed.
        again: what a second backward computed into a diff that held ONE.
        shape: of the input that its normaliser may come from; () for the tensor's own.
    """
    shape = shape or truth.shape
    shape = (*shape, 1, 1) if len(shape) < 2 else shape
    if truth.size == 1:  # a loss, whose words need no index
        truth, bound, actual = truth.reshape(()), bound.reshape(()), actual.reshape(())
    dummy = np.zeros(shape, np.float32)
    failure = Failure(
        tensor=tensor,
        layer="",
        case=Case(tensor, shape, shape),
        inputs=Inputs(dummy, dummy),
        expected=truth,
        # At a kink the gradient is not known; what stands there must not decide on a hypothesis.
        bound=np.where(np.isfinite(bound), bound, np.inf),
        passes={"first": actual, "second": again},
        poisons={"first": HUGE, "second": ONE},
        failed_pass="first",  # noqa: S106  # the name of a pass
        before=None,
    )
    return explain(failure).words


def port_findings(
    results: Mapping[str, npt.NDArray[np.floating]],
    expected: Expected,
    shape: tuple[int, ...],
    params: Collection[str] = (),
) -> Iterator[Finding]:
    """What is wrong with a port's tops and gradients (named GRADIENT + input).

    Args:
        results: of the port.
        expected: the truth.
        shape: of the first input.
        params: which of the gradients are those of parameters.
    """
    parameters = {GRADIENT + name for name in params}
    for key, actual in results.items():
        truth, bound = expected.truth[key], expected.bound[key]
        if actual.shape != truth.shape:
            what = f"has shape {actual.shape}, the reference's {truth.shape}"
            yield Finding(_port_code(key), f"the port's {_spoken(key)} {what}")
            continue
        off = wrong(actual.astype(np.float32), truth, bound)
        if np.any(off):
            own = truth.size != 1 and key not in parameters
            words = _explained(
                _spoken(key), truth, bound, actual.astype(np.float32), shape=() if own else shape
            )
            yield Finding(_port_code(key), f"in the port, {words}")


def _spoken(key: str) -> str:
    """A tensor's name in a sentence: dx1 for the gradient of x1."""
    return key.replace(GRADIENT, "d", 1)


def _port_code(key: str) -> str:
    return f"port-{key}" if key.startswith(GRADIENT) else "port-forward"
