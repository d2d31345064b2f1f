from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tldeploy import environment


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


def test_a_cpu_without_vnni_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_cpu_flags", lambda: {"avx2"})
    assert named("cpu").status == "warning"
    monkeypatch.setattr(environment, "_cpu_flags", lambda: {"avx2", "avx512_vnni"})
    assert named("cpu").status == "ok"


def test_a_gpu_is_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 580.10'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    environment._gpus.cache_clear()
    assert environment._gpus() == [{"name": "NVIDIA H200", "memory": "143771 MiB", "driver": "580.10"}]
    assert named("gpu").found == "NVIDIA H200, driver 580.10"
    environment._gpus.cache_clear()
