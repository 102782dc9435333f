"""Lists what a test file compares: its layers, their variants and cases, by the names that
`parity run` takes. Without a file: the layer types that Caffe has, and what each is in PyTorch.
"""  # noqa: D205  # argparse shows it as it stands

from __future__ import annotations

import argparse
import contextlib
import io
import textwrap
from pathlib import Path
from typing import Any

from caffe_parity.cli import path
from caffe_parity.errors import BadRequest

EXAMPLES = """\
  parity list                    the layer types that Caffe has
  parity list test_my_layer.py   layers, variants and cases
"""

WIDTH = 100  # columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity list`."""
    parser.add_argument(
        "tests", metavar="TESTS", type=path, nargs="?", help="a test file, or a folder"
    )


def carried_out(options: argparse.Namespace) -> int:
    """Prints the names; returns the exit status.

    Raises:
        BadRequest: there are no such tests, or none that compares layers.
        ParityError: there is no Caffe.
    """
    print("\n".join(_layer_types() if options.tests is None else _layers(options.tests)))
    return 0


def _layer_types() -> list[str]:
    from caffe_parity.caffe.session import SESSION
    from caffe_parity.ports import PORTS

    try:
        SESSION.start()
        assert SESSION.used is not None
        types = sorted(SESSION.used.greeting["layers"])
    finally:
        SESSION.close()
    states: dict[str, list[str]] = {}
    for each in types:
        known = f"in PyTorch {PORTS[each].state}" if each in PORTS else "without a counterpart"
        states.setdefault(known, []).append(each)
    lines = [line for state, names in states.items() for line in _wrapped(state, names)]
    return [f"{len(types)} layer types", *lines]


def _layers(tests: Path) -> list[str]:
    import pytest

    from caffe_parity.cli.run import collecting

    seen = _Seen()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main(collecting(tests), plugins=[seen])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise BadRequest(f"{tests} cannot be read:\n{said.getvalue().strip()}")
    if not seen.found:
        raise BadRequest(f"{tests} has no test with caffe_parity.parametrize")
    lines = []
    for layer, (variants, cases) in seen.found.items():
        lines += [layer, *_wrapped("variants", list(variants)), *_wrapped("cases", list(cases))]
    return lines


class _Seen:
    """A plugin of pytest that remembers what is compared: layer -> variants and cases, in order."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}

    def pytest_collection_finish(self, session: Any) -> None:
        from caffe_parity.pytest_plugin import comparison_of

        for each in filter(None, map(comparison_of, session.items)):
            layer, variant, case = each.key
            variants, cases = self.found.setdefault(layer, ({}, {}))
            variants[variant] = cases[case] = None


def _wrapped(label: str, names: list[str]) -> list[str]:
    head = f"  {label} ({len(names)}): "
    return textwrap.wrap(
        ", ".join(names),
        WIDTH,
        initial_indent=head,
        subsequent_indent="    ",
        break_on_hyphens=False,
        break_long_words=False,
    )
