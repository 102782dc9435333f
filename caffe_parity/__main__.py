"""The command line: `parity run`, `parity check`, `parity diff` and what goes with them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

USAGE = """\
usage: parity COMMAND [options]

  run [options]     every variant against the float64 reference, in a real Caffe
                    --layer NAME, --variant NAME, --case NAME, -k EXPRESSION choose some;
                    --net FILE --layer NAME compares a net of your own; --device cuda
                    compares on a GPU; --help lists more
  check NET --reference MODULE:FUNCTION
                    any Caffe layer against any PyTorch function; --help lists the options
  recorded          the ports, or --port FILE.py:OBJECT --layer NAME, against what a real Caffe
                    computed when it was recorded; needs no Caffe, and not Linux
  diff BEFORE.json AFTER.json
                    what an edit changed, to the bit, from two reports of run or of check
  doctor [--json]   which Caffe, PyTorch, compiler and GPU there are; what cannot run and why
  install-caffe     installs a real Caffe into the cache folder, and nothing else;
                    --cuda builds one with CUDA, --pack FILE packs that for a GPU machine

exit status: 0 all agree, 1 something disagrees, 2 what was asked could not be carried out
"""


def run(arguments: list[str]) -> int:
    """The main job; further arguments are pytest's. Exits 2 where pytest means a usage error."""
    if not {"--device=cuda", "cuda"} & set(arguments):
        _launch_caffe()
    import pytest

    tests = str(Path(__file__).parents[1] / "parity_tests" / "test_parity.py")
    status = int(pytest.main([tests, "-q", "--tb=no", "-r", "", *_own_defaults(arguments)]))
    if status == pytest.ExitCode.NO_TESTS_COLLECTED:
        print(
            "parity: no comparison has that name. `parity run --collect-only -q` lists them all;"
            " --variant and --layer take whole names.",
            file=sys.stderr,
        )
    return status if status in (0, 1) else 2


def _launch_caffe() -> None:
    """Lets an installed Caffe be imported while this process imports PyTorch.

    What goes wrong here goes wrong again, and is reported, where Caffe is needed.
    """
    from caffe_impl.variants import shared_caffe
    from caffe_parity.caffe.interpreter import NoCaffe, find

    with contextlib.suppress(NoCaffe, OSError):
        find(install=False)
        shared_caffe().launch()


def _own_defaults(arguments: list[str]) -> list[str]:
    """pytest's own settings, unless the user gives others."""
    # pytest-timeout has an option --timeout, too, and no say over Caffe.
    return ["-p", "no:timeout", "-p", "parity_tests.plugin", *arguments]


def doctor(arguments: list[str]) -> int:
    """Which Caffe, PyTorch, compiler and GPU there are."""
    from caffe_parity.cli.doctor import main

    return main(arguments)


def install_caffe(arguments: list[str]) -> int:
    """Installs a real Caffe into the cache folder."""
    import argparse

    from caffe_parity.caffe import cuda_build, cuda_pack
    from caffe_parity.caffe.install import InstallError, ensure

    parser = argparse.ArgumentParser(
        prog="parity install-caffe",
        description="Install a real Caffe into the cache folder; print the folder that it is in.",
    )
    parser.add_argument("--cuda", action="store_true", help="build one with CUDA (7 minutes)")
    parser.add_argument(
        "--pack", type=Path, metavar="FILE.tar.xz", help="and pack it for a machine with a GPU"
    )
    try:
        wanted = parser.parse_args(arguments)
        if wanted.pack and not wanted.cuda:
            parser.error("--pack needs --cuda: only the Caffe with CUDA is built here")
    except SystemExit as ended:
        return int(ended.code or 0)
    try:
        if wanted.pack:
            cuda_pack.check_target(wanted.pack)
        root = cuda_build.build() if wanted.cuda else ensure()
        print(root)
        if wanted.pack:
            size = cuda_pack.pack(root, wanted.pack)
            print(f"{wanted.pack}: {size / 1e6:.1f} MB")
    except (InstallError, cuda_pack.PackError) as error:
        print(f"parity: {error}", file=sys.stderr)
        return 2
    return 0


def check(arguments: list[str]) -> int:
    """Any Caffe layer against any PyTorch function."""
    _launch_caffe()
    from caffe_parity.check.command import main as check_main

    return check_main(arguments)


def recorded(arguments: list[str]) -> int:
    """The ports against what a real Caffe computed, where no Caffe can run."""
    from parity_tests.recorded.command import main as recorded_main

    return recorded_main(arguments)


def diff(arguments: list[str]) -> int:
    """What an edit changed, from a report before it and one after it."""
    from caffe_parity.cli.diff import main as diff_main

    return diff_main(arguments)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run,
    "check": check,
    "recorded": recorded,
    "diff": diff,
    "doctor": doctor,
    "install-caffe": install_caffe,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in COMMANDS:
        try:
            return COMMANDS[given[0]](given[1:])
        except KeyboardInterrupt:
            return 130
    if given and given[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if given:
        print(f"parity: unknown command {given[0]!r}\n", file=sys.stderr)
    print(USAGE, end="", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
