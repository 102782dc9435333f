"""Counts on how many random layers of each type Caffe and its counterpart agree.

    python -m studies.layers [--cases N] [--seed S] [--only TYPE ...] [--budget SECONDS] [--record]

Every type of the catalogue that has a counterpart goes through its corners and N layers drawn from
caffe.proto: all fields of its messages, shapes, inputs; forward, backward, parameters, in the real
Caffe and in PyTorch, judged as `parity check` judges. --record adds the counts to counted.json,
from which `python -m studies.layers.page` writes docs/layers.md.
"""

from __future__ import annotations

import argparse
import time

from caffe_parity.caffe.session import SESSION
from studies.layers import page
from studies.layers.example import AGREES, IMPOSSIBLE, REFUSED, UNPROVEN
from studies.layers.search import all_fields, disagreements, searched
from studies.layers.strategies import DRAWN


def main(arguments: list[str] | None = None) -> int:
    """Prints the counts; returns 1 if an example disagrees."""
    made = argparse.ArgumentParser(prog="python -m studies.layers")
    made.add_argument("--cases", type=int, default=50, metavar="N", help="of each type (50)")
    made.add_argument("--seed", type=int, default=0, metavar="S", help="of the cases (0)")
    made.add_argument("--only", choices=list(DRAWN), nargs="+", default=list(DRAWN), metavar="TYPE")
    made.add_argument("--budget", type=float, metavar="SECONDS", help="begin no other type after")
    made.add_argument("--record", action="store_true", help="write the counts to counted.json")
    options = made.parse_args(arguments)
    start, left, wrong, total = time.monotonic(), list(options.only), 0, 0
    while left and not (options.budget and time.monotonic() - start > options.budget):
        counted = searched(left.pop(0), options.cases, options.seed)
        wrong += disagreements(counted)
        total += counted.outcomes[AGREES]
        fields = all_fields(counted.kind)
        print(
            f"{counted.kind:24} {counted.outcomes[AGREES]} agree, "
            f"{disagreements(counted)} disagree; {counted.outcomes[UNPROVEN]} unproven, "
            f"{counted.outcomes[REFUSED]} refused by Caffe, "
            f"{counted.outcomes[IMPOSSIBLE]} undefined in it; {counted.same_bits} with the same "
            f"bits, largest error {counted.worst:.2g} of its bound; {len(counted.fields)} of "
            f"{len(fields)} fields set; {counted.seconds:.0f} s",
            flush=True,
        )
        if counted.wrong:
            print(f"  {counted.wrong}")
        elif options.record:
            page.add(counted, options.seed)
    SESSION.close()
    print(f"{len(options.only) - len(left)} types: {total} cases agree, {wrong} types disagree")
    if left:
        print(f"not run, for want of time: --only {' '.join(left)}")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
