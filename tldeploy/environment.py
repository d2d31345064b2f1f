"""What this machine is and has: versions, CPU instruction sets, GPUs. Every manifest and report carries it.

`describe` gives the facts, and never fails. `checks` is the table behind `tldeploy doctor`: one function a check, each
with the command that mends what it finds. Versions come from package metadata; nothing heavy is imported, but for
onnxruntime where there is a GPU.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from tldeploy.devices import (
    Device,
    Lack,
    brought_by,
    find_driver,
    how_to_get,
    missing_libraries,
    onnxruntime_built_for,
    torch_built_for,
)

PACKAGES = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime-gpu",
    "onnxruntime",
    "tokenizers",
    "tritonclient",
    "numpy",
)
# What onnxruntime's int8 kernels are chosen by, fastest last.
INT8_INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")
SERVER_PORTS = (8000, 8001, 8002)
NEEDED_PYTHON = (3, 11)
NEEDED_DISK_GB, NEEDED_MEMORY_GB = 5, 4

Status = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Check:
    """One line of `tldeploy doctor`. fix: the command, or the step, that mends it; empty when all is well."""

    name: str
    status: Status
    found: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


@functools.cache
def describe() -> dict[str, Any]:
    """Facts about this machine and this Python, as JSON."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "instructions": [name for name in INT8_INSTRUCTIONS if name in _cpu_flags()],
        "cores": usable_cores(),
        "memory_gb": round(_memory_bytes() / 2**30, 1),
        "gpus": _gpus(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def usable_cores() -> int:
    """Cores that this process may use: by its affinity, and by the quota that a container may have."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such control group, or its quota is "max"
        return cores


def cores_words(cores: int) -> str:
    return f"{cores} core{'' if cores == 1 else 's'}"


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers by instructions of its own."""
    return any(name in _cpu_flags() for name in BF16_INSTRUCTIONS)


def resident_bytes() -> int:
    """Memory of this process, as Linux counts it."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def checks() -> list[Check]:
    """Everything that needs no server: Python, packages, CPU, GPU, disk, memory and ports."""
    return [found for check in _CHECKS for found in check()]


def _python() -> Iterator[Check]:
    found = platform.python_version()
    good = sys.version_info >= NEEDED_PYTHON
    yield Check("python", "ok" if good else "missing", found, "" if good else "install Python 3.11 or later")


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    wrong = []
    if not _requirements():
        yield Check("packages", "warning", "tldeploy is not installed: what it requires is unknown", "pip install -e .")
        return
    requirements = [Requirement(text) for text in _requirements()]
    for requirement in requirements:
        version = _version(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name} is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version}, needs {requirement.specifier}")
    if wrong:
        yield Check("packages", "missing", "; ".join(wrong), "pip install -r requirements.lock")
    else:
        yield Check("packages", "ok", f"{len(requirements)} required packages, all recent enough")


def _one_onnxruntime() -> Iterator[Check]:
    """Both wheels write the same files: the one installed later wins in part, and CUDA is lost without a word."""
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        fix = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
        yield Check("onnxruntime", "missing", "onnxruntime and onnxruntime-gpu are both installed", fix)
    elif version := _version("onnxruntime-gpu") or _version("onnxruntime"):
        yield Check("onnxruntime", "ok", version)


def _instructions() -> Iterator[Check]:
    found = [name for name in INT8_INSTRUCTIONS if name in _cpu_flags()]
    what = f"{_cpu_model()}, {cores_words(usable_cores())}, {', '.join(found) or 'no AVX2'}"
    if any("vnni" in name or "amx" in name for name in found):
        yield Check("cpu", "ok", what)
    elif found:
        # Of transformers; bench/results/epyc-avx2-2-cores has the figures.
        gain = "int8 is at best twice as fast as fp32 without VNNI (1.4 to 1.7 times on EPYC); `export` measures it"
        yield Check("cpu", "ok", f"{what}: {gain}")
    else:
        yield Check("cpu", "warning", f"{what}: int8 may be slower than fp32", "serve on a CPU with AVX2, or keep fp32")


def _gpu() -> Iterator[Check]:
    gpus = _gpus()
    if not gpus and not isinstance(found := find_driver(), Lack):
        yield Check("gpu", "ok", f"{found.gpus}, by the driver; there is no nvidia-smi to name them")
        return
    if not gpus:
        would = ""
        if wanted := onnxruntime_built_for():
            would = f"; onnxruntime-gpu {_version('onnxruntime-gpu')} would want CUDA {wanted[0]} and cuDNN {wanted[1]}"
        if (torch := _version("torch")) and torch_built_for() is None:
            would += f"; PyTorch {torch} is built without CUDA"
        yield Check("gpu", "ok", f"none: models run on the CPU{would}")
        return
    yield Check("gpu", "ok", ", ".join(f"{gpu['name']}, driver {gpu['driver']}" for gpu in gpus))


def _driver() -> Iterator[Check]:
    """Whether CUDA starts: nvidia-smi asks the kernel's module, and models ask the driver's library."""
    found = find_driver()
    if not isinstance(found, Lack):
        gpus = f"{found.gpus} GPU{'' if found.gpus == 1 else 's'}"
        yield Check("driver", "ok", f"its library starts, with {gpus} and CUDA up to {found.cuda[0]}.{found.cuda[1]}")
    elif _gpus():
        yield Check("driver", "missing", found.found, found.fix)


def _libraries() -> Iterator[Check]:
    """What onnxruntime's providers need and the loader does not find. TensorRT is not needed by every GPU."""
    if onnxruntime_built_for() is None or isinstance(find_driver(), Lack):
        return
    wanted: tuple[tuple[Device, Status], ...] = (("cuda", "missing"), ("tensorrt", "warning"))
    for device, status in wanted:
        if missing := missing_libraries(device):
            found = ", ".join(f"{name} ({brought_by(name) or 'of no known package'})" for name in missing)
            yield Check(f"for {device}", status, f"not found: {found}", how_to_get(missing))
        else:
            yield Check(f"for {device}", "ok", "all libraries of onnxruntime's provider are found")


def _cuda() -> Iterator[Check]:
    """Whether what has to have one CUDA major has it: the driver, cuDNN and PyTorch that of onnxruntime's wheel.

    The wheel says itself what it was built for, in the package of cuDNN that its extra asks for.
    """
    wanted, driver = onnxruntime_built_for(), _driver_cuda()
    if wanted is None or (driver is None and not _gpus()):
        return
    cuda, cudnn = wanted
    wheel = f"onnxruntime-gpu {_version('onnxruntime-gpu')} is built for CUDA {cuda} and cuDNN {cudnn}"
    if driver is not None and driver < cuda:
        fix = f"update the NVIDIA driver to one that knows CUDA {cuda}, or install an onnxruntime-gpu for CUDA {driver}"
        yield Check("cuda", "missing", f"{wheel}; the driver knows CUDA up to {driver}", fix)
    else:
        yield Check("cuda", "ok", f"{wheel}; the driver knows CUDA up to {driver or 'an unknown version'}")
    found = _version(f"nvidia-cudnn-cu{cuda}")
    if found is None and not _library("cudnn"):
        others = [name for name in ("nvidia-cudnn-cu11", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13") if _version(name)]
        what = f"only {', '.join(others)}" if others else "not found"
        yield Check("cudnn", "missing", f"{what}; {wheel}", "pip install 'onnxruntime-gpu[cuda,cudnn]'")
    elif found is not None and int(found.partition(".")[0]) != cudnn:
        yield Check("cudnn", "missing", f"{found}; {wheel}", f"pip install 'nvidia-cudnn-cu{cuda}=={cudnn}.*'")
    else:
        yield Check("cudnn", "ok", found or "the system's own, of an unknown version")
    torch = torch_built_for()
    if torch is None and _version("torch"):
        fix = "install PyTorch's CUDA build to tune on the GPU; exporting and serving do without"
        yield Check("torch", "warning", f"{_version('torch')} is built without CUDA", fix)
    elif torch is not None and torch != cuda:
        fix = f"install a PyTorch built for CUDA {cuda}: in one process the two would load different libraries"
        yield Check("torch", "warning", f"{_version('torch')} is built for CUDA {torch}; {wheel}", fix)


def _driver_cuda() -> int | None:
    """The newest CUDA major that the driver knows: as its library says, or, where that does not start, nvidia-smi."""
    if not isinstance(found := find_driver(), Lack):
        return found.cuda[0]
    match = re.search(r"CUDA Version:\s*(\d+)", _nvidia_smi())
    return int(match[1]) if match else None


def _ports() -> Iterator[Check]:
    import socket

    taken = []
    for port in SERVER_PORTS:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            taken.append(str(port))
    if taken:
        fix = "stop what listens there, or `tldeploy serve --http-port … --grpc-port … --metrics-port …`"
        yield Check("ports", "warning", f"in use: {', '.join(taken)}", fix)
    else:
        yield Check("ports", "ok", f"{', '.join(map(str, SERVER_PORTS))} are free")


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    good = free >= NEEDED_DISK_GB
    fix = "" if good else f"free {NEEDED_DISK_GB} GB: a model's variants, its repository and the server home need it"
    yield Check("disk", "ok" if good else "warning", f"{free:.0f} GB free here", fix)


def _memory() -> Iterator[Check]:
    memory = _memory_bytes() / 2**30
    good = memory >= NEEDED_MEMORY_GB
    fix = "" if good else "lower tune.batch_size and backbone.max_length, or tune on a larger machine"
    yield Check("memory", "ok" if good else "warning", f"{memory:.0f} GB", fix)


_CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    _python,
    _packages,
    _one_onnxruntime,
    _instructions,
    _gpu,
    _driver,
    _cuda,
    _libraries,
    _disk,
    _memory,
    _ports,
)


def _requirements() -> list[str]:
    try:
        return [text for text in metadata.requires("tldeploy") or [] if "extra ==" not in text]
    except metadata.PackageNotFoundError:
        return []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _library(name: str) -> str | None:
    from ctypes.util import find_library

    return find_library(name)


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    return set(_cpuinfo("flags").split())


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


@functools.cache
def _gpus() -> list[dict[str, str]]:
    """Name, memory and driver of each NVIDIA GPU, as nvidia-smi tells; none where there is no driver."""
    lines = _nvidia_smi("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader").splitlines()
    return [dict(zip(("name", "memory", "driver"), line.split(", "), strict=False)) for line in lines if line.strip()]


def _nvidia_smi(*arguments: str) -> str:
    """What it prints; nothing where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
