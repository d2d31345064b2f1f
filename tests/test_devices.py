"""Whether this machine can compute on a device: real refusals here, and those of a driver that is a stand-in."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import onnxruntime
import pytest

from tests.drivers import StandIn, loading, without_gpu
from tldeploy import devices
from tldeploy.devices import Driver, Lack, brought_by, find_driver, how_to_get, lacking, missing_libraries, require
from tldeploy.errors import MachineError, UsageError

LIBRARIES = ["libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libcudnn.so.9"]


def test_the_cpu_is_always_there() -> None:
    def load(name: str) -> None:
        raise AssertionError(f"{name} is asked for")

    assert lacking("cpu", ["torch", "onnxruntime"], load) is None


def test_what_is_no_device_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="compute on GPU: no device is named so"):
        lacking("GPU")  # type: ignore[arg-type]


@without_gpu
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_without_a_driver_the_error_says_so(device: devices.Device) -> None:
    with pytest.raises(MachineError) as caught:
        require(device, "tune x", ["torch"])
    assert caught.value.asked == f"tune x on {device}"
    assert "NVIDIA driver" in caught.value.found
    assert caught.value.fix.endswith("on the CPU it is `--device cpu`")


@pytest.mark.parametrize(
    ("driver", "found", "fix"),
    [
        (StandIn(100, b"CUDA_ERROR_NO_DEVICE"), "cuInit gives 100, CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES"),
        (StandIn(802, b"CUDA_ERROR_SYSTEM_NOT_READY"), "cuInit gives 802", "nvidia-fabricmanager"),
        (StandIn(803, b"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"), "cuInit gives 803", "restart the machine"),
        (StandIn(999, b""), "cuInit gives 999", "nvidia-smi"),
        (StandIn(gpus=0), "finds no GPU", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_driver_that_does_not_start_says_why(driver: StandIn, found: str, fix: str) -> None:
    lack = lacking("cuda", load=loading(driver))
    assert lack is not None
    assert found in lack.found
    assert fix in lack.fix


def test_a_driver_says_how_many_gpus_it_has_and_which_cuda_it_knows() -> None:
    assert find_driver(loading(StandIn(gpus=2, version=12040))) == Driver(2, (12, 4))
    assert lacking("cuda", load=loading(StandIn())) is None
    assert [devices.count_gpus(loading(driver)) for driver in (StandIn(gpus=2), StandIn(init=100))] == [2, 0]


@pytest.mark.parametrize(
    ("built", "version", "found"),
    [
        (None, 13010, "is built without CUDA"),
        (13, 12080, "is built for CUDA 13, and the driver knows CUDA up to 12.8"),
        (12, 13010, None),
    ],
)
def test_what_pytorch_is_built_for_is_held_against_the_driver(
    monkeypatch: pytest.MonkeyPatch, built: int | None, version: int, found: str | None
) -> None:
    monkeypatch.setattr(devices, "torch_built_for", lambda: built)
    lack = lacking("cuda", ["torch"], loading(StandIn(version=version)))
    assert (lack and found in lack.found) if found else lack is None


def test_an_onnxruntime_without_the_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    lack = lacking("tensorrt", ["onnxruntime"], loading(StandIn()))
    assert lack is not None
    assert "is built without TensorrtExecutionProvider" in lack.found
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in lack.fix


@without_gpu
@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="it is for the CPU")
def test_libraries_that_the_loader_does_not_find_are_all_named() -> None:
    """Of the installed wheel, on this machine."""
    missing = missing_libraries("cuda")
    assert set(missing) >= {name for name in missing if name.startswith(("libcublas.", "libcudnn."))} != set()
    lack = lacking("cuda", ["onnxruntime"], loading(StandIn()))
    assert lack == Lack(
        f"onnxruntime's CUDAExecutionProvider does not find {', '.join(missing)}",
        "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    )
    assert lacking("cuda", ["onnxruntime"], loading(StandIn(), *missing)) is None


@without_gpu
@pytest.mark.skipif("TensorrtExecutionProvider" not in onnxruntime.get_available_providers(), reason="it has none")
def test_tensorrt_needs_its_own_libraries_beside_those_of_cuda() -> None:
    lack = lacking("tensorrt", ["onnxruntime"], loading(StandIn(), *missing_libraries("cuda")))
    assert lack is not None
    assert "libnvinfer.so" in lack.found
    assert lack.fix.startswith("pip install 'tensorrt")
    assert "LD_LIBRARY_PATH" in lack.fix


@pytest.mark.parametrize(
    ("cuda", "brought"),
    [
        ("13", ["nvidia-cublas", "nvidia-cublas", "nvidia-curand", "nvidia-cudnn-cu13"]),
        ("12", ["nvidia-cublas-cu12", "nvidia-cublas-cu12", "nvidia-curand-cu12", "nvidia-cudnn-cu12"]),
    ],
)
def test_each_library_has_the_package_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, cuda: str, brought: list[str]
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: [f'nvidia-cudnn-cu{cuda}~=9.0; extra == "cudnn"'])
    assert [brought_by(name) for name in LIBRARIES] == brought
    assert brought_by("libc.so.6") is None
    assert how_to_get(LIBRARIES) == "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    both = how_to_get([*LIBRARIES, "libnvinfer.so.10"])
    assert both.startswith(f"pip install 'onnxruntime-gpu[cuda,cudnn]'; pip install 'tensorrt-cu{cuda}==10.*'")


@pytest.mark.parametrize(
    ("device", "variable", "usual"),
    [("cpu", "CXX", "there is no C++ compiler g++"), ("cuda", "CC", "there is no C compiler gcc or clang")],
)
def test_the_compiler_that_torch_compile_would_look_for_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: devices.Device, variable: str, usual: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    lack = devices.lacking_compiler(device)
    assert lack == (usual, "install one (`apt-get install g++`)")
    monkeypatch.setenv(variable, sys.executable)
    assert devices.lacking_compiler(device) is None
