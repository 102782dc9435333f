"""What a person reads of a whole net, and the records of it."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from shutil import get_terminal_size

from caffe_parity.contract import Agreement, Finding
from caffe_parity.report.record import InNet, Record, Report
from caffe_parity.report.table import largest, many, passes
from caffe_parity.terminal import is_terminal
from caffe_parity.whole.judged import Comparison, Judgement
from caffe_parity.whole.weights import of_port

FEW = 3
"""Names that a cell of a table has, one by one."""

COLUMNS = ("layer", "type", "port", "forward", "backward", "params", "inherited")


def lines(compared: Comparison, found: Sequence[Judgement]) -> list[str]:
    """How the layers were matched, a table in the net's order, and what is wrong."""
    net = compared.net
    said = [f"phase {net.phase}: {many(len(net.steps), 'layer')}"]
    rows = [COLUMNS, *map(_row, found)]
    for step in compared.unmatched:
        rows.append((step.name, step.type, "-", "not compared", "", "", ""))
    said += table(rows, get_terminal_size().columns if is_terminal(sys.stdout) else 0)
    other = {call: how for call, how in compared.matched.how.items() if how != "name"}
    for call, how in other.items():
        step = compared.matched.steps[call][0]
        said.append(f"  matched by {how}: {step.name} = {call}")
    for name, how in compared.weights.loose.items():
        params = compared.weights.places[name].params
        said.append(f"  matched by {how}: {params[0] if params else 'zeros'} = {name}")
    said += [f"  one batch in the port: {', '.join(layers)}" for layers in net.stacked]
    for each in found:
        unknown = any(top not in compared.first.recipes for top in each.part.tops)
        if compared.first.signatures and unknown and len(each.part.steps) > 1 and not each.way:
            said.append(
                f"one part: {each.part.name}: the port takes numbers out of its tensors there, as "
                "float(), item() and numpy() do, and goes on with them"
            )
    for each in found:
        if each.left_out:
            said.append(f"left out: {each.part.name}: {each.left_out}")
    said += [f"{each.code}: {each.words}" for each in _of_the_whole(compared)]
    said += _findings(compared, found)
    said += [
        f"unproven: {_layer(each)}: {each.undefined.words}" for each in found if each.undefined
    ]
    noted = {_layer(each): each.notes[0] for each in found if each.notes}
    for note in list(noted.values())[:1]:
        said.append(f"note: {note.code}: {_shortened([*noted])}: {note.words}")
    said += [f"note: {each.code}: {each.words}" for each in _unweighted(compared, found)]
    if compared.unmatched:
        names = ", ".join(step.name for step in compared.unmatched)
        first = compared.unmatched[0].name
        read = {bottom for step in compared.unmatched for bottom in step.bottoms}
        last = [step for step in compared.unmatched if read.isdisjoint(step.tops)]
        without = " ".join(f"--leave-out {step.name}" for step in last)
        said.append(
            f"not compared: {names}: no part of the port computes them; --map {first}=MODULE says "
            f"which module does, {without} that the port does without"
        )
    for name in compared.returned.missing:
        said.append(f"not compared: {_unreturned(name)}; or --leave-out {name}")
    return said


def table(rows: Sequence[Sequence[str]], width: int = 0) -> list[str]:
    """A table of a net; without the types, and the port's modules, where those have no room.

    Args:
        rows: of equally many cells; the first has the titles.
        width: of a line, in columns; 0 for any.
    """
    columns = list(range(len(rows[0])))
    widths = [max(len(row[column]) for row in rows) for column in columns]
    for title in ("type", "port"):
        if width and sum(widths[each] + 2 for each in columns) > width:
            columns.remove(list(rows[0]).index(title))
    lines = ["  ".join(row[each].ljust(widths[each]) for each in columns) for row in rows]
    return [f"  {line}".rstrip() for line in lines]


def _shortened(names: Sequence[str]) -> str:
    """Names, of which a long list has its ends alone."""
    if len(names) <= FEW:
        return ", ".join(names)
    return f"{names[0]}, ... {names[-1]} ({len(names)})"


def _findings(compared: Comparison, found: Sequence[Judgement]) -> list[str]:
    """A line for each that is wrong; many of which all but the names is the same have one."""
    names = {call.module for call in compared.first.calls} | {*of_port(compared.port.model)}
    for step in compared.net.steps:
        names.update((step.name, *step.bottoms, *step.tops, *step.params))
    longest = sorted(map(re.escape, names), key=lambda each: -len(each))
    any_name = re.compile(rf"(?<![\w.])({'|'.join(longest)})(?![\w.\[])|-?\d[\d.,e+-]*")
    alike: dict[tuple[str, str], list[tuple[str, str]]] = {}
    codes: dict[tuple[str, str], list[str]] = {}
    for each in found:
        for finding in each.findings:
            known = codes.setdefault((_layer(each), finding.words), [])
            known += [finding.code] if finding.code not in known else []
    for (name, words), of_it in codes.items():
        key = ", ".join(of_it), any_name.sub("", words)
        alike.setdefault(key, []).append((name, words))
    said = []
    for (code, _), some in alike.items():
        layers = [*dict.fromkeys(name for name, _ in some)]
        if len(layers) > FEW:
            said.append(f"{code}: {_shortened(layers)}: {some[0][1]}; and so {len(some) - 1} more")
        else:
            said += [f"{code}: {name}: {words}" for name, words in some]
    return said


def _of_the_whole(compared: Comparison) -> list[Finding]:
    """What is wrong, and no layer's."""
    alone = compared.by_itself
    whole = [Finding("whole", alone)] if alone else []
    first = [*compared.weights.findings, *compared.without_gradients()]
    return [*first, *compared.returned.findings(), *whole]


def _unweighted(compared: Comparison, found: Sequence[Judgement]) -> list[Finding]:
    """The losses that are right but for their weight."""
    wrong = {one.tensor for each in found for one in each.findings}
    return [each for each in compared.returned.notes if each.tensor not in wrong]


def _layer(each: Judgement) -> str:
    return each.name


def _row(each: Judgement) -> tuple[str, ...]:
    part = each.part
    if each.way:
        return each.name, "-", "(between modules)", *map(_worst, passes(each.own).values()), ""
    layers = _shortened([step.name for step in part.steps])
    types = _shortened([*dict.fromkeys(step.type for step in part.steps)])
    calls = _shortened([*map(str, part.calls)]) or "(between modules)"
    if each.left_out:
        return layers, types, calls, "left out", "", "", ""
    own = map(_worst, passes(each.own).values())
    return layers, types, calls, *own, _worst(each.inherited, False)


def _in_net(each: Judgement) -> InNet:
    """What is known of a part beside its verdict."""
    types = ", ".join(dict.fromkeys(step.type for step in each.part.steps))
    calls = ", ".join(map(str, each.part.calls)) or "(between modules)"
    return InNet(types, calls, largest(one.fraction for one in each.inherited.values()))


def _worst(some: Mapping[str, Agreement], judged: bool = True) -> str:
    if not some:
        return ""
    worst = max(each.fraction for each in some.values())
    wrong = judged and not all(each.agrees for each in some.values())
    shown = "inf" if math.isinf(worst) else f"{worst:.2g}"
    return f"{shown} wrong" if wrong else shown


WITHOUT = "--leave-out: the port does without"
"""The reason of what was not compared since nobody asked for it."""


def records(
    net: str, compared: Comparison, found: Sequence[Judgement], seconds: float
) -> list[Record]:
    """A record for each part, and for what no part computes."""
    phase = compared.net.phase
    of_losses = _unweighted(compared, found)
    made = []
    for each in found:
        findings, part = [*each.findings, *([each.undefined] if each.undefined else [])], each.name
        if each.left_out:
            verdict = "fail" if findings else "not run" if each.alone else "unproven"
            reason = "; ".join(one.words for one in findings) or each.left_out
            made.append(Record(net, phase, part, verdict, reason, findings, in_net=_in_net(each)))
            continue
        dull = [name for name, own in each.own.items() if not own.proves]
        notes = [*each.notes, *(one for one in of_losses if one.tensor in each.part.tops)]
        verdict = "fail" if each.findings else "unproven" if dull or each.undefined else "pass"
        reason = "; ".join(one.words for one in findings)
        if verdict == "unproven" and dull:
            reason = f"nothing of {', '.join(dull)} is proved"
        made.append(
            Record(
                net,
                phase,
                part,
                verdict,
                reason,
                findings,
                notes,
                each.own,
                seconds=seconds / max(len(found), 1),
                elements=sum(compared.net.values[top].size for top in each.part.tops),
                in_net=_in_net(each),
            )
        )
    for finding in _of_the_whole(compared):
        name = f"{finding.code} {finding.tensor}".strip()
        made.append(Record(net, phase, name, "fail", finding.words, [finding]))
    for name in sorted(compared.without):
        why = WITHOUT if name in compared.left_out else "only what is left out reads it"
        made.append(Record(net, phase, name, "not run", why))
    for step in compared.unmatched:
        words = "no part of the port computes it"
        record = Record(net, phase, step.name, "unproven", words, [Finding("unmatched", words)])
        made.append(replace(record, in_net=InNet(step.type, "-")))
    for name in compared.returned.missing:
        words = _unreturned(name)
        finding = Finding("unmatched", words, name)
        made.append(Record(net, phase, f"result {name}", "unproven", words, [finding]))
    return made


def _unreturned(name: str) -> str:
    return f"the net's output {name}: the port does not return it, and its forward should"


def proved_in_either(records: Sequence[Record]) -> list[Record]:
    """The records, where what one phase cannot prove is proved if the other does.

    The gradient of a bias before a BatchNorm cancels in TRAIN: that it is 0 within its bound is
    shown there, and that there is one at all in TEST, by the same part.
    """
    proved = {
        (each.layer, each.case, name)
        for each in records
        for name, own in each.tensors.items()
        if own.proves and not each.wrong
    }
    made = []
    for each in records:
        dull = [name for name, own in each.tensors.items() if not own.proves]
        known = all((each.layer, each.case, name) in proved for name in dull)
        if each.weak and dull and known and not each.findings:
            words = f"of {', '.join(dull)} only the other phase proves that it is not always 0"
            notes = [*each.notes, Finding("other-phase", words, dull[0])]
            rest = {name: own for name, own in each.tensors.items() if name not in dull}
            each = replace(each, verdict="pass", reason="", notes=notes, tensors=rest)
        made.append(each)
    return made


def verdict(report: Report, seconds: float) -> str:
    """The last line."""
    wrong = [each.case for each in report.results if each.wrong]
    weak = [each.case for each in report.results if each.weak]
    if wrong:
        names = ", ".join(dict.fromkeys(wrong))
        said = f"disagrees: {names}"
    elif weak:
        said = f"unproven: {', '.join(dict.fromkeys(weak))}"
    else:
        said = "agrees" if report.agrees else "nothing was compared"
    made = [each for each in report.results if each.tensors or each.verdict in ("pass", "fail")]
    numbers = sum(own.compared for each in made for own in each.tensors.values())
    without = [each.case for each in report.results if each.reason == WITHOUT]
    left_out = f", without {', '.join(dict.fromkeys(without))}" if without else ""
    compared = f"{many(len(made), 'comparison')}, {numbers:,} numbers"
    return f"{said}, {compared}{left_out}, {seconds:.1f} s"
