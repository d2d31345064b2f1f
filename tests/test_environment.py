from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.drivers import without_gpu
from tldeploy import environment
from tldeploy.devices import Driver, Lack, onnxruntime_built_for


def test_the_facts_are_those_of_this_machine_and_can_be_written_as_json() -> None:
    facts = json.loads(json.dumps(environment.describe()))
    assert facts["python"] == sys.version.split()[0]
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["packages"]["torch"] == metadata.version("torch")
    assert facts["memory_gb"] > 0


def test_every_failed_check_has_a_fix() -> None:
    assert all(check.fix for check in environment.checks() if check.status != "ok")


def named(name: str) -> environment.Check:
    return next(check for check in environment.checks() if check.name == name)


def test_a_package_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["numpy>=99", "no-such-package", "pytest; extra == 'dev'"])
    check = named("packages")
    assert check.status == "missing"
    assert "numpy" in check.found
    assert "needs >=99" in check.found
    assert "no-such-package is not installed" in check.found


def test_two_onnxruntimes_are_found_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "onnxruntime-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    check = named("onnxruntime")
    assert check.status == "missing"
    assert check.fix.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


def test_what_int8_can_gain_is_said_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_cpu_flags", set)
    assert named("cpu").status == "warning"
    monkeypatch.setattr(environment, "usable_cores", lambda: 1)
    monkeypatch.setattr(environment, "_cpu_flags", lambda: {"avx2"})
    assert named("cpu").status == "ok"
    assert ", 1 core, avx2: int8 is at best twice as fast as fp32 without VNNI" in named("cpu").found
    monkeypatch.setattr(environment, "_cpu_flags", lambda: {"avx2", "avx512_vnni"})
    assert named("cpu").status == "ok"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Put an nvidia-smi on the PATH, of a driver that knows CUDA up to the given version."""

    def put(cuda: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(
            f"#!/bin/sh\ncase $1 in --query-gpu*) echo 'NVIDIA H200, 143771 MiB, 580.10';;\n"
            f"*) echo '| NVIDIA-SMI 580.10   Driver Version: 580.10   CUDA Version: {cuda} |';; esac\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        environment._gpus.cache_clear()

    yield put
    environment._gpus.cache_clear()


def packages(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Only these packages are installed, and onnxruntime-gpu, whose wheel is built for CUDA 13 and cuDNN 9."""
    known = {"onnxruntime-gpu": "1.31.1", **{name.replace("_", "-"): version for name, version in versions.items()}}
    extras = ["numpy>=1.21", 'nvidia-cuda-runtime~=13.0; extra == "cuda"', 'nvidia-cudnn-cu13~=9.0; extra == "cudnn"']
    monkeypatch.setattr(environment, "_version", known.get)
    monkeypatch.setattr(environment, "_library", lambda _: None)
    monkeypatch.setattr(metadata, "requires", lambda name: extras if name == "onnxruntime-gpu" else [])


def test_a_gpu_is_read_from_nvidia_smi(gpu: Callable[[str], None]) -> None:
    gpu("13.0")
    assert environment._gpus() == [{"name": "NVIDIA H200", "memory": "143771 MiB", "driver": "580.10"}]
    assert named("gpu").found == "NVIDIA H200, driver 580.10"


@without_gpu
def test_the_driver_is_asked_itself_beside_nvidia_smi(
    gpu: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "driver" not in {check.name for check in environment.checks()}
    gpu("13.0")
    check = named("driver")
    assert (check.status, "libcuda.so.1" in check.found, "--gpus all" in check.fix) == ("missing", True, True)
    monkeypatch.setattr(environment, "find_driver", lambda: Driver(2, (13, 0)))
    assert named("driver").found == "its library starts, with 2 GPUs and CUDA up to 13.0"


def test_libraries_that_are_not_found_have_the_package_that_brings_each(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"cuda": ["libcublasLt.so.13", "libcudnn.so.9"], "tensorrt": ["libnvinfer.so.10"]}
    packages(monkeypatch)
    monkeypatch.setattr(environment, "find_driver", lambda: Driver(1, (13, 0)))
    monkeypatch.setattr(environment, "missing_libraries", missing.__getitem__)
    check = named("for cuda")
    assert check.found == "not found: libcublasLt.so.13 (nvidia-cublas), libcudnn.so.9 (nvidia-cudnn-cu13)"
    assert (check.status, check.fix) == ("missing", "pip install 'onnxruntime-gpu[cuda,cudnn]'")
    check = named("for tensorrt")
    assert (check.status, "libnvinfer.so.10 (tensorrt-cu13)" in check.found) == ("warning", True)
    monkeypatch.setattr(environment, "missing_libraries", lambda device: [])
    assert (named("for cuda").status, named("for tensorrt").status) == ("ok", "ok")


def test_without_a_gpu_doctor_says_what_the_wheel_would_want(monkeypatch: pytest.MonkeyPatch) -> None:
    packages(monkeypatch)
    monkeypatch.setattr(environment, "_gpus", list)
    monkeypatch.setattr(environment, "find_driver", lambda: Lack("none", "get one"))
    without = "none: models run on the CPU; onnxruntime-gpu 1.31.1 would want CUDA 13 and cuDNN 9"
    assert named("gpu").found == without
    assert "cuda" not in {check.name for check in environment.checks()}
    packages(monkeypatch, torch="2.13")
    monkeypatch.setattr(environment, "torch_built_for", lambda: None)
    assert (named("gpu").status, named("gpu").found) == ("ok", f"{without}; PyTorch 2.13 is built without CUDA")


def test_a_driver_counts_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    packages(monkeypatch, nvidia_cudnn_cu13="9.14")
    monkeypatch.setattr(environment, "_gpus", list)
    monkeypatch.setattr(environment, "missing_libraries", lambda device: [])
    monkeypatch.setattr(environment, "find_driver", lambda: Driver(1, (12, 8)))
    assert named("gpu").found == "1, by the driver; there is no nvidia-smi to name them"
    assert (named("cuda").status, "the driver knows CUDA up to 12" in named("cuda").found) == ("missing", True)
    monkeypatch.setattr(environment, "find_driver", lambda: Driver(1, (13, 0)))
    assert (named("cuda").status, named("cudnn").status) == ("ok", "ok")


def test_what_the_installed_wheel_is_built_for_is_what_it_says_itself() -> None:
    built_for = pytest.importorskip("onnxruntime.capi.build_and_package_info")
    if built_for.package_name != "onnxruntime-gpu":
        pytest.skip("this onnxruntime is built for the CPU")
    wanted = onnxruntime_built_for()
    assert wanted is not None
    assert str(wanted[0]) == built_for.cuda_version.partition(".")[0]


@pytest.mark.parametrize(
    ("driver", "installed", "name", "status", "found", "fix"),
    [
        ("13.0", {}, "cuda", "ok", "the driver knows CUDA up to 13", ""),
        ("12.8", {}, "cuda", "missing", "the driver knows CUDA up to 12", "update the NVIDIA driver"),
        ("13.0", {}, "cudnn", "missing", "not found", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ("13.0", {"nvidia_cudnn_cu12": "9.1"}, "cudnn", "missing", "only nvidia-cudnn-cu12", "pip install"),
        ("13.0", {"nvidia_cudnn_cu13": "8.9"}, "cudnn", "missing", "8.9; onnxruntime-gpu", "nvidia-cudnn-cu13==9.*"),
        ("13.0", {"nvidia_cudnn_cu13": "9.14"}, "cudnn", "ok", "9.14", ""),
    ],
)
def test_the_majors_of_driver_and_cudnn_are_held_against_the_wheel(
    gpu: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    driver: str,
    installed: dict[str, str],
    name: str,
    status: str,
    found: str,
    fix: str,
) -> None:
    gpu(driver)
    packages(monkeypatch, **installed)
    monkeypatch.setattr(environment, "find_driver", lambda: Lack("its library does not start", "-"))
    check = named(name)
    assert (check.status, found in check.found, fix in check.fix) == (status, True, True)


@pytest.mark.parametrize(
    ("built", "found"),
    [("None", "2.13 is built without CUDA"), ("'12.8'", "2.13 is built for CUDA 12"), ("'13.0'", None)],
)
def test_pytorch_of_another_cuda_is_a_warning(
    gpu: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: str, found: str | None
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2.13'\ncuda: Optional[str] = {built}\n")
    spec = importlib.util.spec_from_file_location(
        "torch", tmp_path / "torch" / "__init__.py", submodule_search_locations=[str(tmp_path / "torch")]
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    gpu("13.0")
    packages(monkeypatch, torch="2.13", nvidia_cudnn_cu13="9.14")
    warnings = [check.found for check in environment.checks() if check.name == "torch"]
    assert [found in warning for warning in warnings] == ([True] if found else [])
