"""The command line: one parser with a subcommand for each job."""

from __future__ import annotations

import argparse
import difflib
import errno
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from caffe_parity.checkout import other_code, program, version
from caffe_parity.cli import add_color, unknown
from caffe_parity.errors import ParityError
from caffe_parity.terminal import CHOICE

EXIT = "exit status: 0 all agree, 1 something disagrees, 2 what was asked could not be carried out"

COMMANDS = {
    "run": "every variant of the layers in a test file against their references, in a real Caffe",
    "check": "any Caffe layer against any PyTorch function",
    "net": "a whole net against a port of it: which layers are wrong, each by itself",
    "weights": "puts the parameters of a net, such as those of a .caffemodel, into a port of it",
    "watch": "compares again as soon as a file of the layer, the net or the port is saved",
    "list": "the layers, variants and cases of a test file; the layer types that Caffe has",
    "diff": "what an edit changed, to the bit, from a report before it and one after it",
    "merge": "the reports of all shards of a run (parity run --shard) as one",
    "doctor": "which Caffe, PyTorch, compiler and GPU there are; what cannot run and why",
    "install-caffe": "installs a real Caffe into the cache folder; --cuda builds one with CUDA",
    "python": "runs Caffe's own Python; -m pip install adds a package to it",
    "completion": "the script by which bash, zsh or fish completes the words of this command",
}
"""By name, what each is for. A module of this folder (`install_caffe` for install-caffe) carries it
out: its docstring is the help; it has `EXAMPLES`, `add_arguments(parser)` and
`carried_out(options)`, which gives the exit status. It is imported only where it is asked for, so
that no answer waits for it."""


EXAMPLES = """\
  parity check my_layer.py:MyLayer --bottom x=2,3 --reference my_formula.py:loss
  parity run test_my_layer.py
  parity check --help
"""


def parser(arguments: Sequence[str], every: bool = False) -> argparse.ArgumentParser:
    """The parser for a command line: all commands, and the options of the one that is given.

    Args:
        arguments: the command line.
        every: whether all commands have their options.
    """
    made = argparse.ArgumentParser(
        prog="parity",
        description="A Caffe layer and its PyTorch counterpart, side by side.",
        epilog=f"examples:\n{EXAMPLES}\n{EXIT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--version", action=_Version, nargs=0, help="show which version this is, and where it lies"
    )
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, words in COMMANDS.items():
        if not every and name not in arguments[:1]:
            commands.add_parser(name, help=words)
            continue
        module = import_module(f"caffe_parity.cli.{name.replace('-', '_')}")
        one = commands.add_parser(
            name,
            help=words,
            description=module.__doc__,
            epilog=f"examples:\n{module.EXAMPLES}\n{getattr(module, 'EPILOG', EXIT)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=name != "run",  # --co is pytest's
        )
        module.add_arguments(one)
        if name != "python":
            add_color(one)
        one.set_defaults(carried_out=module.carried_out)
    return made


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        print(version())
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status.

    Whatever escapes from a command becomes a message and status 2 here, and nowhere else.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = "parity"
    try:
        options = _parsed(given)
        command = f"parity {options.command}"
        CHOICE.color = getattr(options, "color", "auto")
        if other := other_code():
            print(f"parity: {other}", file=sys.stderr)
        status: int = options.carried_out(options)
        sys.stdout.flush()
    except SystemExit as ended:  # of argparse
        return int(ended.code or 0)
    except (ParityError, OSError) as error:
        _say(f"{command}: {_words(error)}")
        return 2
    except MemoryError as error:
        print(
            f"{command}: there is not memory enough for inputs of that size ({error}): give "
            "smaller shapes (--bottom)",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as error:
        number = getattr(error, "signal", signal.SIGINT)
        print(f"{command}: ended by {signal.Signals(number).name}", file=sys.stderr)
        return 128 + number
    except BaseException as error:
        _say(f"{command}: {_internal(error, given)}")
        return 2
    return status


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; of `run` also those of pytest, in `more`.

    Raises:
        SystemExit: it is none, which is told; or its help was asked for.
    """
    name = given[0] if given else ""
    if name and name[0] != "-" and name not in COMMANDS:
        parser(given).error(unknown("command", name, COMMANDS))
    made = parser(given)
    for each in given if name != "python" else ():
        if each.startswith("--") and each.endswith("=--"):  # argparse makes an empty list of it
            made.error(f"{each}: expected a value")
    if name == "python" and given[1:2] not in (["-h"], ["--help"]):  # all is for Caffe's Python
        options, more = made.parse_args([name]), list(given[1:])
    else:
        options, more = made.parse_known_args(given)
    if name != "python":
        _refuse_twice(made, name, given)
    if more and options.command not in ("run", "python"):  # run's further options are pytest's
        known = [each for action in _actions(made, name) for each in action.option_strings]
        close = difflib.get_close_matches(more[0].partition("=")[0], known, 1)
        meant = f". Did you mean {close[0]}?" if close and more[0].startswith("-") else ""
        made.error(f"unrecognized arguments: {' '.join(more)}{meant}")
    options.more, options.given = more, list(given)
    options.line = f"{program()} {shlex.join(given)}"
    return options


def _say(text: str) -> None:
    """Prints to stderr, whatever names of files are in the text."""
    print(text.encode(errors="backslashreplace").decode(), file=sys.stderr)


def _refuse_twice(made: argparse.ArgumentParser, name: str, given: Sequence[str]) -> None:
    """Refuses an option with one value that is given twice: argparse takes the last, silently.

    Raises:
        SystemExit: it is; that is told.
    """
    for action in _actions(made, name):
        if not action.option_strings or isinstance(action, argparse._AppendAction):
            continue
        names = action.option_strings
        said = [each for each in given if each.partition("=")[0] in names]
        if action.nargs != 0 and len(said) > 1:
            made.error(f"{names[-1]} is given twice: {' and '.join(said)}; choose one")


def _actions(made: argparse.ArgumentParser, name: str) -> Sequence[argparse.Action]:
    """The arguments of a command."""
    (commands,) = (each for each in made._actions if isinstance(each, argparse._SubParsersAction))
    return commands.choices[name]._actions if name in commands.choices else ()


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.EBADF and error.filename is None:
        return "a file descriptor of this process was closed, by the reference or the port"
    if isinstance(error, OSError) and error.strerror:
        what = error.filename if error.filename is not None else "a file, or the output"
        return f"{what}: {error.strerror}"
    return str(error)


def _internal(error: BaseException, given: Sequence[str]) -> str:
    """What is said of an error that nobody foresaw; the details go to a file."""
    import platform
    import tempfile
    import traceback

    details = "\n".join(
        [
            version(),
            f"Python {platform.python_version()}, {platform.platform()}",
            f"parity {shlex.join(given)}",
            "".join(traceback.format_exception(error)),
        ]
    )
    said = f"internal error: {type(error).__name__}: {error}".splitlines()[0]
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="parity-error-",
            suffix=".txt",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as file:
            file.write(details)
    except OSError:
        return f"{said}\n{details}"
    return f"{said}; this is a fault of parity: please report it, with {file.name}"
