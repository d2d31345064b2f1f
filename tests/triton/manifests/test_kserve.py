"""The InferenceService."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.triton import handmade
from tests.triton.manifests.made import IMAGE, OPEN_THREADS, STORAGE, service_of
from tldeploy import serving
from tldeploy.errors import UsageError


def test_kserve_gets_the_repository_the_image_and_the_runtime(repository: Path, tmp_path: Path) -> None:
    service = service_of(repository, tmp_path)
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert service["metadata"]["name"] == "my-reviews"
    predictor = service["spec"]["predictor"]
    model = predictor["model"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (1, 10)
    assert (model["modelFormat"]["name"], model["runtime"]) == ("triton", "kserve-tritonserver")
    assert (model["protocolVersion"], model["storageUri"], model["image"]) == ("v2", STORAGE, IMAGE)
    assert model["args"] == ["--disable-auto-complete-config", "--allow-gpu-metrics=false"]
    assert model["resources"]["requests"]["cpu"] == model["resources"]["limits"]["cpu"]
    head = (tmp_path / "inference-service.yaml").read_text().partition("\napiVersion")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    assert "# A limit of cores stops a replica in the middle of a request. Without one here KServe's own holds" in head
    assert all(named in head for named in ("My_reviews", "kserve-tritonserver", STORAGE, IMAGE))


def test_without_python_steps_the_runtimes_own_image_will_do(tmp_path: Path) -> None:
    handmade.classifier(tmp_path / "models", OPEN_THREADS)
    model = service_of(tmp_path / "models", tmp_path / "out", image="")["spec"]["predictor"]["model"]
    assert "image" not in model
    assert "--backend-config=onnxruntime,intra_op_thread_count=2" in model["args"]


@pytest.mark.parametrize(
    ("image", "storage", "said"),
    [
        ("", STORAGE, "need tokenizers, which KServe's own image of Triton has not"),
        (IMAGE, "", "no storage address is given"),
        (IMAGE, "models/reviews", "the storage address is 'models/reviews'"),
    ],
)
def test_kserve_wants_an_image_with_the_packages_and_an_address(
    image: str, storage: str, said: str, repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        serving.manifests(repository, "kserve", tmp_path / "out", image, storage)
    assert not (tmp_path / "out").exists()
