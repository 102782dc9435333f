"""Counts on how many random layers of each type Caffe and its counterpart agree.

    python -m studies.layers [--cases N] [--seed S] [--only TYPE ...] [--budget SECONDS] [--record]

Every type of the catalogue that has a counterpart goes through its corners and N layers drawn from
caffe.proto: all fields of its messages, shapes, inputs; forward, backward, parameters, in the real
Caffe and in PyTorch, judged as `parity check` judges. The types take turns, by rounds of some
hundred layers. --record puts the counts into counted.json after each round, and goes on from those
that are there, if they are of the same code and seed, so that several runs come to what one would;
with other types in each, several may run at once. `python -m studies.layers.page` writes
docs/layers.md from it.
"""

from __future__ import annotations

import argparse
import time

from caffe_parity.caffe.session import SESSION
from studies.layers import page
from studies.layers.example import AGREES, IMPOSSIBLE, REFUSED, UNPROVEN
from studies.layers.search import Counted, all_fields, searched
from studies.layers.strategies import DRAWN

ROUND = 250
"""How many layers of a type are drawn before it is the next one's turn."""


def main(arguments: list[str] | None = None) -> int:
    """Prints the counts; returns 1 if an example disagrees."""
    made = argparse.ArgumentParser(prog="python -m studies.layers")
    made.add_argument("--cases", type=int, default=50, metavar="N", help="of each type (50)")
    made.add_argument("--seed", type=int, default=0, metavar="S", help="of the cases (0)")
    made.add_argument("--only", choices=list(DRAWN), nargs="+", default=list(DRAWN), metavar="TYPE")
    made.add_argument("--budget", type=float, metavar="SECONDS", help="begin no other round after")
    made.add_argument("--record", action="store_true", help="write the counts to counted.json")
    options = made.parse_args(arguments)
    found: dict[str, Counted] = {}
    start, code = time.monotonic(), page.code()
    if options.record:
        known = {kind: page.before(kind, options.seed, ROUND, code) for kind in options.only}
        found = {kind: each for kind, each in known.items() if each is not None}
    for drawn in range(0, max(options.cases, 1), ROUND):
        for kind in options.only:
            before = found.get(kind)
            if options.budget and time.monotonic() - start > options.budget:
                continue
            if before is not None and (before.wrong or before.drawn > drawn):
                continue
            number = options.seed + drawn // ROUND
            counted = searched(kind, min(ROUND, options.cases - drawn), number, counted=before)
            found[kind] = counted
            _tell(counted)
            if options.record and not counted.wrong:
                page.add(counted, options.seed, code)
    SESSION.close()
    wrong = [kind for kind, each in found.items() if each.wrong]
    total = sum(each.outcomes[AGREES] for each in found.values())
    print(f"{len(found)} types: {total} cases agree, {len(wrong)} types disagree")
    left = [kind for kind in options.only if kind not in found]
    if left:
        print(f"not run, for want of time: --only {' '.join(left)}")
    return int(bool(wrong))


def _tell(counted: Counted) -> None:
    fields = all_fields(counted.kind)
    print(
        f"{counted.kind:24} {counted.outcomes[AGREES]} agree, "
        f"{int(bool(counted.wrong))} disagree; {counted.outcomes[UNPROVEN]} unproven, "
        f"{counted.outcomes[REFUSED]} refused by Caffe, "
        f"{counted.outcomes[IMPOSSIBLE]} undefined in it; {counted.same_bits} with the same "
        f"bits, error at most {counted.worst:.2g} of its bound; {len(counted.fields)} of "
        f"{len(fields)} fields set; {counted.seconds:.0f} s",
        flush=True,
    )
    if counted.wrong:
        print(f"  {counted.wrong}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
