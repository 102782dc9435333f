"""Writes docs/layers.md: what is proved of each layer type's counterpart, and where people fall.

python -m studies.layers.page
"""

from __future__ import annotations

import ast
import datetime
import fcntl
import hashlib
import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caffe_parity import ports
from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import GRADIENT, Floating, Shape
from caffe_parity.engine.functions import Evaluation
from caffe_parity.engine.random_rounding import as_inputs
from caffe_parity.ports import PORTS, Port, recurrent
from studies.layers.corners import CORNERS, FOLDER
from studies.layers.example import (
    AGREES,
    IMPOSSIBLE,
    REFUSED,
    UNPROVEN,
    Example,
    planned,
    read,
    seen,
)
from studies.layers.search import ENOUGH, Counted, draw

COUNTED = FOLDER / "counted.json"
PAGE = Path(__file__).parents[2] / "docs/layers.md"
CATALOGUE = Path(ports.__file__).parent


def counts() -> dict[str, dict[str, Any]]:
    """What was counted, by type."""
    found: dict[str, dict[str, Any]] = json.loads(COUNTED.read_text()) if COUNTED.exists() else {}
    return found


def add(counted: Counted, seed: int, code: str) -> None:
    """Puts the counts of a type in place of those of a run before; other processes may, too.

    Args:
        counted: what was seen.
        seed: what the cases were drawn from.
        code: the catalogue that they were compared with.
    """
    told = {
        "agree": counted.outcomes[AGREES],
        "same bits": counted.same_bits,
        "unproven": counted.outcomes[UNPROVEN],
        "refused by Caffe": counted.outcomes[REFUSED],
        "undefined in Caffe": counted.outcomes[IMPOSSIBLE],
        "worst": math.ceil(100 * counted.worst) / 100,
        "seed": seed,
        "drawn": counted.drawn,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "code": code,
    }
    with COUNTED.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        known = {**json.loads(file.read() or "{}"), counted.kind: told}
        file.truncate(0)
        file.write(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


def before(kind: str, seed: int, round_: int, code: str) -> Counted | None:
    """What was counted of a type so far, if the catalogue and what is drawn are as they were.

    Args:
        kind: the type.
        seed: what the first of the cases were drawn from.
        round_: how many are drawn from each seed.
        code: of now.
    """
    known = counts().get(kind)
    if known is None or (known["seed"], known["code"]) != (seed, code) or known["drawn"] % round_:
        return None
    names = {AGREES: "agree", UNPROVEN: "unproven"}
    names |= {REFUSED: "refused by Caffe", IMPOSSIBLE: "undefined in Caffe"}
    outcomes = Counter({each: known[name] for each, name in names.items()})
    found = Counted(kind, outcomes, known["same bits"], worst=known["worst"], drawn=known["drawn"])

    def again(example: Example) -> None:
        found.known.add(str(example))
        found.fields |= example.fields

    for example in CORNERS[kind]:
        again(example)
    for first in range(0, found.drawn, round_):
        draw(again, kind, min(round_, found.drawn - first), seed + first // round_)
    return found


def code() -> str:
    """A digest of the code, without its words, of the catalogue and of what draws the cases."""
    made = hashlib.sha256()
    for file in (*sorted(CATALOGUE.glob("*.py")), FOLDER / "strategies.py"):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                node.body = [each for each in node.body if not _is_text(each)]
        made.update(ast.dump(tree).encode())
    return made.hexdigest()[:16]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _torch_lstm(x: Tensor, weight: Tensor, bias: Tensor, recurrent: Tensor) -> Tensor:
    """PyTorch's LSTM with Caffe's blobs as they are."""
    return _called(torch.nn.LSTM, x, weight, bias, recurrent)


def _torch_rnn(x: Tensor, weight: Tensor, bias: Tensor, recurrent: Tensor, *_: Tensor) -> Tensor:
    """PyTorch's RNN with Caffe's blobs as they are."""
    return _called(torch.nn.RNN, x, weight, bias, recurrent)


def _called(kind: Any, x: Tensor, weight: Tensor, bias: Tensor, recurrent: Tensor) -> Tensor:
    names = {"weight_ih_l0": weight, "bias_ih_l0": bias, "weight_hh_l0": recurrent}
    module = kind(weight.shape[1], recurrent.shape[1]).to(x.dtype)
    top: Tensor = torch.func.functional_call(module, {**names, "bias_hh_l0": 0 * bias}, x)[0]
    return top


def _unit(cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """An LSTM's step as it is written."""
    i, f, o, g = gates.chunk(4, -1)
    cell = cont.unsqueeze(-1) * f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return cell, o.sigmoid() * cell.tanh()


def _with_states(x: Tensor, cont: Tensor, *more: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An LSTM, through the last states of which the gradient passes."""
    weight, bias, hidden_weight, hidden, cell = more
    y, _, cell = recurrent.lstm(x, cont, weight, bias, hidden_weight, hidden=hidden, cell=cell)
    return y, y[-1:], cell


OFFERED = {
    "torch": torch,
    "F": functional,
    "lstm": recurrent.lstm,
    "torch_lstm": _torch_lstm,
    "torch_rnn": _torch_rnn,
    "unit": _unit,
    "with_states": _with_states,
}
"""What the expressions of traps.toml may use, beside the bottoms."""


@dataclass(frozen=True)
class Trap:
    """What people write in place of a layer, where it is something else.

    Attributes:
        example: the layer, and inputs that show it.
        words: what Caffe does.
        naive: what is written, as an expression.
        of: what is shown of both: "top0", "gradient:x", "state[0]".
    """

    example: Example
    words: str
    naive: str
    of: str = "top0"

    def shown(self) -> tuple[str, bool]:
        """What both give, in words, and whether it is beyond the bound."""
        caffe, naive, bound = self._both()
        if caffe.shape != naive.shape:
            return f"{_shape(caffe.shape)} against {_shape(naive.shape)}", True
        gap = np.where(np.isnan(caffe) != np.isnan(naive), np.inf, np.abs(caffe - naive))
        place = np.unravel_index(int(np.argmax(gap)), gap.shape)
        limit = bound[place] if np.isfinite(bound[place]) else 0.0  # at a kink: any other value
        return f"{caffe[place]:.4g} against {naive[place]:.4g}", bool(gap[place] > limit)

    def _both(self) -> tuple[Floating, Floating, Floating]:
        """What Caffe gives, what was written gives in float64, and the bound."""
        ready, _ = planned(self.example, PORTS[self.example.type])
        plan, expected = ready.plan, ready.question.expected[0]
        first = next(each for each in plan.nets[0] if each.expected == 0)

        def written(**tensors: Tensor) -> Any:
            lists = {
                kind: [each for name, each in tensors.items() if name.startswith(f"{kind}[")]
                for kind in ("param", "state")
            }
            return eval(self.naive, {**OFFERED, **tensors, **lists})  # noqa: S307  # ours

        gradient = self.of.startswith(GRADIENT)
        outputs = plan.structure.outputs if gradient else (self.of,)
        wanted = plan.differentiated if gradient else ()
        upstream = None if first.upstream is None or not gradient else as_inputs(first.upstream)
        naive = Evaluation(written, "port", plan.case, outputs, wanted)
        result = naive(as_inputs(first.inputs), upstream)[self.of].numpy()
        caffe = seen(ready).tensors[first.name][self.of]
        assert caffe is not None
        truth, bound = expected.truth[self.of], expected.bound.worst[self.of]
        return caffe.reshape(truth.shape).astype(np.float64), result, bound


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "one number"


TRAPS = tuple(
    Trap(read(each["type"], each["line"]), each["words"], each["naive"], each.get("of", "top0"))
    for each in tomllib.loads((FOLDER / "traps.toml").read_text())["trap"]
)

HEAD = (FOLDER / "head.md").read_text()


def text() -> str:
    """The page.

    Raises:
        AssertionError: a trap is none.
    """
    from studies.layers.mutants import MUTANTS

    rows = [
        "| type | state | in PyTorch | cases | bits | error / bound, at most |",
        "|---" * 6 + "|",
    ]
    counted = counts()
    rows += [_row(port, counted.get(port.type)) for port in PORTS.values()]
    total = sum(each["agree"] for each in counted.values())
    drawn = min((each["drawn"] for each in counted.values()), default=0)
    lines = [
        HEAD.replace("MUTANTS", str(len(MUTANTS)))
        .replace("CASES", f"{total:,}")
        .replace("DRAWN", f"{drawn:,}")
        .replace("ENOUGH", f"{ENOUGH:g}")
        .replace("WHEN", _when(counted)),
        *rows,
        "\n## What cannot have a counterpart\n",
        *(f"- `{each.type}`: {words}." for each in PORTS.values() for words in each.impossible),
        "\n## Traps\n",
        "The first number or shape is Caffe's, the second that of the expression beside it.\n",
        "| type | what Caffe does | what shows it | instead of |",
        "|---" * 4 + "|",
        *_traps(),
    ]
    return "\n".join(lines) + "\n"


def _when(counted: Mapping[str, Mapping[str, Any]]) -> str:
    """When the cases were counted, and which of them with other code than there is now."""
    dates = sorted({each["date"] for each in counted.values()})
    old = [f"`{kind}`" for kind, each in counted.items() if each["code"] != code()]
    days = f"on {dates[0]}" if len(dates) == 1 else f"from {dates[0]} to {dates[-1]}"
    words = f"They were counted {days}, with the catalogue as it is"
    return words + (f", but for {', '.join(old)}: before a change of it." if old else ".")


def _row(port: Port, counted: dict[str, Any] | None) -> str:
    if port.calls is None:
        return f"| `{port.type}` | {port.state} | {port.note} | | | |"
    functions = {
        f"`{each.function.__module__.rpartition('.')[2]}.{each.function.__name__}`": None
        for example in CORNERS[port.type]
        for each in port.of(example.said)
    }
    words = ", ".join(functions) + (f"; {port.note}" if port.note else "")
    if counted is None:
        return f"| `{port.type}` | not yet | {words} | | | |"
    return (
        f"| `{port.type}` | {port.state} | {words} | {counted['agree']:,} | "
        f"{counted['same bits']:,} | {counted['worst']:g} |"
    )


def _traps() -> Iterator[str]:
    order = list(PORTS)
    for trap in sorted(TRAPS, key=lambda each: order.index(each.example.type)):
        shown, is_one = trap.shown()
        assert is_one, f"no trap: {trap.example}: {shown}"
        of = f"d{trap.of.removeprefix(GRADIENT)} " if trap.of.startswith(GRADIENT) else ""
        says = f"`{trap.example.says}` " if trap.example.says else ""
        naive = trap.naive.replace("|", "\\|")
        yield (f"| `{trap.example.type}` | {trap.words} | {says}{of}{shown} | `{naive}` |")


def main() -> int:
    """Writes the page."""
    PAGE.write_text(text())
    SESSION.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
