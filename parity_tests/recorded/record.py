"""Records the corpus from the real Caffe, or compares it with what that Caffe computes now.

    python -m parity_tests.recorded.record            writes the corpus of this suite
    python -m parity_tests.recorded.record --check    compares: exit status 1 where it differs
    python -m parity_tests.recorded.record --corpus DIR --case base

Only what agrees with the reference is recorded, and only when all passes had the same bits. The
same results give the same bytes; a corpus that would differ in its date alone is left as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from caffe_impl.variants import CaffeVariant, shared_caffe, variants
from caffe_parity.caffe.client import CaffeError
from caffe_parity.caffe.install import InstallError
from caffe_parity.caffe.interpreter import NoCaffe
from caffe_parity.contract import PASSES, TENSORS, Array32, Case, Pass, Run, VariantFailure
from caffe_parity.engine.judge import judge
from caffe_parity.report.environment import environment
from parity_tests.recorded import corpus as corpora
from parity_tests.recorded.against import against
from parity_tests.recorded.corpus import Corpus, Damaged, Omission, Recording
from parity_tests.recorded.variants import FIRST, RecordedVariant, recorded_variants
from reference import fills
from reference.cases import CASES
from reference.layers import LAYERS


class NotRecorded(Exception):
    """What Caffe computed is nothing to record; the message says why."""


def record(cases: Sequence[Case] = CASES) -> Corpus:
    """What every Caffe variant does with some cases, unjudged.

    Raises:
        NotRecorded: a variant fails where it should not, or its passes differ.
        NoCaffe, InstallError: there is no Caffe.
    """
    recordings: list[Recording] = []
    tensors: dict[str, Array32] = {}
    left_out: dict[tuple[str, str], Omission] = {}
    for variant in variants():
        for case in cases:
            if LAYERS[variant.layer].refuses(case.x1_shape, case.x2_shape):
                continue
            recording, arrays = _recorded(variant, case)
            stored = max((corpora.collapsed(each).size for each in arrays.values()), default=0)
            if stored > corpora.LARGEST_STORED:
                reason = f"a diff has {stored} numbers of its own"
                left_out[variant.layer, case.name] = Omission(variant.layer, case.name, reason)
                continue
            recordings.append(recording)
            tensors |= arrays
    described = {case.name: corpora.described(case) for case in cases}
    return Corpus(_provenance(), described, tensors, tuple(recordings), tuple(left_out.values()))


def _recorded(variant: CaffeVariant, case: Case) -> tuple[Recording, dict[str, Array32]]:
    """A recording and its tensors by their digests."""
    expectation = variant.expects(case)
    recording = Recording(variant.layer, variant.name, case.name, expectation=expectation)
    inputs = fills.inputs(case)
    others = (fills.other_inputs(case), fills.other_inputs(case, extra_samples=1))
    try:
        run = variant.run(case, inputs, *others)
    except VariantFailure as failure:
        if expectation is None or expectation.text not in failure.message:
            raise NotRecorded(f"{recording}: {failure.verdict}: {failure.message}") from failure
        return replace(recording, refusal=failure.message), {}
    digests: dict[str, str | None] = {}
    arrays: dict[str, Array32] = {}
    for name in TENSORS:
        every = [each.result.tensors()[name] for each in run.passes]
        keys = {None if each is None else _digest(each) for each in every}
        if len(keys) > 1:
            raise NotRecorded(f"{recording}: {name} has other bits in another pass")
        (digests[name],) = keys
        if every[0] is not None:
            arrays[_digest(every[0])] = np.array(every[0], np.float32)
    return replace(recording, digests=digests), arrays


def _digest(array: Any) -> str:
    return corpora.digest(np.asarray(array, np.float32))


def _provenance() -> dict[str, Any]:
    known = environment()
    del known["device"], known["gpu"]
    return {**known, "date": datetime.now(timezone.utc).date().isoformat()}


def unsound(corpus: Corpus, cases: Iterable[Case]) -> list[str]:
    """What in a corpus does not agree with the reference."""
    found = []
    recorded = _by_name(corpus)
    for recording, case in _each(corpus, cases):
        outcome = judge(recorded[recording.layer, recording.variant], case)
        if not outcome.agrees:
            found.append(f"{recording}: {outcome.verdict}: {outcome.reason}")
    return found


def _by_name(corpus: Corpus) -> dict[tuple[str, str], RecordedVariant]:
    return {(each.layer, each.name): each for each in recorded_variants(corpus)}


def _each(corpus: Corpus, cases: Iterable[Case]) -> Iterable[tuple[Recording, Case]]:
    """The recordings with their cases, so that those of one layer and case follow one another."""
    by_name = {case.name: case for case in cases}
    chosen = [each for each in corpus.recordings if each.case in by_name]
    order = {name: index for index, name in enumerate(by_name)}
    for each in sorted(chosen, key=lambda each: (each.layer, order[each.case])):
        yield each, by_name[each.case]


@dataclass(frozen=True)
class Difference:
    """How a corpus and what Caffe computes now compare.

    Attributes:
        identical: how many tensors have the same bits.
        within: how many do not, and are as near as rounding explains, by layer and variant.
        beyond: what cannot be explained: a tensor, a refusal, a claim, a recording too many.
    """

    identical: int
    within: Counter[str]
    beyond: tuple[str, ...]


def difference(old: Corpus, new: Corpus, cases: Sequence[Case]) -> Difference:
    """Compares two corpora over some cases."""
    names = {case.name for case in cases}
    before = {str(each): each for each in old.recordings if each.case in names}
    beyond = [drift for case in cases if (drift := _drift(old, case))]
    beyond += [f"{name}: Caffe has no such result any more" for name in before]
    identical, within = 0, Counter[str]()
    for now, case in _each(new, cases):
        recorded = before.get(str(now))
        if recorded is None:
            beyond.append(f"{now}: not in the corpus")
            continue
        beyond.remove(f"{now}: Caffe has no such result any more")
        if now == recorded:
            identical += sum(key is not None for key in now.digests.values())
            continue
        words = _how_far(old, new, recorded, now, case)
        if words:
            beyond.append(f"{now}: {words}")
            continue
        for name, key in now.digests.items():
            if key is not None:
                same = key == recorded.digests[name]
                identical += same
                within[f"{now.layer} {now.variant}"] += not same
    omitted = {(each.layer, each.case) for each in old.left_out if each.case in names}
    if omitted != {(each.layer, each.case) for each in new.left_out}:
        beyond.append("other cases are left out")
    return Difference(identical, +within, tuple(beyond))


def _drift(old: Corpus, case: Case) -> str:
    if case.name not in old.cases:
        return f"{case.name}: not in the corpus"
    return corpora.drifted(case, old.cases[case.name])


def _how_far(old: Corpus, new: Corpus, recorded: Recording, now: Recording, case: Case) -> str:
    """Why two recordings of one variant and case do not agree; "" where they do."""
    if now.expectation != recorded.expectation:
        return "what the variant claims of this case has changed"
    if now.refusal or recorded.refusal:
        if now.refusal and recorded.refusal:
            return ""  # each says what the expectation wants; the rest names a line of Caffe's
        return f"it said {recorded.refusal or 'nothing'!r}, now {now.refusal or 'nothing'!r}"
    computed = [name for name in TENSORS if now.digests[name] is not None]
    if computed != [name for name in TENSORS if recorded.digests[name] is not None]:
        return f"it computes {', '.join(computed)} now"
    claimed = now.expectation.layer if now.expectation else ""
    name = (now.layer, now.variant)
    run = Run((Pass(FIRST, PASSES[FIRST], _by_name(new)[name].result(case.name)),))
    about = {"layer": now.layer, "variant": now.variant, "case": now.case}
    outcome = against(about, claimed or now.layer, case, run, _by_name(old)[name].result(case.name))
    return "" if outcome.agrees else outcome.reason


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m parity_tests.recorded.record",
        description="Record what the real Caffe computes, or compare a corpus with it.",
        epilog="exit status: 0 recorded, or no difference; 1 a difference; 2 not carried out",
    )
    made.add_argument("--check", action="store_true", help="compare, and write nothing")
    made.add_argument("--corpus", type=Path, default=corpora.FOLDER, metavar="DIR")
    made.add_argument(
        "--case", action="append", default=[], metavar="NAME", help="only this case; repeatable"
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Records or checks; returns the exit status."""
    try:
        options = parser().parse_args(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    unknown = set(options.case) - {case.name for case in CASES}
    if unknown:
        return _refused(f"unknown case {', '.join(sorted(unknown))}; reference/cases.py has them")
    if options.case and not options.check and options.corpus == corpora.FOLDER:
        return _refused("--case would cut down the suite's own corpus; give another --corpus DIR")
    cases = [case for case in CASES if not options.case or case.name in options.case]
    try:
        if options.check:
            return _check(options.corpus, cases)
        return _write(options.corpus, cases)
    except (NoCaffe, InstallError) as error:
        return _refused(f"no Caffe to record.\n{error}")
    except (CaffeError, Damaged, NotRecorded, OSError) as error:
        return _refused(str(error))
    finally:
        if shared_caffe.cache_info().currsize:
            shared_caffe().close()


def _refused(words: str) -> int:
    print(f"record: {words}", file=sys.stderr)
    return 2


def _check(folder: Path, cases: Sequence[Case]) -> int:
    old = corpora.load(folder)
    print(f"checking {folder} against the real Caffe", flush=True)
    found = difference(old, record(cases), cases)
    for words in found.beyond:
        print(f"  beyond the bounds: {words}")
    for name, count in found.within.items():
        print(f"  within the bounds: {name}, {count} tensors have other bits")
    print(
        f"{found.identical} tensors have the recorded bits, {found.within.total()} others within "
        f"the bounds, {len(found.beyond)} differences beyond"
    )
    return int(bool(found.beyond))


def _write(folder: Path, cases: Sequence[Case]) -> int:
    print(f"recording {len(cases)} cases", flush=True)
    new = record(cases)
    wrong = unsound(new, cases)
    if wrong:
        shown = "\n".join(f"  {words}" for words in wrong)
        return _refused(f"nothing is recorded that does not agree with the reference:\n{shown}")
    try:
        old = corpora.load(folder)
    except Damaged:
        old = None
    if old and corpora.packed(replace(new, provenance=_undated(old, new))) == corpora.packed(old):
        print(f"{folder}: nothing has changed since {old.provenance['date']}; left as it is")
        return 0
    corpora.write(new, folder)
    corpora.load(folder)  # what cannot be read back was not recorded
    sizes = sum((folder / name).stat().st_size for name in corpora.packed(new))
    print(f"{folder}: {len(new.recordings)} recordings, {sizes / 1e6:.2f} MB")
    return 0


def _undated(old: Corpus, new: Corpus) -> dict[str, Any]:
    """The new provenance with the date and the commit of the old one."""
    return {**new.provenance, "date": old.provenance["date"], "commit": old.provenance["commit"]}


if __name__ == "__main__":
    raise SystemExit(main())
