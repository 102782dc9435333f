"""What a converted layer calls to compute as in Python 2; copied beside it, for Python 3.6 and up.

Python 2's `/` rounds down where both sides are integers, Python's or NumPy's
(https://docs.python.org/2/reference/expressions.html#binary-arithmetic-operations).
"""

import importlib
import sys
from functools import reduce
from typing import Any

import numpy as np

__all__ = ["divided", "divided_in_place", "intern", "reduce", "reload"]

intern = sys.intern
reload = importlib.reload


def divided(left: Any, right: Any) -> Any:
    """Python 2's left / right."""
    if _is_integer(left) and _is_integer(right):
        return left // right
    return left / right


def divided_in_place(left: Any, right: Any) -> Any:
    """What Python 2's left /= right makes of left; an array stays the same one."""
    if _is_integer(left) and _is_integer(right):
        left //= right
    else:
        left /= right
    return left


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) or (
        isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "biu"
    )
