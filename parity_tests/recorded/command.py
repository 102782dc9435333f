"""`parity recorded`: ports against what a real Caffe computed, where no Caffe can run.

Three comparisons, each with the derived bound: the recorded results against the float64 reference
of this machine, so that a corpus that lies is found; each port against the reference; and each
port against every recorded result of its layer (`parity_tests.recorded.against`).
"""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_parity.contract import BadRequest, Case, Variant
from caffe_parity.engine import sources
from caffe_parity.engine.judge import AGREEING
from caffe_parity.report import table as report
from caffe_parity.report.host import host
from parity_tests.recorded import corpus as corpora
from parity_tests.recorded.against import AGAINST, judged
from parity_tests.recorded.corpus import Corpus, Damaged
from parity_tests.recorded.variants import RecordedVariant, recorded_variants
from reference.cases import CASES
from reference.layers import LAYERS
from torch_impl.variants import TorchVariant
from torch_impl.variants import variants as ports

OWN = "torch-port"
JOB = "parity-recorded"

DESCRIPTION = """\
Compares the PyTorch ports, or one of your own, with what a real Caffe computed when the corpus was
recorded, and with the float64 reference. No Caffe is needed, and none is run.
"""
EPILOG = """\
exit status: 0 agrees, 1 disagrees, 2 could not be carried out (also: the corpus is damaged)
"""


def parser() -> argparse.ArgumentParser:
    """The command line of `parity recorded`."""
    made = argparse.ArgumentParser(
        prog="parity recorded",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--layer", metavar="NAME", help=f"only this one: {', '.join(LAYERS)}")
    made.add_argument("--variant", metavar="NAME", help="only this one, such as torch-module")
    made.add_argument("--case", metavar="NAME", help="only this one, such as base")
    made.add_argument(
        "-k", metavar="TEXT", default="", help="only LAYER-VARIANT-CASE with this in it"
    )
    made.add_argument(
        "--port",
        metavar="FILE.py:OBJECT",
        help="a port of your own in place of the suite's: a function of x1, x2 or an nn.Module",
    )
    made.add_argument(
        "--corpus", type=Path, default=corpora.FOLDER, metavar="DIR", help="another recording"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file")
    return made


def main(arguments: list[str]) -> int:
    """Runs `parity recorded`; returns the exit status."""
    try:
        options = parser().parse_args(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    try:
        return _compare(options)
    except (BadRequest, Damaged, OSError) as error:
        print(f"parity recorded: {error}", file=sys.stderr)
        return 2


@dataclass(frozen=True)
class Request:
    """A variant and a case that can be judged."""

    variant: Variant
    case: Case

    @property
    def ids(self) -> list[str]:
        """The ids of what it is compared with: the reference, and Caffe where it is a port."""
        names = [self.variant.name]
        if not isinstance(self.variant, RecordedVariant):
            names.append(self.variant.name + AGAINST)
        return [f"[{self.variant.layer}-{name}-{self.case.name}]" for name in names]


def _compare(options: argparse.Namespace) -> int:
    corpus = corpora.load(options.corpus)
    recorded = recorded_variants(corpus)
    requests = selected(options, recorded)
    print("\n".join(_provenance(corpus)), flush=True)
    _must_be_the_same_inputs(corpus, [each.case for each in requests])
    records: list[report.Record] = []
    for index, each in enumerate(requests):
        _show_progress(index, len(requests))
        for outcome, name in zip(judged(each.variant, each.case, recorded), each.ids, strict=False):
            if options.k in name:
                records.append(report.record(outcome))
    _show_progress(len(requests), len(requests))
    if not records:
        raise BadRequest("that is not in the corpus, or cannot run here")
    records.sort(key=_rank)
    _print(records, corpus, options)
    if options.json:
        used = {**host(), "device": "cpu", "gpu": None, "caffe": None}
        used["recorded"] = dict(corpus.provenance)
        report.write_json(options.json, used, records)
    return int(any(each["verdict"] not in AGREEING for each in records))


def _provenance(corpus: Corpus) -> list[str]:
    """Which Caffe, where and when; and what runs here."""
    made, here = corpus.provenance, host()
    caffe = made["caffe"]
    return [
        f"recorded: Caffe {caffe['version']}, Python {caffe['python']}, NumPy {caffe['numpy']}, "
        f"{caffe['blas'][-1] if caffe['blas'] else 'unknown BLAS'}",
        f"          {made['processor']}, {made['platform']}, {made['date']}",
        f"here:     PyTorch {here['torch']}, Python {here['python']}, NumPy {here['numpy']}",
        f"          {here['processor']}, {here['platform']}",
    ]


def selected(options: argparse.Namespace, recorded: Sequence[RecordedVariant]) -> list[Request]:
    """What the options ask for, the variants of a layer's case behind one another.

    Raises:
        BadRequest: an option names what does not exist, or nothing is left.
    """
    variants: list[Variant] = [*recorded]
    if options.port:
        if options.layer is None:
            words = f"--port needs --layer, what it should compute: {', '.join(LAYERS)}"
            raise BadRequest(words)
        _known("layer", options.layer, list(LAYERS))
        loss = sources.port(options.port)
        variants.append(TorchVariant(OWN, options.layer, loss))
    else:
        variants += ports()
    names = list(dict.fromkeys(each.name for each in variants))
    _known("layer", options.layer, list(LAYERS))
    _known("variant", options.variant, names)
    _known("case", options.case, [case.name for case in CASES])
    found = [
        Request(variant, case)
        for layer in LAYERS.values()
        for case in CASES
        if not layer.refuses(case.x1_shape, case.x2_shape)
        for variant in variants
        if variant.layer == layer.name
        and options.layer in (None, layer.name)
        and options.case in (None, case.name)
        and options.variant in (None, variant.name)
        and not (isinstance(variant, RecordedVariant) and case.name not in variant.recordings)
    ]
    found = [each for each in found if any(options.k in name for name in each.ids)]
    if not found:
        raise BadRequest(
            "there is nothing of that name to compare; -k takes a piece of LAYER-VARIANT-CASE, "
            "such as torch-module-base"
        )
    return found


def _known(kind: str, name: str | None, names: Sequence[str]) -> None:
    """Refuses a name that is not one of them.

    Raises:
        BadRequest: it is none of these.
    """
    if name is None or name in names:
        return
    close = difflib.get_close_matches(name, names, 1)
    advice = f" Did you mean {close[0]!r}?" if close else ""
    raise BadRequest(f"unknown {kind} {name!r}.{advice} Known: {', '.join(names)}")


def _must_be_the_same_inputs(corpus: Corpus, cases: Sequence[Case]) -> None:
    """Checks that the seeds give the inputs here that Caffe got when it was recorded.

    Raises:
        Damaged: they do not, so that nothing that follows would mean anything.
    """
    words = []
    for case in dict.fromkeys(cases):
        if case.name in corpus.cases:
            words += [drift for drift in [corpora.drifted(case, corpus.cases[case.name])] if drift]
    if words:
        raise Damaged(
            "the inputs made here are not those that were recorded, so that nothing can be "
            "compared:\n  " + "\n  ".join(words) + f"\n{corpora.RECORD_AGAIN}"
        )


def _rank(record: report.Record) -> int:
    """What was recorded first, then the ports against the reference, then against Caffe."""
    name: str = record["variant"]
    return 0 if name.startswith("caffe-") else 1 + name.endswith(AGAINST)


def _show_progress(index: int, total: int) -> None:
    if sys.stderr.isatty():
        text = f"\r  {index + 1} of {total}" if index < total else "\r\x1b[K"
        print(text, end="", file=sys.stderr, flush=True)


def _print(records: Sequence[report.Record], corpus: Corpus, options: argparse.Namespace) -> None:
    print()
    for line in report.table(records):
        print(line)
    print(f"{AGAINST}: against every recorded result of the layer; the limit is twice the bound.")
    sections = {
        "refused, as expected, when it was recorded": report.refusals(records),
        "suspicious: no error that rounding could not make, but far above the typical one": (
            report.suspicious(records)
        ),
        "not in the corpus": _missing(corpus, options),
    }
    for title, lines in sections.items():
        if lines:
            print(f"\n{title}:")
            print("\n".join(f"  {line}" for line in lines))
    failed = report.failures(records, _repeated(options), JOB)
    if failed:
        print("\nwhat disagrees, and what that means:")
        print("\n".join(failed))
    bad = sum(each["verdict"] not in AGREEING for each in records)
    idle = sum(each["verdict"] == "not run" for each in records)
    words = f"disagrees: {bad} of" if bad else "agrees:"
    print(f"\n{words} {len(records) - idle} comparisons{f', {idle} not run' * bool(idle)}")


def _repeated(options: argparse.Namespace) -> str:
    """The options that say what was compared with what, as a command repeats them."""
    given = ["--port", options.port, "--layer", options.layer] if options.port else []
    if options.corpus != corpora.FOLDER:
        given += ["--corpus", str(options.corpus)]
    return f"{shlex.join(given)} " if given else ""


def _missing(corpus: Corpus, options: argparse.Namespace) -> list[str]:
    """The cases that no port could be held against Caffe on, and why."""
    lines = [
        f"{each.layer} {each.case}: {each.reason}"
        for each in corpus.left_out
        if options.layer in (None, each.layer) and options.case in (None, each.case)
    ]
    lines += [f"{case.name}: newer than it" for case in CASES if case.name not in corpus.cases]
    return lines
