"""Nets of normal Caffe use agree with their references, and no breakage of them does."""

from __future__ import annotations

import pytest

from caffe_parity.caffe.client import Caffe
from studies import false_alarms
from studies.false_alarms import NETS, TABLE, Answer, Breakage, net_of


@pytest.mark.parametrize("name", TABLE)
def test_net_has_its_answer_and_a_broken_one_another(caffe: Caffe, name: str) -> None:
    """One seed of each has its answer, and so has the first of its breakages."""
    net = net_of(name, cases=1)
    assert not false_alarms.alarms(net, net.run())
    [first, *_] = false_alarms.answers(net, only=1)
    assert first.caught, first.found


def test_every_net_is_in_the_table_and_can_be_broken() -> None:
    """25 nets or more, each with five breakages or more, whose pieces are there."""
    assert set(TABLE) == {file.stem for file in NETS.glob("*.prototxt")}
    assert len(TABLE) >= 25
    for name in TABLE:
        net = net_of(name, cases=1)
        assert len(net.breakages) >= 5
        for number in range(len(net.breakages)):
            with net.broken(number) as spoilt:
                assert spoilt.texts != net.texts


@pytest.mark.parametrize(
    ("found", "agrees", "caught"),
    [
        (("forward-value",), False, True),
        (("gradient:x",), False, False),
        (("forward-value",), True, False),
        ((), False, False),
    ],
)
def test_caught_is_what_disagrees_under_its_code(
    found: tuple[str, ...], agrees: bool, caught: bool
) -> None:
    """Neither another code nor an exit status of 0 will do."""
    breakage = Breakage("relu", "tanh", "forward-value")
    assert Answer(breakage, found, agrees).caught == caught
