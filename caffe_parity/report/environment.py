"""What a result depends on beside the code: versions, BLAS, processor."""

from pathlib import Path
from typing import Any

from caffe_parity.caffe import ask, gpu
from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.session import SESSION
from caffe_parity.contract import ParityError
from caffe_parity.report.host import host


def environment() -> dict[str, Any]:
    """The environment of this run as JSON data; Caffe's part only where one was started."""
    return {
        **host(),
        "device": SESSION.device,
        "gpu": gpu.facts() if SESSION.device == "cuda" else None,
        "caffe": _caffe(SESSION.used),
    }


def _caffe(caffe: Caffe | None) -> dict[str, Any] | None:
    if caffe is None:
        return None
    try:
        greeting = caffe.start()
    except ParityError:  # it crashed, and does not start any more
        caffe.close()
        return None
    return {
        "version": greeting["caffe"],
        "python": greeting["python"],
        "numpy": greeting["numpy"],
        "source": caffe.interpreter.source,
        "blas": blas(caffe),
    }


def blas(caffe: Caffe) -> list[str]:
    """The BLAS libraries that a running Caffe has loaded, by folder and file name."""
    libraries = caffe.request([{"op": "maps"}])[0]["libraries"]
    return ["/".join(Path(each).parts[-2:]) for each in ask.blas(libraries)]
