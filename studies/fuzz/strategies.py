"""Hypothesis strategies for programs, smallest and plainest first, so that shrinking ends there."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from caffe_parity import CaffeNet
from caffe_parity.contract import LARGEST, SMALLEST_SUBNORMAL, Array32, Shape
from reference.cases import case_of
from reference.fills import bell, small_integers
from reference.layers import SUMMED
from studies.fuzz.defined import SMALLEST_NORMAL
from studies.fuzz.program import LAYOUTS, Program, Step, Target

_SPECIAL = (
    *(0.0, 1.0, 1.0 + 2.0**-23, 1.0 - 2.0**-24, 2.0**24),
    *(SMALLEST_SUBNORMAL, SMALLEST_NORMAL - SMALLEST_SUBNORMAL, SMALLEST_NORMAL),
    *(2.0**63, 2.0**64),  # a few squares of the first are too large, and one of the second
    *(LARGEST / 4, np.inf, np.nan),
)
SPECIAL = tuple(sign * value for value in _SPECIAL for sign in (1, -1))
"""Values at which float32 changes its ways."""

EXPONENTS = (0, -149, -130, -75, -63, -20, 20, 50, 62, 64, 100)
"""Powers of two that bell-shaped values are scaled with, so that they, their squares or their
gradients lie where float32 ends."""

WEIGHTS = (1.0, 2.0, -2.0, 0.25, 3.7, 0.0)

ODD_WEIGHTS = tuple(2.0**exponent for exponent in (-149, -148, -127, -126, -60, 60, 100, 127))
"""Loss weights with which a gradient underflows or overflows, though nothing else does."""

POISONS: tuple[float, ...] = (1.0, 0.0, -3.5, 2.0**100)
"""Finite, and small enough for twice of it: see `caffe_parity.engine.plan.HUGE`."""

THRESHOLDS = (13, 127, 128, 257, 511, 512, 513, 1023, 1024, 1025, 1031, 2048, 2049)
"""Extents at, below and above powers of two, and primes."""

FIXED_CHANNELS = ("caffe-convolution", "caffe-slice-eltwise")
"""Variants whose net fixes the number of axes and channels when it is made, as Caffe's Convolution
and Slice do."""


@st.composite
def shapes(draw: st.DrawFn, target: Target) -> tuple[Shape, Shape]:
    """The shapes of x1 and x2 that the target's layer is defined for."""
    rarely = 127 if _refuses_five_axes(target) else 7  # refusing ends Caffe, which costs a second
    axes = draw(st.integers(5, 6) if draw(st.integers(0, rarely)) == 7 else st.integers(2, 4))
    extent = st.integers(1, 5)
    x1 = [draw(extent) for _ in range(axes)]
    kind = draw(st.integers(0, 7))
    if kind == 7:  # one long axis: long sums, many samples, large images
        x1[draw(st.integers(0, axes - 1))] = draw(st.integers(6, 300))
    elif kind == 6:  # where code changes its ways; the others are short, since it costs time
        x1 = [min(each, 2) for each in x1]
        x1[draw(st.integers(0, axes - 1))] = draw(st.sampled_from(THRESHOLDS))
    elif kind == 5:  # extents that are alike: N and C, H and W, any two, all
        like = draw(st.integers(0, axes - 1))
        for axis in draw(st.sets(st.integers(0, axes - 1), min_size=1)):
            x1[axis] = x1[like]
    x2 = list(x1)
    if not draw(st.booleans()):
        return tuple(x1), tuple(x2)
    summed = SUMMED[target.layer.name]
    if summed == "channel":
        x2[1] = draw(st.integers(1, 9))
    elif summed == "tail":
        x2[1:] = draw(st.lists(extent, min_size=1, max_size=4))
    return tuple(x1), tuple(x2)


def _refuses_five_axes(target: Target) -> bool:
    expectation = target.variant.expects(case_of("five-axes", (1, 1, 1, 1, 1)))
    return expectation is not None and expectation.kind == "refused"


@st.composite
def next_shapes(
    draw: st.DrawFn, target: Target, before: tuple[Shape, Shape], same: bool
) -> tuple[Shape, Shape]:
    """What the net may be reshaped to: anything, or another batch and image where that is fixed.

    `before` are the shapes until now; `same` says that x2 is x1.
    """
    change = draw(st.integers(0, 2))
    if change == 0:
        return before
    if change == 1 and target.name not in FIXED_CHANNELS:
        x1, x2 = draw(shapes(target))
        return x1, x1 if same else x2
    samples = draw(st.integers(1, 5))
    spatial = tuple(draw(st.integers(1, 5)) for _ in before[0][2:])
    x1 = (samples, before[0][1], *spatial)
    if len(before[0]) == len(before[1]):
        x2 = (samples, before[1][1], *spatial)
    else:  # tail sums only
        x2 = (samples, *before[1][1:])
    return x1, x1 if same else x2


@st.composite
def values(draw: st.DrawFn, shape: Shape) -> Array32:
    """An array: zeros, small integers, single elements, or many bell-shaped values."""
    kind = draw(st.sampled_from(("zeros", "integers", "bell", "one special", "elements")))
    size = int(np.prod(shape))
    if kind == "zeros":
        return np.zeros(shape, np.float32)
    if kind == "integers":
        return small_integers(shape, np.random.RandomState(draw(st.integers(0, 999))))
    if kind == "elements" and size <= 64:
        element = draw(
            st.sampled_from(
                (
                    st.integers(-3, 3).map(float),
                    st.floats(-1000, 1000, width=32),
                    st.floats(-LARGEST / 4, LARGEST / 4, width=32),
                    st.sampled_from(SPECIAL) | st.floats(-1, 1, width=32),
                )
            )
        )
        drawn: Array32 = draw(hnp.arrays(np.float32, shape, elements=element))
        return drawn
    rng = np.random.RandomState(draw(st.integers(0, 999)))
    array = np.ldexp(bell(shape, rng), draw(st.sampled_from(EXPONENTS))).astype(np.float32)
    if kind == "one special":
        array.reshape(-1)[draw(st.integers(0, size - 1))] = draw(st.sampled_from(SPECIAL))
    return array


@st.composite
def steps(draw: st.DrawFn, both: tuple[Shape, Shape], sharing: str, backward: bool) -> Step:
    """One step with inputs of these shapes."""
    shape1, shape2 = both
    x1 = draw(values(shape1))
    if sharing == "same-blob":
        x2 = x1
    elif shape1 == shape2 and (relation := draw(st.integers(0, 3))) >= 2:
        if relation == 3:
            x2 = x1.copy()  # d is 0, however large the sums
        else:  # d is small, and every bit of the sums counts
            rng = np.random.RandomState(draw(st.integers(0, 999)))
            x1 = rng.randint(0, 2**12 + 1, shape1).astype(np.float32)
            x2 = x1[:, ::-1] + rng.randint(-1, 2, shape1).astype(np.float32)
    else:
        x2 = draw(values(shape2))
    layouts = draw(st.tuples(*[st.sampled_from(tuple(LAYOUTS))] * 2))
    forwards = draw(st.integers(1, 2))
    held = draw(st.lists(st.sampled_from(POISONS), min_size=1, max_size=2)) if backward else []
    return Step(x1, x2, layouts, forwards, tuple(held))


@st.composite
def programs(draw: st.DrawFn, target: Target) -> Program:
    """A program for a target; whether it is one to run, `defined.is_defined` says."""
    sharing = draw(st.sampled_from(("none", "same-blob", "split")))
    first = draw(shapes(target))
    if sharing == "same-blob":
        first = (first[0], first[0])
    wanted = draw(st.sampled_from((("x1", "x2"), ("x1",), ("x2",))))
    if sharing != "none" and "x1" not in wanted:  # what is shared is x1, and so is its gradient
        wanted = ("x1", "x2")
    ways = ["asked"]
    if isinstance(target.variant, CaffeNet):
        ways += ["none"] + (["forced"] if wanted == ("x1", "x2") else [])
    gradients = draw(st.sampled_from(ways))
    weight = draw(
        st.sampled_from(WEIGHTS)
        | st.sampled_from(ODD_WEIGHTS)
        | st.floats(0, 2.0**-140, width=32)
        | st.floats(-10, 10)
        | st.floats(-LARGEST, LARGEST, width=32, allow_nan=False)
    )
    case = case_of("fuzz", *first, loss_weight=weight, gradients=wanted, sharing=sharing)
    drawn: list[Step] = []
    both = first
    for index in range(draw(st.integers(1, 3))):
        if index:
            both = draw(next_shapes(target, both, sharing == "same-blob"))
        drawn.append(draw(steps(both, sharing, gradients != "none")))
    return Program(case, gradients, tuple(drawn))
