"""What is read from a repository."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.triton import handmade
from tests.triton.manifests.made import OPEN_THREADS
from tldeploy import serving
from tldeploy.triton.manifests.needs import _cluster_name, read_needs


def test_what_clients_call_is_no_step_of_an_ensemble(repository: Path, tmp_path: Path) -> None:
    needs = read_needs(repository)
    assert (needs.called, needs.name) == (("My_reviews",), "my-reviews")
    handmade.classifier(tmp_path)
    handmade.python_model(tmp_path, handmade.put('"crop"', '"other"', handmade.CROP), "other")
    assert read_needs(tmp_path).called == ("classifier", "other")


def test_a_python_step_needs_what_it_imports_in_the_versions_here(repository: Path, tmp_path: Path) -> None:
    assert read_needs(repository).packages == {"tokenizers": metadata.version("tokenizers")}
    step = handmade.python_model(tmp_path) / "1"
    (step / "ours.py").write_text("from . import other\n")
    (step / "model.py").write_text("import json, ours\nimport numpy as np\ndef f():\n    from PIL.Image import open\n")
    assert read_needs(tmp_path).packages == {"pillow": metadata.version("pillow")}


def test_a_step_with_an_environment_of_its_own_needs_no_package(tmp_path: Path) -> None:
    own = 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/envs/crop" } }\n'
    (handmade.python_model(tmp_path, handmade.CROP + own) / "1" / "model.py").write_text("import PIL\n")
    assert read_needs(tmp_path).packages == {}


def test_cores_are_those_that_the_threads_of_all_instances_keep_busy(tmp_path: Path) -> None:
    handmade.classifier(tmp_path / "said")
    handmade.classifier(tmp_path / "open", OPEN_THREADS)
    said, left_open = read_needs(tmp_path / "said"), read_needs(tmp_path / "open")
    assert (said.cores, said.open_threads) == (8, False)
    assert (left_open.cores, left_open.open_threads) == (2, True)


def test_memory_grows_with_the_files_and_the_instances(tmp_path: Path) -> None:
    model = handmade.classifier(tmp_path)
    assert read_needs(tmp_path).memory_gib == 2
    with (model / "1" / "weights.bin").open("wb") as sparse:
        sparse.truncate(2**30)
    assert read_needs(tmp_path).memory_gib == 1 + 2 * 2 + 1  # a little over 1 GiB, twice, in two instances


def test_memory_grows_with_the_gpus_that_have_instances(on_gpus: Path) -> None:
    """Named by one model's group; of another's, which names none, a replica has the same two."""
    anywhere = handmade.classifier(on_gpus / "more", handmade.put("count: 2 kind: KIND_CPU", "kind: KIND_GPU"))
    anywhere.rename(on_gpus / "anywhere")
    (on_gpus / "more").rmdir()
    config = on_gpus / "anywhere" / "config.pbtxt"
    config.write_text(config.read_text().replace('"classifier"', '"anywhere"'))
    for name, gib in (("classifier", 1), ("anywhere", 4)):
        with (on_gpus / name / "1" / "weights.bin").open("wb") as sparse:
            sparse.truncate(gib * 2**30)
    needs = read_needs(on_gpus)
    assert (needs.gpus, needs.memory_gib) == (2, 1 + 2 * 2 * (1 + 4) + 1)


def test_spaces_in_the_path_stay_behind(tmp_path: Path) -> None:
    handmade.classifier(tmp_path / "my models")
    made = serving.manifests(tmp_path / "my models", "docker", tmp_path / "my image")
    assert made.next.endswith(f"'{tmp_path / 'my image' / 'Dockerfile'}' '{tmp_path / 'my models'}'")


@given(st.text())
def test_a_name_is_one_that_kubernetes_takes(name: str) -> None:
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", _cluster_name(name))
    assert len(_cluster_name(name)) <= 46
