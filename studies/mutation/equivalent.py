"""Generated mutants that change nothing that can be observed, and why: no test can find them."""

_ONLY_A_SHORTCUT = "only a shortcut: what it saves is computed, with the same result"
_SECOND_ORDER = "of second order in u: less than the margin of _ORACLE"

_FINITE = "if -limit < np.min(expected) and np.max(expected) < limit:"
_SAME = "if a.shape != b.shape or a.dtype != b.dtype:"
_BOTH = "dx1 = 2 * dx + 2 * UNIT_ROUNDOFF * (scale * d + dx)"
_SPLIT = "dx1 = dx + UNIT_ROUNDOFF * (scale * d + dx + SHARED_GRADIENT)"

EQUIVALENT: dict[str, dict[str, str]] = {
    "caffe_parity/engine/compare.py": {
        "@dataclass(frozen=True) -> @dataclass(frozen=False)": "nobody assigns to a field",
        f"{_FINITE} -> {_FINITE.replace('-limit', 'limit')}": _ONLY_A_SHORTCUT,
        "proves=largest == 0 or bool(np.nanmax(worst, initial=0.0) < largest), -> "
        "proves=largest == 0 or bool(np.nanmax(worst, initial= -1.0) < largest),": (
            "no bound is negative"
        ),
        "if worst is None or _rank(agreement) > _rank(worst): -> "
        "if worst is None or _rank(agreement) >= _rank(worst):": "either of two equals will do",
        f"{_SAME} -> {_SAME.replace('if ', 'if not ')}": _ONLY_A_SHORTCUT,
        f"{_SAME} -> {_SAME.replace('a.shape !=', 'a.shape ==')}": _ONLY_A_SHORTCUT,
        f"{_SAME} -> {_SAME.replace('a.dtype !=', 'a.dtype ==')}": _ONLY_A_SHORTCUT,
        f"{_SAME} -> {_SAME.replace(' or ', ' and ')}": (
            "arrays that differ in shape or type differ in their integers, too"
        ),
    },
    "reference/rounding.py": {
        "_ORACLE = 1.0 + 2.0**-20 -> _ORACLE = 1.0 + 2.0**- 21": "another margin does as well",
        "return bool(total > LARGEST) -> return bool(total >= LARGEST)": (
            "no inputs are known for which the two are equal"
        ),
        "dx = scale * (growth(4) * (d + error) + error) + underflow -> "
        "dx = scale * (growth(4) * (d - error) + error) + underflow": _SECOND_ORDER,
        f"{_BOTH} -> {_BOTH.replace('d + dx', 'd - dx')}": _SECOND_ORDER,
        f"{_SPLIT} -> {_SPLIT.replace('d + dx', 'd - dx')}": _SECOND_ORDER,
    },
}
"""By file: the changed line, as `before -> after`, and the reason."""
