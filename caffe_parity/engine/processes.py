"""Spreads work over copies of this process, each with one thread.

A copy begins with all that this process has, at no cost: nothing is sent but the number of what is
to be done, and what came out. It is made by fork, so there is none where PyTorch has threads for an
accelerator, whose backward does not outlive one.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from caffe_parity.contract import BadRequest, ParityError
from caffe_parity.guest import WATCH
from caffe_parity.progress import PROGRESS

Result = TypeVar("Result")

MOST = 8
"""Processes; each holds float64 copies of what it works on."""


def useful() -> int:
    """How many copies can work side by side: as many as PyTorch has threads; 1 where none can."""
    alone = (
        torch.accelerator.is_available() or "fork" not in multiprocessing.get_all_start_methods()
    )
    return 1 if alone else min(torch.get_num_threads(), MOST)


def _give_back() -> None:
    """Gives freed memory back to the system: each copy would make it its own by using it again."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def spread(
    work: Callable[[int], Result], order: Sequence[int], processes: int
) -> Iterator[Iterator[tuple[int, Result]]]:
    """Does pieces of work, and gives what came out of each with its number, as it comes.

    Args:
        work: what is done with a number; its result is pickled.
        order: the numbers, those that take long first.
        processes: how many copies of this process work on it.

    Raises:
        ParityError: a piece raises one.
        BadRequest: a copy ended without an answer.
    """
    context = multiprocessing.get_context("fork")
    _give_back()
    copies: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(min(processes, len(order))):
            here, there = context.Pipe()
            copy: BaseProcess = context.Process(
                target=_serve, args=(work, there, [here, *copies]), daemon=True
            )
            copy.start()
            there.close()
            copies[here] = copy
        yield _answers(copies, list(order))
    finally:
        for here, copy in copies.items():
            here.close()
            copy.kill()
            copy.join()


def _answers(copies: dict[Connection, BaseProcess], left: list[int]) -> Iterator[tuple[int, Any]]:
    open_ones = list(copies)
    for here in open_ones:
        here.send(left.pop(0))
    while open_ones:
        for each in wait(open_ones):
            assert isinstance(each, Connection)
            try:
                number, result = pickle.loads(each.recv_bytes())  # noqa: S301  # a copy of this process made it
            except EOFError:
                copies[each].join()
                raise BadRequest(
                    f"a process that judged parts of the port ended with status "
                    f"{copies[each].exitcode}: there may be too little memory"
                ) from None
            if isinstance(result, ParityError):
                raise result
            if left:
                each.send(left.pop(0))
            else:
                open_ones.remove(each)
            yield number, result


def _serve(work: Callable[[int], Any], there: Connection, others: list[Connection]) -> None:
    """What a copy does: one piece of work after the other, until nobody asks any more."""
    for each in others:
        each.close()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    torch.set_num_threads(1)
    WATCH.told = lambda what: None  # whoever waits knows this process's parent
    PROGRESS.mute()
    while True:
        try:
            task = there.recv()
        except (EOFError, ConnectionResetError):
            os._exit(0)
        try:
            result: Any = work(task)
        except ParityError as error:
            result = error
        there.send_bytes(pickle.dumps((task, result)))
