"""Counts what a check gets wrong: findings on correct layers, broken layers without theirs.

    python -m studies.false_alarms [--seeds N] [--only NAME]

Every layer of examples/ that agrees with its reference runs on N inputs, each with a seed and a
scale of its own: any finding is a false alarm. Then each is broken in some ways by replacing a
piece of its source, and every breakage must be found under the right code.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_impl.variants import shared_caffe
from caffe_parity.caffe.client import Caffe
from caffe_parity.check import examine
from caffe_parity.check.command import parser
from caffe_parity.check.prepare import prepared

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Breakage:
    """One mistake in a layer.

    Attributes:
        old: a piece of its source, which occurs once.
        new: what stands there instead.
        code: the finding that it must cause.
    """

    old: str
    new: str
    code: str


_TWO_SIDED = Breakage(
    "bottom[index].diff[...] = sign *", "bottom[index].diff[...] =", "gradient:x2"
)

BREAKAGES: dict[str, tuple[Breakage, ...]] = {
    "smooth_l1": (
        Breakage("(top[0].diff.flat[0] / bottom", "(1 / bottom", "ignores-top-diff"),
        Breakage("np.sum(values) / bottom[0].shape[0]", "np.mean(values)", "forward-value"),
        Breakage("size < 1", "size < 2", "forward-value"),
        Breakage("np.clip(self.d, -1, 1)", "np.clip(self.d, -2, 2)", "gradient:x1"),
        Breakage("diff[...] = sign", "diff[...] += sign", "accumulates-diff:x1"),
        _TWO_SIDED,
    ),
    "dice": (
        Breakage("top[0].diff.flat[0] / n", "1 / np.float32(n)", "ignores-top-diff"),
        Breakage("np.mean(1 -", "np.sum(1 -", "forward-value"),
        Breakage("slope = 2 * (p * self", "slope = 2 * (t * self", "gradient:p"),
        Breakage(
            "        self.above = ", "        p += 0.001\n        self.above = ", "mutates-bottom:p"
        ),
        Breakage("np.float32(1)", "np.float32(0.999)", "forward-value"),
    ),
    "triplet": (
        Breakage("2 * top[0].diff.flat[0]", "2.0", "ignores-top-diff"),
        Breakage("scale = self.active *", "scale =", "gradient:anchor"),
        Breakage("(negative - positive, ", "(positive - negative, ", "gradient:anchor"),
        Breakage("+ self.margin", "- self.margin", "forward-value"),
        Breakage(
            "range(3):\n            if", "range(2):\n            if", "unwritten-diff:negative"
        ),
    ),
    "contrastive": (
        Breakage("slope *= top[0].diff.flat[0] /", "slope /=", "ignores-top-diff"),
        Breakage("(1 - self.same) * repel", "repel", "gradient:x1"),
        Breakage("/ (2 * n)", "/ n", "forward-value"),
        Breakage("        slope *=", "        self.d *= 2\n        slope *=", "stale-state"),
        _TWO_SIDED,
    ),
    "cosine": (
        Breakage("top[0].diff.flat[0] / bottom", "np.float32(1) / bottom", "ignores-top-diff"),
        Breakage(" / self.lengths[index]", "", "gradient:x1"),
        Breakage("across = self.cosine * self.units[index] -", "across = -", "gradient:x2"),
        Breakage("np.mean(1 - self", "np.sum(1 - self", "forward-value"),
        Breakage(
            "diff[...] = scale * across", "diff[...] += scale * across", "accumulates-diff:x2"
        ),
    ),
    "kl": (
        Breakage("top[0].diff.flat[0] / bottom", "np.float32(1) / bottom", "ignores-top-diff"),
        Breakage("np.log(target) - (", "-(", "forward-value"),
        Breakage("(mass * self.prob - target)", "(target - mass * self.prob)", "gradient:logits"),
        Breakage(
            "diff[...] = scale * (mass * self.prob - target)",
            "diff[1:] = (scale * (mass * self.prob - target))[1:]",
            "unwritten-diff:logits",
        ),
        Breakage(
            "shifted = bottom[0].data -",
            "shifted = bottom[0].data\n        shifted -=",
            "mutates-bottom:logits",
        ),
    ),
    "masked": (
        Breakage("top[0].diff.flat[0] / self", "1 / self", "ignores-top-diff"),
        Breakage("max(np.sum(mask), 1)", "mask.size", "forward-value"),
        Breakage("self.d = mask * (", "self.d = (", "forward-value"),
        Breakage("max(np.sum(mask), 1)", "bottom[0].shape[0]", "gradient:x1"),
        Breakage(
            "        top[0].data",
            "        self.d = self.__dict__.setdefault('first', self.d)\n        top[0].data",
            "stale-state",
        ),
    ),
    "weighted_bce": (
        Breakage("top[0].diff.flat[0] / bottom", "np.float32(1) / bottom", "ignores-top-diff"),
        Breakage("scale * weight *", "scale *", "gradient:x"),
        Breakage("np.sum(weight * values)", "np.sum(values)", "forward-value"),
        Breakage("np.exp(-x)) - t", "np.exp(x)) - t", "gradient:x"),
        Breakage(
            "np.sum(weight * values)",
            "np.sum(weight * values) * np.random.uniform(0.5, 1)",
            "not-deterministic",
        ),
    ),
    "l2_normalize": (
        Breakage("(dy - y * along) / self.length", "(dy - y * along)", "gradient:x"),
        Breakage(
            "(dy - y * along)", "(1 - y * np.sum(y, axis=1, keepdims=True))", "ignores-top-diff"
        ),
        Breakage("(dy - y * along)", "dy", "gradient:x"),
        Breakage("axis=1, keepdims=True) + TINY", "axis=0, keepdims=True) + TINY", "forward-value"),
        Breakage("along) / self.length", "along) / self.length\n            y *= 2", "stale-state"),
    ),
    "channel_scale": (
        Breakage("blobs[0].diff[...] +=", "blobs[0].diff[...] =", "overwrites-param-diff:param[0]"),
        Breakage("np.sum(dy * b", "np.sum(b", "ignores-top-diff"),
        Breakage("np.sum(dy, axis=others)", "np.mean(dy, axis=others)", "gradient:param[1]"),
        Breakage("dy * self.per", "self.per", "ignores-top-diff"),
        Breakage(
            "(blob.data, bottom[0]) for blob in self.blobs)",
            "(value, bottom[0]) for value in self.__dict__.setdefault("
            "'kept', [blob.data.copy() for blob in self.blobs]))",
            "stale-state",
        ),
        Breakage("+= np.sum(dy, axis=others)", "+= 0", "unwritten-diff:param[1]"),
        Breakage(
            "+ offset\n",
            "+ offset\n        self.blobs[0].data[...] *= 2\n",
            "mutates-param:param[0]",
        ),
    ),
    "softmax": (
        Breakage("top[0].diff.flat[0] / self", "1 / self", "ignores-top-diff"),
        Breakage(" * self.kept\n", "\n", "gradient:logits"),
        Breakage("max(np.count_nonzero(self.kept), 1)", "label.size", "forward-value"),
        Breakage("- self.chosen)", "- 2 * self.chosen)", "gradient:logits"),
        Breakage("label != IGNORED", "label > 0", "forward-value"),
    ),
}
"""What is broken in each correct layer of examples/, by the name of its reference."""


def command_of(name: str) -> list[str]:
    """The arguments of `parity check` that the layer of an example gives in its docstring."""
    text = (EXAMPLES / f"{name}_layer.py").read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.strip().startswith("parity check "))
    return shlex.split(line)[2:]


def check_of(name: str, caffe: Caffe, cases: int) -> examine.Check:
    """The check that an example's docstring asks for, with so many cases."""
    arguments = [*command_of(name), "--cases", str(cases)]
    places = [each.replace("examples/", f"{EXAMPLES}/", 1) for each in arguments]
    return prepared(parser().parse_args(places), caffe)


@contextlib.contextmanager
def broken(check: examine.Check, name: str, number: int) -> Iterator[examine.Check]:
    """The check of an example with its layer broken.

    Args:
        check: of the layer as it is.
        name: the example.
        number: which of its breakages.
    """
    breakage = BREAKAGES[name][number]
    source = (EXAMPLES / f"{name}_layer.py").read_text()
    if source.count(breakage.old) != 1:
        raise ValueError(f"{name}: {breakage.old!r} does not occur once")
    module = f"{name}_layer_{number}"  # Caffe's Python imports a module of one name only once
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{module}.py").write_text(source.replace(breakage.old, breakage.new))
        net = check.plan.net
        text = net.text.replace(f'"{name}_layer"', f'"{module}"')
        plan = replace(check.plan, net=replace(net, text=text, path=(folder,)))
        yield replace(check, plan=plan)


def missed(check: examine.Check, caffe: Caffe, name: str) -> Iterator[str]:
    """The breakages of an example that are not found under the right code, in words."""
    for number, breakage in enumerate(BREAKAGES[name]):
        with broken(check, name, number) as spoilt:
            found = examine.run(spoilt, caffe, lambda case: None).found
        if breakage.code not in found:
            codes = ", ".join(found) or "nothing"
            yield f"{name}: {breakage.new!r} is {breakage.code}, found: {codes}"


def main(arguments: list[str] | None = None) -> int:
    """Prints the figures; returns 1 if there is a false alarm or a miss."""
    made = argparse.ArgumentParser(prog="python -m studies.false_alarms")
    made.add_argument("--seeds", type=int, default=200, metavar="N")
    made.add_argument("--only", choices=list(BREAKAGES), metavar="NAME")
    options = made.parse_args(arguments)
    failed = 0
    with shared_caffe() as caffe:
        for name in [options.only] if options.only else BREAKAGES:
            check = check_of(name, caffe, options.seeds)
            verdict = examine.run(check, caffe, lambda case: None)
            misses = list(missed(replace(check, cases=8), caffe, name))
            alarms = {code: len(cases) for code, (_, cases) in verdict.found.items()}
            worst = max(verdict.largest.values())
            print(
                f"{name:14} {verdict.cases} seeds, {sum(alarms.values())} false alarms, "
                f"{len(BREAKAGES[name]) - len(misses)} of {len(BREAKAGES[name])} breakages caught, "
                f"largest error {worst:.2g} of its bound, {verdict.seconds:.0f} s",
                flush=True,
            )
            for line in [*(f"{name}: {code}, {n} cases" for code, n in alarms.items()), *misses]:
                print(f"  {line}", flush=True)
            failed += len(alarms) + len(misses)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
