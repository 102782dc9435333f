"""Say what this machine has, what the suite can run on it, and why the rest cannot run.

It only looks: nothing is installed, and whatever is missing or broken is reported, not raised.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caffe_parity.caffe import install, interpreter

WIDTH = 100  # columns
LABEL = 15  # columns of the left part

# Run by Caffe's own Python. Which BLAS runs is known only once it is loaded, so the mapped files
# are asked; they also tell a CUDA build, in which `set_mode_gpu` succeeds without one as well.
_ASK_CAFFE = r"""
import json, sys
sys.path.pop(0)
import caffe, google.protobuf, numpy
with open("/proc/self/maps") as maps:
    files = sorted({line.split(None, 5)[5].strip() for line in maps if line.count("/")})
print("\n" + json.dumps({
    "version": getattr(caffe, "__version__", "unknown"),
    "module": caffe.__file__,
    "python": sys.version.split()[0],
    "numpy": numpy.__version__,
    "protobuf": google.protobuf.__version__,
    "layer_types": len(list(caffe.layer_type_list())),
    "python_layers": "Python" in list(caffe.layer_type_list()),
    "files": files,
}))
"""
_PACKAGE = "python3-caffe"
_BLAS_FILE = re.compile(r"lib(c?blas|openblas|mkl_rt|mkl_core|blis|[st]?atlas|flexiblas)[^/]*\.so")
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
        "machine": {"cpu": _cpu(), "cores": os.cpu_count() or 1, "os": _system()},
        "cache": _cache(),
    }
    report["gpu"] = _gpu(report["torch"])
    report["cannot_run"] = list(_cannot_run(report))
    report["ready"] = bool(
        (report["caffe"]["found"] or report["caffe"]["installable"])
        and report["torch"]["found"]
        and report["numpy"]
    )
    return report


def _caffe() -> dict[str, Any]:
    """Return what Caffe says about itself, or why there is none."""
    found: dict[str, Any] = {"source": "CAFFE_PYTHON"} if os.environ.get("CAFFE_PYTHON") else {}
    try:
        python = interpreter.find(install=False)
        found |= {"source": python.source, "command": list(python.command)}
        facts = _ask(python)
        if facts is None:
            interpreter.verify(python)  # knows how to say what is wrong
            raise interpreter.NoCaffe(
                "`import caffe` works, but google.protobuf or NumPy does not.",
                "mend that Python.",
            )
    except interpreter.NotInstalled as error:
        return _installable(error)
    except interpreter.NoCaffe as error:
        return {**found, "found": False, "installable": False, **_problem(error)}
    files = facts.pop("files")
    cuda = any(re.search(r"/lib(cudart|cublas|cuda)\.so", file) for file in files)
    return {
        **found,
        "found": True,
        "installable": False,
        **facts,
        "package": _package(python.source),
        "blas": _blas(files),
        "device": "CUDA" if cuda else "CPU",
    }


def _ask(python: interpreter.Interpreter) -> dict[str, Any] | None:
    answer = _output(*python.command, "-c", _ASK_CAFFE, environment=python.environment)
    try:
        facts: dict[str, Any] = json.loads(answer.splitlines()[-1])
    except (IndexError, ValueError):
        return None
    return facts


def _installable(missing: interpreter.NotInstalled) -> dict[str, Any]:
    """Return the entry of a Caffe that is not there yet, and whether it can be installed here."""
    try:
        install.check_host()
    except install.InstallError as error:
        return {"found": False, "installable": False, **_problem(error)}
    return {"found": False, "installable": True, **_problem(missing)}


def _problem(error: interpreter.NoCaffe | install.InstallError) -> dict[str, str]:
    return {"problem": error.happened, "advice": error.advice}


def _package(source: str) -> str | None:
    """Return the version of the Debian package, which tells the very commit of Caffe."""
    root = install.installed()
    if source != "installed" or root is None:
        return None
    try:
        version: str = json.loads((root / install.COMPLETE).read_text())["packages"][_PACKAGE]
    except (OSError, ValueError, KeyError):
        return None
    return version


def _blas(files: Sequence[str]) -> dict[str, Any]:
    """Return which BLAS is among the mapped `files`."""
    # NumPy's and SciPy's wheels bring one of their own, which Caffe does not use.
    used = [f for f in files if _BLAS_FILE.search(f) and not re.search(r"(num|sci)py[./]", f)]
    name = "reference" if used else "unknown"
    for part, known in _BLAS_NAMES.items():
        if any(part in os.path.basename(file) for file in used):
            name = known
    return {"name": name, "files": used}


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
    candidates = [shutil.which("nvcc"), *(f"{home}/bin/nvcc" for home in homes), _nvcc_of_pypi()]
    for path in candidates:
        if path and os.access(path, os.X_OK):
            version = re.search(r"V(\d[\d.]*)", _output(path, "--version"))
            return {"path": path, "version": version.group(1) if version else None}
    return {"path": None, "version": None}


def _nvcc_of_pypi() -> str | None:
    for distribution in importlib.metadata.distributions():
        if (distribution.metadata["Name"] or "").startswith("nvidia-cuda-nvcc"):
            for file in distribution.files or ():
                if file.parts[-2:] == ("bin", "nvcc"):
                    return str(distribution.locate_file(file))
    return None


def _gpu(torch: dict[str, Any]) -> dict[str, Any]:
    """Return the names of the CUDA devices, as PyTorch or else the driver's tool tells them."""
    if torch.get("gpus"):
        return {"devices": torch["gpus"], "told_by": "torch"}
    listed = re.findall(r"^GPU \d+: (.*?)(?: \(UUID.*)?$", _output("nvidia-smi", "-L"), re.M)
    return {"devices": listed, "told_by": "nvidia-smi" if listed else None}


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model.group(1) if model else platform.machine()


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.machine()}"


def _cache() -> dict[str, Any]:
    folder = install.cache_folder()
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


def _output(*command: str, environment: dict[str, str] | None = None) -> str:
    """Return what `command` prints, an empty string if it cannot run or fails."""
    try:
        ran = subprocess.run(
            command,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.decode(errors="replace") if ran.returncode == 0 else ""


def _cannot_run(report: dict[str, Any]) -> Sequence[dict[str, str]]:
    """Return what cannot run here, why, and what would change that."""
    found = []

    def cannot(what: str, why: str, do: str) -> None:
        found.append({"what": what, "why": why, "do": do})

    caffe, torch, gpu = report["caffe"], report["torch"], report["gpu"]
    if caffe["installable"]:
        cannot(
            "the Caffe variants, at this moment",
            "no Caffe is installed yet.",
            "run `tox -e parity`: it installs one (200 MB to fetch, under a minute), without root.",
        )
    elif not caffe["found"]:
        cannot("all Caffe variants", caffe["problem"], caffe["advice"])
    elif not caffe["python_layers"]:
        cannot(
            "caffe-python",
            "this Caffe was built without Python layers.",
            "build it with WITH_PYTHON_LAYER=1 (make) or BUILD_python_layer=ON (cmake).",
        )
    if os.environ.get("PARITY_BLAS") and caffe.get("source") == "CAFFE_PYTHON":
        cannot(
            f"the BLAS asked for with PARITY_BLAS={os.environ['PARITY_BLAS']}",
            "CAFFE_PYTHON is set, and that Caffe comes with its own BLAS.",
            "unset one of the two.",
        )
    if not torch["found"]:
        cannot(
            "the reference and all torch variants",
            f"PyTorch cannot be imported ({torch['problem']}).",
            "run through `tox -e parity`, which brings PyTorch, or install torch.",
        )
    elif not report["compiler"]["path"]:
        cannot(
            "torch-compiled",
            f"torch.compile needs a C++ compiler, and there is no {report['compiler']['name']}.",
            "install g++, or set CXX to a C++ compiler.",
        )
    elif not report["compiler"]["python_headers"]:
        cannot(
            "torch-compiled",
            "torch.compile needs this Python's headers, and there is no Python.h.",
            "install them (on Debian: python3-dev).",
        )
    if not report["numpy"]:
        cannot("everything", "NumPy is not installed.", "run through `tox -e parity`.")
    if not report["nvcc"]["path"]:
        cannot(
            "the check that the CUDA kernels compile",
            "there is no nvcc on PATH, in CUDA_HOME or from PyPI.",
            "install a CUDA toolkit, or nvidia-cuda-nvcc from PyPI.",
        )
    if not gpu["devices"]:
        cannot(
            "anything on a GPU",
            "not run: no CUDA device.",
            "run on a machine with an NVIDIA GPU and its driver.",
        )
        return found
    if caffe["found"] and caffe["device"] != "CUDA":
        cannot(
            "Caffe in GPU mode",
            "this Caffe is built for the CPU only.",
            "set CAFFE_PYTHON to the Python of a Caffe built with CUDA.",
        )
    if torch["found"] and not torch["gpus"]:
        cannot(
            "PyTorch on the GPU",
            "this PyTorch does not see the GPU"
            + (" (it is built for the CPU only)." if not torch["cuda"] else "."),
            "install a PyTorch built for CUDA that fits the driver.",
        )
    return found


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
    return [
        f"{caffe['version']}, {device}, {origin}",
        *([f"Debian package {caffe['package']}"] if caffe["package"] else []),
        f"Python {caffe['python']}, NumPy {caffe['numpy']}, protobuf {caffe['protobuf']}",
        f"BLAS: {blas['name']}" + (f" ({files})" if files else ""),
        f"{caffe['layer_types']} layer types, Python layers {layers}",
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


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; return 0 if Caffe and PyTorch can be compared here, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="parity doctor",
        description="Say which Caffe, PyTorch, compilers and GPU there are, and what cannot run.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    wanted = parser.parse_args(argv)
    report = examine()
    print(json.dumps(report, indent=2) if wanted.json else render(report), end="")
    if wanted.json:
        print()
    return 0 if report["ready"] else 1


if __name__ == "__main__":
    sys.exit(main())
