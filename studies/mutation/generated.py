"""Mutants that cosmic-ray makes, for the two files that decide: the comparison and the bound.

    tox -e mutants-generated [-- --budget S]

The catalogue holds the bugs that somebody thought of. Here a tool changes every operator,
comparison, constant, condition and loop of a file in turn; the runner and the tests that must find
it are the catalogue's. A mutant that changes nothing that can be observed is listed in `EQUIVALENT`
with the reason; an entry there that no mutant needs any more is an error.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import sys
import time
from collections.abc import Iterator, Sequence

from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

from studies.mutation.__main__ import add_run_options, line, status, summary
from studies.mutation.catalogue import Judge, Mutant, own_tests
from studies.mutation.equivalent import EQUIVALENT
from studies.mutation.runner import ROOT, CatalogueError, run, spread

JUDGES: dict[str, Judge] = {
    "caffe_parity/engine/compare.py": own_tests(
        "test_compare.py", "test_mutation.py", "-k", "test_compare or verdict"
    ),
    "reference/rounding.py": own_tests("test_compare.py", "test_rounding.py"),
}
"""The files, and what must find a mutant of each."""

OPERATORS = (
    "ReplaceBinaryOperator_Add_Sub",
    "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBinaryOperator_Mul_Div",
    "ReplaceBinaryOperator_Div_Mul",
    "ReplaceBinaryOperator_Pow_Mul",
    "ReplaceBinaryOperator_BitOr_BitAnd",
    "ReplaceBinaryOperator_BitAnd_BitOr",
    "ReplaceComparisonOperator_Eq_NotEq",
    "ReplaceComparisonOperator_NotEq_Eq",
    "ReplaceComparisonOperator_Lt_LtE",
    "ReplaceComparisonOperator_Lt_GtE",
    "ReplaceComparisonOperator_LtE_Lt",
    "ReplaceComparisonOperator_LtE_Gt",
    "ReplaceComparisonOperator_Gt_GtE",
    "ReplaceComparisonOperator_Gt_LtE",
    "ReplaceComparisonOperator_GtE_Gt",
    "ReplaceComparisonOperator_GtE_Lt",
    "ReplaceComparisonOperator_Is_IsNot",
    "ReplaceComparisonOperator_IsNot_Is",
    "ReplaceUnaryOperator_Delete_USub",
    "ReplaceUnaryOperator_Delete_Invert",
    "ReplaceUnaryOperator_Delete_Not",
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "NumberReplacer",
    "ZeroIterationForLoop",
)
"""Of each of cosmic-ray's kinds one replacement: + by - says all that + by % would."""


def generated(file: str) -> Iterator[Mutant]:
    """All mutants of a file of the project, none twice."""
    source = (ROOT / file).read_text()
    seen = {_meaning(source)}
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        number = 0
        while (text := mutate_code(source, operator, number)) is not None:
            number += 1
            meaning = _meaning(text)
            if meaning not in seen:
                seen.add(meaning)
                short = f"{file.rpartition('/')[2]}-{name}-{number}"
                yield Mutant(short, file, file, source, text, _change(source, text), JUDGES[file])


def _meaning(source: str) -> str:
    """A text that is equal for sources that do the same: annotations are left out.

    An edit that is no Python any more has the meaning of none.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def _change(source: str, text: str) -> str:
    """The changed line: `before -> after`."""
    lines = difflib.ndiff(source.splitlines(), text.splitlines())
    changed = [each for each in lines if each[0] in "-+"]
    before, after = (
        " ".join(each[2:].strip() for each in changed if each[0] == sign) for sign in "-+"
    )
    return f"{before} -> {after}"


def chosen(files: Sequence[str]) -> tuple[list[Mutant], int]:
    """The mutants to run, and how many are left out as equivalent.

    Raises:
        CatalogueError: an entry of `EQUIVALENT` fits no mutant.
    """
    wanted: list[Mutant] = []
    left_out = 0
    for file in files:
        reasons = dict(EQUIVALENT[file])
        met = set()
        for mutant in generated(file):
            if mutant.bug in reasons:
                met.add(mutant.bug)
                left_out += 1
            else:
                wanted.append(mutant)
        for change in reasons:
            if change not in met:
                raise CatalogueError(f"no mutant of {file} is this one any more: {change}")
    return wanted, left_out


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the mutants; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="studies.mutation.generated",
        description="Changes one operator, constant or condition at a time: each must be found.",
        epilog="exit status: 0 every mutant that ran was killed, 1 one survived, "
        "2 what was asked could not be carried out",
    )
    parser.add_argument("--file", choices=list(JUDGES), help="only this file")
    add_run_options(parser)
    options = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        mutants, left_out = chosen([options.file] if options.file else list(JUDGES))
        print(f"{len(mutants)} mutants, and {left_out} that change nothing", flush=True)
        verdicts = run(
            spread(mutants, options.seed or 0),
            budget=options.budget,
            jobs=options.jobs,
            notice=lambda verdict: print(line(verdict), flush=True),
        )
    except (CatalogueError, OSError) as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print("\n".join(summary(verdicts, time.monotonic() - start)))
    return status(verdicts)


if __name__ == "__main__":
    raise SystemExit(main())
