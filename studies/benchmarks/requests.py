"""A case through the worker against the same in a pycaffe process of one's own, in one run.

    python -m studies.benchmarks.requests [--rounds N]

Both build the net, fill its inputs, run forward and backward, and read the loss and both gradients.
They take turns, so that what else the machine does hits both.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np

from caffe_parity import ParityError
from caffe_parity.caffe.client import Op
from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import Shape

SHAPES: dict[Shape, float] = {(4, 3, 5, 6): 1.5, (64, 64, 56, 56): 1.2}
"""The shape of each input, and what the ratio should not exceed."""

NET = """
force_backward: true
layer {{ name: "x1" type: "Input" top: "x1" input_param {{ shape {{ {dims} }} }} }}
layer {{ name: "x2" type: "Input" top: "x2" input_param {{ shape {{ {dims} }} }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "x1" bottom: "x2" top: "loss" }}
"""

DIRECT = """
import json, sys, time
import numpy as np
import caffe

caffe.set_mode_cpu()
arrays = [np.load(each) for each in sys.argv[2:4]]
print("ready", flush=True)
for line in sys.stdin:
    seconds = []
    for _ in range(int(line)):
        start = time.perf_counter()
        net = caffe.Net(sys.argv[1], caffe.TRAIN)
        for name, array in zip(("x1", "x2"), arrays):
            net.blobs[name].data[...] = array
        net.forward()
        net.backward()
        results = [net.blobs["loss"].data.copy(), *(net.blobs[x].diff.copy() for x in ("x1", "x2"))]
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds), flush=True)
"""


@contextlib.contextmanager
def direct(text: str, arrays: list[np.ndarray]) -> Iterator[Callable[[int], list[float]]]:
    """The other process: what has it take so many turns, and returns the seconds of each."""
    interpreter = SESSION.running().interpreter
    with tempfile.TemporaryDirectory() as folder:
        net, *files = (Path(folder, name) for name in ("net.prototxt", "x1.npy", "x2.npy"))
        net.write_text(text)
        for file, array in zip(files, arrays, strict=True):
            np.save(file, array)
        with subprocess.Popen(
            [*interpreter.command, "-c", DIRECT, str(net), *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **interpreter.environment},
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            asks, answers = process.stdin, process.stdout
            answers.readline()  # it is ready

            def times(count: int) -> list[float]:
                print(count, file=asks, flush=True)
                seconds: list[float] = json.loads(answers.readline())
                return seconds

            yield times


def ours(text: str, arrays: list[np.ndarray], count: int) -> list[float]:
    """The seconds of so many requests."""
    ops: list[Op] = [
        {"op": "net", "text": text},
        *(
            {"op": "set", "blob": name, "array": each}
            for name, each in zip(("x1", "x2"), arrays, strict=True)
        ),
        {"op": "forward"},
        {"op": "backward"},
        {"op": "loss"},
        *({"op": "diff", "blob": name} for name in ("x1", "x2")),
    ]
    caffe, seconds = SESSION.running(), []
    for _ in range(count):
        start = time.perf_counter()
        caffe.request(ops)
        seconds.append(time.perf_counter() - start)
    return seconds


def measured(shape: Shape, rounds: int) -> tuple[float, float]:
    """The median seconds through the worker, and in a process of one's own."""
    dims = " ".join(f"dim: {each}" for each in shape)
    text = NET.format(dims=dims)
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(shape, dtype=np.float32) for _ in range(2)]
    count = 20 if np.prod(shape) < 1e5 else 1
    worker, own = [], []
    with direct(text, arrays) as times:
        for number in range(rounds + 1):
            pair = ours(text, arrays, count), times(count)
            if number:  # the first warms up
                worker += pair[0]
                own += pair[1]
    return median(worker), median(own)


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints; 1 if a target is missed by more than a quarter, 2 without a Caffe."""
    parser = argparse.ArgumentParser(prog="python -m studies.benchmarks.requests")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    status = 0
    try:
        for shape, target in SHAPES.items():
            worker, own = measured(shape, options.rounds)
            ratio = worker / own
            status |= ratio > 1.25 * target
            print(
                f"{'x'.join(map(str, shape)):14} worker {1e3 * worker:9.3f} ms, pycaffe alone "
                f"{1e3 * own:9.3f} ms, ratio {ratio:6.2f}, target {target}"
            )
    except ParityError as error:
        print(f"no Caffe to measure.\n{error}", file=sys.stderr)
        return 2
    SESSION.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
