"""Where models compute: on the CPU, or on an NVIDIA GPU by CUDA or TensorRT; and whether this machine can do it.

`require` is asked before anything is skipped, fetched or written. It raises one error, which names the piece that is
missing and what brings it: nothing that was asked for a GPU runs on the CPU. In this order it looks at
1. the driver: its library is loaded and started, and counts its GPUs;
2. PyTorch, where something is computed by it: what it was built for, which its files say;
3. onnxruntime, where a graph is run by it: whether the provider is built in, and its libraries are found.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from tldeploy.errors import MachineError, UsageError

Device = Literal["cpu", "cuda", "tensorrt"]
Need = Literal["torch", "onnxruntime"]
Load = Callable[[str], Any]

DRIVER = "libcuda.so.1"
# onnxruntime's, of the devices that are GPUs.
PROVIDERS: Mapping[Device, Literal["CUDAExecutionProvider", "TensorrtExecutionProvider"]] = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
GPU_RUNTIME = "'onnxruntime-gpu[cuda,cudnn]'"
OTHERWISE = "on the CPU it is `--device cpu`"
# Codes of cuInit that have a cause of their own.
_CAUSES = {
    100: "give this process a GPU: CUDA_VISIBLE_DEVICES hides it, or the container was started without `--gpus all`",
    802: "start NVIDIA's fabric manager (`systemctl start nvidia-fabricmanager`)",
    803: "restart the machine: the driver's library and its kernel module are of different versions",
}
# The wheel that brings a library, by the start of its name. Those of CUDA 12 have `-cu12` behind it.
_BROUGHT_BY = {
    "libcublas": "nvidia-cublas",
    "libcudart": "nvidia-cuda-runtime",
    "libcudnn": "nvidia-cudnn",
    "libcufft": "nvidia-cufft",
    "libcurand": "nvidia-curand",
    "libnvinfer": "tensorrt",
    "libnvonnxparser": "tensorrt",
    "libnvrtc": "nvidia-cuda-nvrtc",
    "libnvJitLink": "nvidia-nvjitlink",
}


class Lack(NamedTuple):
    """What is missing, and what mends it."""

    found: str
    fix: str


class Driver(NamedTuple):
    """gpus: how many there are. cuda: the newest version that the driver knows, major and minor."""

    gpus: int
    cuda: tuple[int, int]


def require(
    device: Device,
    asked: str,
    needs: Collection[Need] = (),
    *,
    otherwise: str = OTHERWISE,
    load: Load = ctypes.CDLL,
) -> None:
    """Raise MachineError where this machine cannot compute on `device`.

    asked: completes "cannot …", without the device. needs: what computes there; none where only the driver counts.
    otherwise: what else can be done. load: gives a library of the system by its name, or raises OSError.
    """
    if lack := lacking(device, needs, load):
        raise MachineError(f"{asked} on {device}", lack.found, f"{lack.fix}; {otherwise}")


def check_name(device: str | None) -> None:
    """Raise UsageError for what is no device; None is for whoever decides later."""
    if device is not None and device not in get_args(Device):
        which = "; which GPU, `deploy.cuda.gpus` or CUDA_VISIBLE_DEVICES says" if device.startswith("cuda:") else ""
        raise UsageError(f"compute on {device}", "no device is named so", f"give {', '.join(get_args(Device))}{which}")


def lacking(device: Device, needs: Collection[Need] = (), load: Load = ctypes.CDLL) -> Lack | None:
    """The first piece that this machine lacks to compute on `device`; None where it has them all."""
    check_name(device)
    if device == "cpu":
        return None
    driver = find_driver(load)
    if isinstance(driver, Lack):
        return driver
    if "torch" in needs and (lack := _of_torch(driver)):
        return lack
    return _of_onnxruntime(device, driver, load) if "onnxruntime" in needs else None


def lacking_compiler(device: Device) -> Lack | None:
    """The compiler that torch.compile would not find: of C++ for a CPU's kernels, of C for what starts a GPU's."""
    language, variable, usual = ("C++", "CXX", ["g++"]) if device == "cpu" else ("C", "CC", ["gcc", "clang"])
    named = os.environ.get(variable)
    names = [named] if named else usual
    if any(map(shutil.which, names)):
        return None
    return Lack(f"there is no {language} compiler {' or '.join(names)}", "install one (`apt-get install g++`)")


def find_driver(load: Load = ctypes.CDLL) -> Driver | Lack:
    """NVIDIA's driver, asked by its own library: https://docs.nvidia.com/cuda/cuda-driver-api."""
    try:
        library = load(DRIVER)
    except OSError as error:
        fix = "install NVIDIA's driver; a container gets it by `--gpus all`"
        return Lack(f"there is no NVIDIA driver here ({error})", fix)
    if code := library.cuInit(0):
        fix = _CAUSES.get(code, "see what `nvidia-smi` says, and restart the machine or update its driver")
        return Lack(f"NVIDIA's driver does not start: cuInit gives {code}{_name(library, code)}", fix)
    gpus, version = ctypes.c_int(), ctypes.c_int()
    library.cuDeviceGetCount(ctypes.byref(gpus))
    library.cuDriverGetVersion(ctypes.byref(version))
    if not gpus.value:
        return Lack("NVIDIA's driver finds no GPU", _CAUSES[100])
    return Driver(gpus.value, (version.value // 1000, version.value % 1000 // 10))


def count_gpus(load: Load = ctypes.CDLL) -> int:
    """Those that the driver gives this process; 0 where it does not start."""
    found = find_driver(load)
    return 0 if isinstance(found, Lack) else found.gpus


def _name(library: Any, code: int) -> str:
    name = ctypes.c_char_p()
    library.cuGetErrorName(code, ctypes.byref(name))
    return f", {name.value.decode()}" if name.value else ""


def _of_torch(driver: Driver) -> Lack | None:
    cuda = torch_built_for()
    if cuda is None:
        fix = f"install PyTorch's build for CUDA {driver.cuda[0]} (https://pytorch.org/get-started/locally)"
        return Lack(f"PyTorch {_version('torch')} is built without CUDA", fix)
    return _too_old(driver, f"PyTorch {_version('torch')}", cuda)


def _of_onnxruntime(device: Device, driver: Driver, load: Load) -> Lack | None:
    import onnxruntime

    provider = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        fix = f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {GPU_RUNTIME}"
        return Lack(f"onnxruntime {onnxruntime.__version__} is built without {provider}", fix)
    built = onnxruntime_built_for()
    if built and (lack := _too_old(driver, f"onnxruntime-gpu {onnxruntime.__version__}", built[0])):
        return lack
    missing = missing_libraries(device, load)
    if not missing:
        return None
    return Lack(f"onnxruntime's {provider} does not find {', '.join(missing)}", how_to_get(missing))


def _too_old(driver: Driver, what: str, cuda: int) -> Lack | None:
    """Of one major all minors go together, by NVIDIA's rules of compatibility."""
    if driver.cuda[0] >= cuda:
        return None
    found = f"{what} is built for CUDA {cuda}, and the driver knows CUDA up to {driver.cuda[0]}.{driver.cuda[1]}"
    return Lack(found, f"update the NVIDIA driver to one that knows CUDA {cuda}")


def torch_built_for() -> int | None:
    """The CUDA major that PyTorch was built for, read from its file: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0], "version.py")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    match = re.search(r"^cuda\b.*=\s*'(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else None


def onnxruntime_built_for() -> tuple[int, int] | None:
    """The CUDA and cuDNN majors that the installed onnxruntime-gpu wants; None where it is not installed or silent.

    The wheel says it in the package of cuDNN that its extra asks for.
    """
    try:
        asked = metadata.requires("onnxruntime-gpu") or []
    except metadata.PackageNotFoundError:
        return None
    found = (re.match(r"nvidia-cudnn-cu(\d+)\D+(\d+)", text) for text in asked)
    return next(((int(match[1]), int(match[2])) for match in found if match), None)


def preload(provider: str) -> None:
    """Load the libraries that a provider needs from where pip puts them, in a process that has not imported torch."""
    import onnxruntime

    if provider != "CPUExecutionProvider":
        with contextlib.redirect_stdout(io.StringIO()):  # on which it tells what it does not find
            onnxruntime.preload_dlls()


def missing_libraries(device: Device, load: Load = ctypes.CDLL) -> list[str]:
    """Those that onnxruntime's provider needs and the system's loader does not find, pip's included; not the driver."""
    preload(PROVIDERS[device])
    return [name for name in dict.fromkeys(_needed(device)) if name != DRIVER and not _loads(name, load)]


def _needed(device: Device) -> Iterator[str]:
    """What the loader does not find by itself of a provider's library; and cuDNN, which is loaded by its first use."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    for name in ("cuda", "tensorrt") if device == "tensorrt" else ("cuda",):
        command = ["ldd", str(folder / f"libonnxruntime_providers_{name}.so")]
        with contextlib.suppress(FileNotFoundError):  # an image without ldd: the session will say it
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            yield from re.findall(r"^\s*(\S+) => not found", told.stdout, re.MULTILINE)
    if built := onnxruntime_built_for():
        yield f"libcudnn.so.{built[1]}"


def _loads(name: str, load: Load) -> bool:
    try:
        load(name)
    except OSError:
        return False
    return True


def how_to_get(libraries: Collection[str]) -> str:
    """The commands that bring libraries such as libcublas.so.13."""
    of_tensorrt = [name for name in libraries if (brought_by(name) or "").startswith("tensorrt")]
    steps = [] if len(of_tensorrt) == len(libraries) else [f"pip install {GPU_RUNTIME}"]
    if of_tensorrt:
        major = of_tensorrt[0].rpartition(".")[2]
        package = f"'{brought_by(of_tensorrt[0])}=={major}.*'"
        steps.append(f"pip install {package}, and put its folder tensorrt_libs on LD_LIBRARY_PATH")
    return "; ".join(steps)


def brought_by(library: str) -> str | None:
    """The wheel that a library such as libcublasLt.so.13 comes in."""
    built = onnxruntime_built_for()
    cuda = built[0] if built else None
    package = next((package for start, package in _BROUGHT_BY.items() if library.startswith(start)), None)
    if package is None or cuda is None:
        return package
    named = cuda < 13 or package in {"nvidia-cudnn", "tensorrt"}
    return f"{package}-cu{cuda}" if named else package


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"
