"""Keeps PyTorch from spreading work over threads that costs more to spread than to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

SMALL = 1 << 20
"""Elements below which PyTorch's threads cost more than they bring: on a busy machine each waits
for the others, and an operation of microseconds takes milliseconds."""


@contextlib.contextmanager
def one_thread(elements: int) -> Iterator[None]:
    """Keeps PyTorch to one thread while something small runs.

    Args:
        elements: of its largest array.
    """
    threads = torch.get_num_threads()
    if elements <= SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
