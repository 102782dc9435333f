"""The command line of the search: `python -m studies.fuzz`."""

import argparse
import sys
import time
import traceback
from collections.abc import Sequence

from hypothesis import settings
from hypothesis.errors import InvalidArgument

from caffe_parity import ParityError
from caffe_parity.caffe.session import SESSION
from caffe_parity.progress import PROGRESS
from studies.fuzz.program import targets
from studies.fuzz.search import Search, search


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.fuzz",
        description="Searches for inputs that a variant computes wrongly or that Caffe does not "
        "survive. What fails is shrunk, printed and kept in .hypothesis, so that the next search "
        "tries it first. Without a finding it ends after the budget and one last example.",
        epilog="exit status: 0 nothing found, 1 something disagrees, 2 it could not be carried out",
    )
    add = parser.add_argument
    add("--budget", type=float, default=60.0, metavar="S", help="seconds for all variants (60)")
    add("--seed", type=int, default=0, metavar="N", help="decides every example (0)")
    add("--only", default="", metavar="NAME", help="only variants such as channel_sum-caffe-python")
    add("--reproduce", default="", metavar="TEXT", help="only the example that was printed so")
    return parser


def _line(done: Search) -> str:
    """One variant as it is printed; one that ran nothing must not look like one that agrees."""
    verdict = done.finding.verdict if done.finding else "nothing found"
    if not done.examples:
        verdict = "nothing ran: the budget is too small"
    return (
        f"{done.target.id:33} {done.examples:8} {done.undefined:9} {done.seconds:8.1f}  {verdict}"
    )


def _print_finding(done: Search) -> None:
    assert done.finding is not None
    print("".join(traceback.format_exception_only(done.finding)).rstrip())
    command = f"python -m studies.fuzz --only {done.target.id}"
    print(f"again here: {command}\nelsewhere:  {command} --reproduce TEXT, what is in b'...' above")


def _carried_out(options: argparse.Namespace) -> int:
    named = {each.id: each for each in targets()}
    chosen = {name: each for name, each in named.items() if options.only in name}
    able = {name: each for name, each in chosen.items() if not each.variant.cannot_run()}
    if not chosen or (options.reproduce and len(chosen) > 1):
        known = ", ".join(named)
        raise InvalidArgument(f"--only {options.only} names {len(chosen)} variants of {known}")
    SESSION.timeout = 20.0
    SESSION.start()
    end = time.monotonic() + options.budget
    print(f"seed {options.seed}, {options.budget:g} s")
    print(f"{'':33} examples  left out  seconds", flush=True)
    found = False
    for place, (name, target) in enumerate(able.items()):
        share = max(0.0, end - time.monotonic()) / (len(able) - place)
        profile = settings.get_profile("search")
        PROGRESS("searching", f"{name}, {place + 1} of {len(able)}", place / len(able))
        done = search(target, profile, share, options.seed, options.reproduce)
        if options.reproduce and not done.examples:
            raise InvalidArgument(f"--reproduce {options.reproduce} is no example of {name}")
        PROGRESS.aside()
        print(_line(done), flush=True)
        if done.finding is not None:
            _print_finding(done)
            found = True
    PROGRESS.close()
    for name, target in chosen.items():
        if obstacle := target.variant.cannot_run():
            print(f"{name}: not run: {obstacle}")
    return int(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the search; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _carried_out(options)
    except KeyboardInterrupt:
        return 130
    except (ParityError, InvalidArgument) as error:
        print(f"fuzz: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
