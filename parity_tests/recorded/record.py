"""Records the corpus from the real Caffe, or compares it with what that Caffe computes now.

    python -m parity_tests.recorded.record            writes the corpus of this suite
    python -m parity_tests.recorded.record --check    compares: exit status 1 where it differs
    python -m parity_tests.recorded.record --corpus DIR --case base

Only what agrees with the reference is recorded, and only when all passes had the same bits. The
same results give the same bytes; a corpus that would differ in its date alone is left as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from caffe_impl.variants import variants as caffe_variants
from caffe_parity import BadRequest, Case, Layer, ParityError
from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import GRADIENT, Array32, VariantFailure, spoken
from caffe_parity.engine.compare import compare
from caffe_parity.engine.judge import judge, observed, plan_of
from caffe_parity.engine.verdict import agreement_words
from caffe_parity.report.environment import environment
from parity_tests.recorded import corpus as corpora
from parity_tests.recorded.against import as_truth, doubled
from parity_tests.recorded.corpus import TENSORS, Corpus, Damaged, Omission, Recording
from parity_tests.recorded.variants import recorded_variants
from reference.cases import CASES
from reference.layers import LAYERS


def record(cases: Sequence[Case] = CASES) -> Corpus:
    """What every Caffe variant does with some cases, unjudged.

    Raises:
        BadRequest: a variant fails where it should not, or its passes differ.
        NoCaffe, InstallError: there is no Caffe.
    """
    recordings: list[Recording] = []
    tensors: dict[str, Array32] = {}
    left_out: dict[tuple[str, str], Omission] = {}
    for name, variants in caffe_variants().items():
        layer = replace(LAYERS[name], variants=variants)
        for variant in variants:
            for case in (case for case in cases if layer.allows(case)):
                recording, arrays = _recorded(layer, variant, case)
                stored = max((corpora.collapsed(each).size for each in arrays.values()), default=0)
                if stored > corpora.LARGEST_STORED:
                    reason = f"a diff has {stored} numbers of its own"
                    left_out[name, case.name] = Omission(name, case.name, reason)
                    continue
                recordings.append(recording)
                tensors |= arrays
    known = environment()
    del known["device"], known["gpu"]
    return Corpus(
        provenance={**known, "date": datetime.now(timezone.utc).date().isoformat()},
        cases={case.name: corpora.described(case) for case in cases},
        tensors=tensors,
        recordings=tuple(recordings),
        left_out=tuple(left_out.values()),
    )


def _recorded(layer: Layer, name: str, case: Case) -> tuple[Recording, dict[str, Array32]]:
    """A recording and its tensors by their digests."""
    ready = plan_of(layer, name, case)
    expectation = ready.variant.expects(case)
    recording = Recording(layer.name, name, case.name, expectation=expectation)
    seen, _ = observed(ready)
    if isinstance(seen, VariantFailure):
        if expectation is None or expectation.text not in seen.message:
            raise BadRequest(f"{recording}: {seen.verdict}: {seen.message}")
        return replace(recording, refusal=seen.message), {}
    digests: dict[str, str | None] = {}
    arrays: dict[str, Array32] = {}
    passes = [each.name for each in ready.plan.passes if each.expected is not None]
    for tensor in TENSORS:
        shape = case.shapes.get(tensor.removeprefix(GRADIENT), ())  # a net's loss may be (1)
        every = [seen.tensors[each].get(tensor) for each in passes]
        there = [np.array(each, np.float32).reshape(shape) for each in every if each is not None]
        found = {corpora.digest(each): each for each in there}
        if len(found) > 1 or len(there) not in (0, len(every)):
            raise BadRequest(f"{recording}: {tensor} has other bits in another pass")
        digests[tensor] = next(iter(found), None)
        arrays |= found
    return replace(recording, digests=digests), arrays


def unsound(corpus: Corpus, cases: Sequence[Case]) -> list[str]:
    """What in a corpus does not agree with the reference."""
    recorded = recorded_variants(corpus)
    layers = {name: replace(LAYERS[name], variants=each) for name, each in recorded.items()}
    judged = [judge(layers[e.layer], e.variant, case) for e, case in _each(corpus, cases)]
    return [f"{each.id}: {each.verdict}: {each.reason}" for each in judged if each.wrong]


def _each(corpus: Corpus, cases: Sequence[Case]) -> Iterator[tuple[Recording, Case]]:
    """The recordings with their cases, so that those of one layer and case follow one another."""
    by_name = {case.name: case for case in cases}
    for each in sorted(corpus.recordings, key=lambda each: (each.layer, each.case)):
        if each.case in by_name:
            yield each, by_name[each.case]


@dataclass(frozen=True)
class Reproduction:
    """How far what Caffe computes now gives a corpus again.

    Attributes:
        identical: how many tensors have the same bits.
        within: how many do not, and are as near as rounding explains, by layer and variant.
        beyond: what cannot be explained: a tensor, a refusal, a claim, a recording too many.
    """

    identical: int
    within: Counter[str]
    beyond: tuple[str, ...]


def difference(old: Corpus, new: Corpus, cases: Sequence[Case]) -> Reproduction:
    """Compares two corpora over some cases."""
    names = {case.name for case in cases}
    before = {str(each): each for each in old.recordings if each.case in names}
    beyond = [f"{case.name}: not in the corpus" for case in cases if case.name not in old.cases]
    known = [case for case in cases if case.name in old.cases]
    beyond += filter(None, (corpora.drifted(case, old.cases[case.name]) for case in known))
    identical, within = 0, Counter[str]()
    for now, case in _each(new, cases):
        recorded = before.pop(str(now), None)
        words = _how_far(old, new, recorded, now, case) if recorded else "not in the corpus"
        if words or recorded is None:
            beyond.append(f"{now}: {words}")
            continue
        for name, key in now.digests.items():
            if key is not None:
                identical += key == recorded.digests[name]
                within[f"{now.layer} {now.variant}"] += key != recorded.digests[name]
    beyond += [f"{name}: Caffe has no such result any more" for name in before]
    omitted = {(each.layer, each.case) for each in old.left_out if each.case in names}
    if omitted != {(each.layer, each.case) for each in new.left_out}:
        beyond.append("other cases are left out")
    return Reproduction(identical, +within, tuple(beyond))


def _how_far(old: Corpus, new: Corpus, recorded: Recording, now: Recording, case: Case) -> str:
    """Why two recordings of one variant and case do not agree; "" where they do."""
    if now == recorded:
        return ""
    if now.expectation != recorded.expectation:
        return "what the variant claims of this case has changed"
    if now.refusal or recorded.refusal:
        if now.refusal and recorded.refusal:
            return ""  # each says what the expectation wants; the rest names a line of Caffe's
        return f"it said {recorded.refusal or 'nothing'!r}, now {now.refusal or 'nothing'!r}"
    computed = {name: key for name, key in now.digests.items() if key is not None}
    before = {name: old.tensors[key] for name, key in recorded.digests.items() if key is not None}
    if computed.keys() != before.keys():
        return f"it computes {', '.join(map(spoken, computed))} now"
    claimed = now.expectation.layer if now.expectation else ""
    expected = as_truth(before, doubled(LAYERS[claimed or now.layer], case))
    return agreement_words(
        {name: compare(name, new.tensors[key], expected) for name, key in computed.items()}
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Records or checks; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m parity_tests.recorded.record",
        description="Record what the real Caffe computes, or compare a corpus with it.",
        epilog="exit status: 0 recorded, or no difference; 1 a difference; 2 not carried out",
    )
    add = parser.add_argument
    add("--check", action="store_true", help="compare, and write nothing")
    add("--corpus", type=Path, default=corpora.FOLDER, metavar="DIR")
    add("--case", action="append", default=[], metavar="NAME", help="only this case; repeatable")
    try:
        options = parser.parse_args(arguments)
        return (_check if options.check else _write)(options.corpus, _chosen(options))
    except SystemExit as ended:
        return int(ended.code or 0)
    except (ParityError, OSError) as error:
        print(f"record: {error}", file=sys.stderr)
        return 2
    finally:
        SESSION.close()


def _chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that are asked for.

    Raises:
        BadRequest: there is none of a name, or the suite's own corpus would be cut down.
    """
    unknown = sorted(set(options.case) - {case.name for case in CASES})
    if unknown:
        raise BadRequest(f"unknown case {', '.join(unknown)}; reference/cases.py has them")
    if options.case and not options.check and options.corpus == corpora.FOLDER:
        raise BadRequest("--case would cut down the suite's own corpus; give another --corpus DIR")
    return [case for case in CASES if not options.case or case.name in options.case]


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
        shown = "\n  ".join(wrong)
        raise BadRequest(f"nothing is recorded that the reference contradicts:\n  {shown}")
    with contextlib.suppress(Damaged):
        old = corpora.load(folder).provenance
        undated = {**new.provenance, "date": old["date"], "commit": old["commit"]}
        files = corpora.packed(replace(new, provenance=undated))
        if all((folder / name).read_bytes() == each for name, each in files.items()):
            print(f"{folder}: nothing has changed since {old['date']}; left as it is")
            return 0
    corpora.write(new, folder)
    corpora.load(folder)  # what cannot be read back was not recorded
    print(f"{folder}: {len(new.recordings)} recordings")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
