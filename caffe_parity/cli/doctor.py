"""Say what this machine has, what the suite can run on it, and why the rest cannot run.

It only looks: nothing is installed, and whatever is missing or broken is reported, not raised.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caffe_parity.caffe import cache, driver, install, interpreter
from caffe_parity.caffe.ask import blas
from caffe_parity.checkout import advice
from caffe_parity.report.host import processor

EXAMPLES = """\
  parity doctor
  parity doctor --json
"""

WIDTH = 100  # columns
LABEL = 15  # columns of the left part
_BLAS_NAMES = {"openblas": "OpenBLAS", "mkl": "MKL", "blis": "BLIS", "atlas": "ATLAS"}


def examine() -> dict[str, Any]:
    """Return what is on this machine, as a dict that `json.dumps` accepts.

    `cannot_run` lists what cannot run as {"what", "why", "do"}; `ready` is whether the main job
    (real Caffe against PyTorch) can run, if need be after an install of Caffe.
    """
    report: dict[str, Any] = {
        "caffe": _caffe(),
        "torch": _torch(),
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "numpy": _version_of("numpy"),
        "compiler": _compiler(),
        "nvcc": _nvcc(),
        "gpu": _gpu(),
        "machine": {"cpu": processor(), "cores": os.cpu_count() or 1, "os": _system()},
        "cache": _cache(),
    }
    names = ("what", "why", "do")
    report["cannot_run"] = [dict(zip(names, each, strict=True)) for each in _cannot_run(report)]
    caffe = report["caffe"]["found"] or report["caffe"]["installable"]
    report["ready"] = bool(caffe and report["torch"]["found"] and report["numpy"])
    return report


def _caffe() -> dict[str, Any]:
    """Return what Caffe says about itself, or why there is none, and whether one can be had."""
    found: dict[str, Any] = {"found": False, "installable": False}
    if os.environ.get("CAFFE_PYTHON"):
        found["source"] = "CAFFE_PYTHON"
    try:
        python = interpreter.find(install=False)
        found |= {"source": python.source, "command": list(python.command)}
        facts = interpreter.verify(python)
    except interpreter.NotInstalled as missing:
        try:
            install.check_host()
        except install.InstallError as error:
            return {**found, "problem": error.happened, "advice": error.advice}
        return {
            **found,
            "installable": True,
            "problem": missing.happened,
            "advice": missing.advice,
        }
    except interpreter.NoCaffe as error:
        return {**found, "problem": error.happened, "advice": error.advice}
    libraries, types = facts.pop("libraries"), facts.pop("layer_types")
    installed = _installed(python.root)
    used = blas(libraries)
    names = [name for part, name in _BLAS_NAMES.items() if any(part in Path(f).name for f in used)]
    cuda = any(re.search(r"/lib(cudart|cublas|cuda)\.so", file) for file in libraries)
    return {
        **found,
        "found": True,
        **facts,
        "layer_types": len(types),
        "python_layers": "Python" in types,
        "package": installed.get("packages", {}).get("python3-caffe"),
        "installed_in": {"seconds": installed.get("seconds"), "steps": installed.get("took", {})},
        "blas": {"name": [*names, "reference" if used else "unknown"][0], "files": used},
        "device": "CUDA" if cuda else "CPU",
    }


def _installed(root: Path | None) -> dict[str, Any]:
    """Return what is noted of an install: versions of packages, and how long each step took."""
    noted: dict[str, Any] = json.loads((root / install.COMPLETE).read_text()) if root else {}
    return noted


def _torch() -> dict[str, Any]:
    try:
        import torch
    except Exception as error:  # a broken build raises anything: OSError, RuntimeError ...
        return {"found": False, "problem": f"{type(error).__name__}: {error}".splitlines()[0]}
    cuda = torch.cuda.is_available()
    return {
        "found": True,
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count() * cuda)],
    }


def _compiler() -> dict[str, Any]:
    """Return the C++ compiler that torch.compile would call, and what else it needs."""
    name = os.environ.get("CXX") or "g++"
    path = shutil.which(name)
    include = sysconfig.get_paths()["include"]
    return {
        "name": name,
        "path": path,
        "version": (_output(path, "-dumpfullversion", "-dumpversion").strip() if path else None),
        "python_headers": (Path(include) / "Python.h").is_file(),
    }


def _nvcc() -> dict[str, Any]:
    """Return the CUDA compiler on PATH, in CUDA_HOME, or from PyPI."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    pypi = importlib.util.find_spec("nvidia")
    for folder in pypi.submodule_search_locations or () if pypi else ():
        homes += [f"{folder}/cu13", f"{folder}/cuda_nvcc"]
    names = ("nvcc", *(f"{home}/bin/nvcc" for home in homes))
    path = next(filter(None, map(shutil.which, names)), None)
    version = re.search(r"V(\d[\d.]*)", _output(path, "--version") if path else "")
    return {"path": path, "version": version and version[1]}


def _gpu() -> dict[str, Any]:
    """Return the names of the CUDA devices, as the driver tells them, or why it does not."""
    try:
        return {"devices": list(driver.devices()), "problem": None}
    except driver.DriverError as error:
        return {"devices": [], "problem": str(error)}


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.machine()}"


def _cache() -> dict[str, Any]:
    folder = cache.folder()
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    root = install.installed()
    return {
        "folder": str(folder),
        "installed": str(root) if root else None,
        "free_bytes": shutil.disk_usage(there).free,
        "writable": os.access(there, os.W_OK),
    }


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    """Return what `command` prints, an empty string if it cannot run or fails."""
    try:
        ran = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout if ran.returncode == 0 else ""


def _cannot_run(report: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield what cannot run here, why, and what would change that."""
    caffe, torch, gpu = report["caffe"], report["torch"], report["gpu"]
    if not caffe["found"]:
        which = "the Caffe variants, until then" if caffe["installable"] else "all Caffe variants"
        yield which, caffe["problem"], caffe["advice"]
    elif not caffe["python_layers"]:
        yield (
            "caffe-python",
            "this Caffe was built without Python layers.",
            "build it with WITH_PYTHON_LAYER=1 (make) or BUILD_python_layer=ON (cmake).",
        )
    if os.environ.get("PARITY_BLAS") and caffe.get("source") == "CAFFE_PYTHON":
        yield (
            f"the BLAS asked for with PARITY_BLAS={os.environ['PARITY_BLAS']}",
            "CAFFE_PYTHON is set, and that Caffe comes with its own BLAS.",
            "unset one of the two.",
        )
    if not torch["found"]:
        yield (
            "the reference and all torch variants",
            f"PyTorch cannot be imported ({torch['problem']}).",
            _get("torch"),
        )
    elif not report["compiler"]["path"]:
        yield (
            "torch-compiled",
            f"torch.compile needs a C++ compiler, and there is no {report['compiler']['name']}.",
            "install g++, or set CXX to a C++ compiler.",
        )
    elif not report["compiler"]["python_headers"]:
        yield (
            "torch-compiled",
            "torch.compile needs this Python's headers, and there is no Python.h.",
            "install them (on Debian: python3-dev).",
        )
    if not report["numpy"]:
        yield "everything", "NumPy is not installed.", _get("numpy")
    if not report["nvcc"]["path"]:
        yield (
            "the check that the CUDA kernels compile",
            "there is no nvcc on PATH, in CUDA_HOME or from PyPI.",
            "install a CUDA toolkit, or nvidia-cuda-nvcc from PyPI.",
        )
    if gpu["problem"]:
        yield "anything on a GPU", f"{gpu['problem']}.", "mend it: nvidia-smi says more."
    elif not gpu["devices"]:
        yield (
            "anything on a GPU",
            "not run: no CUDA device.",
            "run on a machine with an NVIDIA GPU and its driver.",
        )
    elif caffe["found"] and caffe["device"] != "CUDA":
        yield (
            "Caffe in GPU mode",
            "this Caffe is built for the CPU only.",
            "set PARITY_CAFFE=cuda, or CAFFE_PYTHON to the Python of a Caffe built with CUDA.",
        )
    if gpu["devices"] and torch["found"] and not torch["gpus"]:
        built = "does not see the GPU" if torch["cuda"] else "is built for the CPU only"
        yield (
            "PyTorch on the GPU",
            f"this PyTorch {built}.",
            "install a PyTorch built for CUDA that fits the driver.",
        )


def _get(package: str) -> str:
    """Return how to get a package that everything needs."""
    return advice("run through `tox -e parity`, which brings it.", f"run `pip install {package}`.")


def render(report: dict[str, Any]) -> str:
    """Return the `report` of `examine` as text for a terminal of 100 columns."""
    lines: list[str] = []
    for label, texts in (
        ("Caffe", _caffe_lines(report["caffe"])),
        ("PyTorch", _torch_lines(report["torch"])),
        ("Python", [f"{report['python']['version']}, NumPy {report['numpy'] or 'not installed'}"]),
        ("C++ compiler", [_tool(report["compiler"]["name"], report["compiler"])]),
        ("CUDA compiler", [_tool("nvcc", report["nvcc"])]),
        ("GPU", report["gpu"]["devices"] or ["no CUDA device"]),
        ("Machine", [_machine_line(report["machine"]), report["machine"]["os"]]),
        ("Cache", [_cache_line(report["cache"])]),
    ):
        for text in texts:
            lines += _wrapped(text, label)
            label = ""
    if report["cannot_run"]:
        lines += ["", "Cannot run here"]
    for entry in report["cannot_run"]:
        lines += _wrapped(entry["what"], "", indent=2)
        lines += _wrapped(entry["why"], "    why", indent=9)
        lines += _wrapped(entry["do"], "    do", indent=9)
    lines += ["", _conclusion(report)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _caffe_lines(caffe: dict[str, Any]) -> list[str]:
    if caffe["installable"]:
        return ["not installed yet"]
    if not caffe["found"]:
        return ["none that works"]
    device = "with CUDA" if caffe["device"] == "CUDA" else "CPU only"
    origin = "CAFFE_PYTHON" if caffe["source"] == "CAFFE_PYTHON" else "installed by this project"
    blas = caffe["blas"]
    files = ", ".join(os.path.basename(file) for file in blas["files"])
    layers = "compiled in" if caffe["python_layers"] else "not compiled in"
    took = caffe["installed_in"]
    steps = ", ".join(f"{step} {seconds} s" for step, seconds in took["steps"].items())
    return [
        f"{caffe['version']}, {device}, {origin}",
        *([f"Debian package {caffe['package']}"] if caffe["package"] else []),
        f"Python {caffe['python']}, NumPy {caffe['numpy']}, protobuf {caffe['protobuf']}",
        f"BLAS: {blas['name']}" + (f" ({files})" if files else ""),
        f"{caffe['layer_types']} layer types, Python layers {layers}",
        *([f"installed in {took['seconds']} s: {steps}"] if steps else []),
        caffe["command"][-1],
    ]


def _torch_lines(torch: dict[str, Any]) -> list[str]:
    if not torch["found"]:
        return ["not importable"]
    build = f"built for CUDA {torch['cuda']}" if torch["cuda"] else "CPU only"
    return [f"{torch['version']}, {build}, {torch['threads']} threads"]


def _tool(name: str, tool: dict[str, Any]) -> str:
    if not tool["path"]:
        return f"no {name}"
    return f"{os.path.basename(name)} {tool['version'] or 'of unknown version'} ({tool['path']})"


def _machine_line(machine: dict[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['cores']} core{'s' * (machine['cores'] != 1)}"


def _cache_line(cache: dict[str, Any]) -> str:
    writable = "" if cache["writable"] else ", not writable"
    return f"{cache['folder']} ({cache['free_bytes'] / 1e9:.1f} GB free{writable})"


def _conclusion(report: dict[str, Any]) -> str:
    if not report["ready"]:
        return "Caffe and PyTorch cannot be compared here until the above is mended."
    if report["caffe"]["installable"]:
        return "Caffe and PyTorch can be compared here, once Caffe is installed."
    return "Caffe and PyTorch can be compared here."


def _wrapped(text: str, label: str, indent: int = LABEL) -> list[str]:
    """Return the lines of `text`, each wrapped, behind a column that starts with `label`."""
    lines: list[str] = []
    for part in text.splitlines():
        head = label.ljust(indent) if not lines else " " * indent
        lines += textwrap.wrap(
            part.strip(),
            WIDTH,
            initial_indent=head,
            subsequent_indent=" " * indent,
            break_long_words=False,  # paths are copied
            break_on_hyphens=False,
        )
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity doctor`."""
    parser.add_argument("-q", "--quiet", action="store_true", help="one line: what it comes to")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def carried_out(options: argparse.Namespace) -> int:
    """Prints what there is; returns 0 if Caffe and PyTorch can be compared here, 1 if not."""
    report = examine()
    text = f"{_conclusion(report)}\n" if options.quiet else render(report)
    print(json.dumps(report, indent=2) + "\n" if options.json else text, end="")
    return 0 if report["ready"] else 1
