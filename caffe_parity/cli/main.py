"""The command line: one parser with a subcommand for each job."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from caffe_parity.errors import ParityError

EXIT = "exit status: 0 all agree, 1 something disagrees, 2 what was asked could not be carried out"

COMMANDS = {
    "run": "every variant of the layers in a test file against their references, in a real Caffe",
    "check": "any Caffe layer against any PyTorch function",
    "diff": "what an edit changed, to the bit, from a report before it and one after it",
    "doctor": "which Caffe, PyTorch, compiler and GPU there are; what cannot run and why",
    "install-caffe": "installs a real Caffe into the cache folder; --cuda builds one with CUDA",
}
"""By name, what each is for. A module of this folder (`install_caffe` for install-caffe) carries it
out: its docstring is the help; it has `add_arguments(parser)` and `carried_out(options)`, which
gives the exit status. It is imported only where it is asked for, so that no answer waits for it."""


def parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for a command line: all commands, and the options of the one that is given."""
    made = argparse.ArgumentParser(
        prog="parity",
        description="A Caffe layer and its PyTorch counterpart, side by side.",
        epilog=EXIT,
    )
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, words in COMMANDS.items():
        if name not in arguments[:1]:
            commands.add_parser(name, help=words)
            continue
        module = import_module(f"caffe_parity.cli.{name.replace('-', '_')}")
        one = commands.add_parser(
            name,
            help=words,
            description=module.__doc__,
            epilog=getattr(module, "EPILOG", EXIT),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(one)
        one.set_defaults(carried_out=module.carried_out)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        made = parser(given)
        options, more = made.parse_known_args(given)
        if more and options.command != "run":  # whose further options are pytest's
            made.error(f"unrecognized arguments: {' '.join(more)}")
    except SystemExit as ended:
        return int(ended.code or 0)
    options.more = more
    try:
        status: int = options.carried_out(options)
    except (ParityError, OSError) as error:
        print(f"parity {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status
