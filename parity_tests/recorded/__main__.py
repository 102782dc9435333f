"""Ports against what a real Caffe computed, where no Caffe can run: `tox -e parity-recorded`.

Three comparisons, each with the derived bound: the recorded results against the float64 reference
of this machine, so that a corpus that lies is found; each PyTorch port, or one of your own, against
the reference; and each port against every recorded result of its layer.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from caffe_parity import BadRequest, Case, Layer, ParityError, Port
from caffe_parity.cli import add_color, add_page, add_told, objects, path, unknown
from caffe_parity.cli.check import write_files
from caffe_parity.engine.functions import must_take
from caffe_parity.progress import PROGRESS
from caffe_parity.report.host import host
from caffe_parity.report.record import PAGE, Record, Report, must_be_writable
from caffe_parity.report.summary import must_be_appendable
from caffe_parity.report.table import Reproduce, Section, each_tensor, sections
from caffe_parity.terminal import CHOICE, coloured, rendered, say
from parity_tests.recorded import corpus as corpora
from parity_tests.recorded.against import AGAINST, judged
from parity_tests.recorded.corpus import Corpus, Damaged
from parity_tests.recorded.variants import RecordedVariant, recorded_variants
from reference.cases import CASES
from reference.layers import LAYERS
from torch_impl.variants import variants as torch_variants

OWN = "torch-port"
JOB = "tox -e parity-recorded --"
EXAMPLES = f"""\
  {JOB} --variant torch-module --case base
  {JOB} --port my_port.py:MyLoss --layer channel_sum --page
"""
Choice = tuple[Layer, str, Case]  # with the name of a variant


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    ends = "exit status: 0 agrees, 1 disagrees, 2 not carried out (also: a damaged corpus)"
    epilog = f"examples:\n{EXAMPLES}\n{ends}"
    made = argparse.ArgumentParser(prog=JOB, description=__doc__, epilog=epilog)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    add = made.add_argument
    add("--layer", metavar="NAME", help=f"only this one: {', '.join(LAYERS)}")
    add("--variant", metavar="NAME", help="only this one, such as torch-module")
    add("--case", metavar="NAME", help="only this one, such as base")
    add("-k", metavar="TEXT", default="", help="only LAYER-VARIANT-CASE with this in it")
    port = "a port of your own in place of the suite's: a function of x1, x2 or an nn.Module"
    add("--port", metavar="FILE.py:OBJECT", help=port)
    add("--corpus", type=path, default=corpora.FOLDER, metavar="DIR", help="another recording")
    add("--json", type=path, metavar="FILE", help="write the results to this file")
    add_page(made)
    add_told(made, "each tensor of each comparison")
    add_color(made)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares; returns the exit status."""
    try:
        made = parser()
        for each in sys.argv[1:] if arguments is None else arguments:
            if each.startswith("-") and each.endswith("=--"):  # argparse makes an empty list of it
                made.error(f"{each}: expected a value")
        return _compare(made.parse_args(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    except (ParityError, OSError) as error:
        print(f"parity-recorded: {error}", file=sys.stderr)
        return 2


def _compare(options: argparse.Namespace) -> int:
    CHOICE.color = options.color
    must_be_writable("--json", options.json)
    must_be_writable("--page", options.page, PAGE)
    must_be_appendable("--summary", options.summary)
    corpus = corpora.load(options.corpus)
    chosen = selected(options, layers_with(corpus, options))
    if not options.quiet:
        _print_machines(corpus.provenance, host())
    _must_be_the_same_inputs(corpus, [case for _, _, case in chosen])
    records: list[Record] = []
    with PROGRESS.shown():
        for index, each in enumerate(chosen):
            PROGRESS.place, PROGRESS.part = f"{index + 1} of {len(chosen)}", index / len(chosen)
            PROGRESS.tell("comparing")
            records += [record for record in judged(*each) if options.k in f"[{record.id}]"]
    if not records:
        raise BadRequest("that is not in the corpus, or cannot run here")
    names = ("layer", "variant", "case", "k", "port")
    facts = {"device": "cpu", "gpu": None, "caffe": None, "recorded": corpus.provenance}
    given = {name: value for name in names if (value := getattr(options, name))}
    report = Report("recorded", {**host(), **facts}, given, records)
    command = _command(options)
    if not options.quiet:
        _print(report, corpus, command, options.verbose)
    say([_verdict(report)])
    write_files(options, report, command)
    return report.status


def layers_with(corpus: Corpus, options: argparse.Namespace) -> list[Layer]:
    """The layers with what was recorded, and with the suite's ports or the user's own.

    Raises:
        BadRequest: the user's port cannot be had, or it is not said what it computes.
    """
    recorded, ports = recorded_variants(corpus), torch_variants()
    _known("layer", options.layer, list(LAYERS))
    if options.port:
        if options.layer is None:
            raise BadRequest(f"--port needs --layer, what it should compute: {', '.join(LAYERS)}")
        port = objects.port(options.port)
        must_take(port, ("x1", "x2"), "port")
        ports = {options.layer: {OWN: Port(port)}}
    return [
        replace(layer, variants={**recorded.get(name, {}), **ports.get(name, {})})
        for name, layer in LAYERS.items()
    ]


def selected(options: argparse.Namespace, layers: Sequence[Layer]) -> list[Choice]:
    """What the options ask for, the variants of a layer's case behind one another.

    Raises:
        BadRequest: an option names what does not exist, or nothing is left.
    """
    names = [name for layer in layers for name in layer.variants]
    _known("variant", options.variant, list(dict.fromkeys(names)))
    _known("case", options.case, [case.name for case in CASES])
    found = [
        (layer, name, case)
        for layer in layers
        if options.layer in (None, layer.name)
        for case in layer.all_cases()
        if options.case in (None, case.name)
        for name in layer.variants
        if options.variant in (None, name)
    ]
    found = [each for each in found if any(options.k in name for name in _ids(*each))]
    if not found:
        raise BadRequest(
            "there is nothing of that name to compare; -k takes a piece of LAYER-VARIANT-CASE, "
            "such as torch-module-base"
        )
    return found


def _ids(layer: Layer, name: str, case: Case) -> list[str]:
    """What a variant on a case is compared with: the reference, and Caffe where it is a port."""
    variant, names = layer.variants[name], [name]
    if not isinstance(variant, RecordedVariant):
        names.append(name + AGAINST)
    elif case.name not in variant.recordings:
        return []
    return [f"[{layer.name}-{each}-{case.name}]" for each in names]


def _known(kind: str, name: str | None, names: Sequence[str]) -> None:
    """Refuses a name that is not one of them.

    Raises:
        BadRequest: it is none of these.
    """
    if name is not None and name not in names:
        raise BadRequest(unknown(kind, name, names))


def _print_machines(made: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Which Caffe, where and when; and what runs here."""
    caffe, blas = made["caffe"], (made["caffe"]["blas"] or ["unknown BLAS"])[-1]
    for words, by, on in (
        (f"recorded: Caffe {caffe['version']}, {blas}, {made['date']}", caffe, made),
        (f"here:     PyTorch {here['torch']}", here, here),
    ):
        print(f"{words}, Python {by['python']}, NumPy {by['numpy']}")
        print(f"          {on['processor']}, {on['platform']}", flush=True)


def _must_be_the_same_inputs(corpus: Corpus, cases: Sequence[Case]) -> None:
    """Checks that the seeds give the inputs here that Caffe got when it was recorded.

    Raises:
        Damaged: they do not, so that nothing that follows would mean anything.
    """
    known = [case for case in dict.fromkeys(cases) if case.name in corpus.cases]
    words = [words for case in known if (words := corpora.drifted(case, corpus.cases[case.name]))]
    if words:
        raise Damaged(
            "the inputs made here are not those that were recorded, so that nothing can be "
            "compared:\n  " + "\n  ".join(words) + f"\n{corpora.RECORD_AGAIN}"
        )


def _command(options: argparse.Namespace) -> Reproduce:
    """The command that compares a record's case again."""
    given = ["--port", options.port, "--layer", options.layer] if options.port else []
    if options.corpus != corpora.FOLDER:
        given += ["--corpus", str(options.corpus)]
    command = " ".join([JOB, *map(shlex.quote, given), "-k"])
    return lambda each: f"{command} '[{each.id}]'"


def _print(report: Report, corpus: Corpus, command: Reproduce, verbose: bool) -> None:
    found = sections(report, command)
    left_out = [f"{each.layer} {each.case}: {each.reason}" for each in corpus.left_out]
    left_out += [f"{each.name}: newer" for each in CASES if each.name not in corpus.cases]
    found.append(Section("not in the corpus", left_out))
    if verbose:
        found.append(Section("each tensor", each_tensor(report.results)))
    for section in found:
        shown = [
            line
            for part in rendered(section.lines, coloured(sys.stdout))
            for line in part.split("\n")
        ]
        lines = [f"  {line}".rstrip() for line in shown]
        print(f"\n{section.title}:", *lines or ["  nothing is left out"], sep="\n")
    print(f"\n{AGAINST}: against every recorded result of the layer; the limit is twice the bound.")


def _verdict(report: Report) -> str:
    bad = sum(each.wrong for each in report.results)
    idle = sum(each.verdict == "not run" for each in report.results)
    open_ = "unproven:" if report.unproven else "nothing ran of"
    words = ("agrees:", f"disagrees: {bad} of", open_)[report.status]
    return f"{words} {len(report.results)} comparisons, {idle} not run"


if __name__ == "__main__":
    raise SystemExit(main())
