"""What a server's configurations say of a model that is asked."""

from __future__ import annotations

import pytest

from tldeploy.recipe import Cuda, Deploy
from tldeploy.runtime.triton.request import plain
from tldeploy.runtime.triton.served import Served
from tldeploy.triton.config import Signature, Tensor, graph_config

PIXELS = Signature((Tensor("pixels", "TYPE_UINT8", (-1, 8, 8, 3)),), (Tensor("probabilities", "TYPE_FP32", (-1, 3)),))


@pytest.mark.parametrize(
    ("settings", "provider"),
    [
        (Deploy(), "Triton 2.51.0, onnxruntime"),
        (Deploy(device="cuda"), "Triton 2.51.0, onnxruntime on GPU 0"),
        (Deploy(device="cuda", cuda=Cuda(gpus=[0, 2]), instances=3), "Triton 2.51.0, onnxruntime on GPU 0, 2"),
    ],
)
def test_a_report_names_the_gpus_that_a_model_is_on(settings: Deploy, provider: str) -> None:
    described = plain(graph_config("m.graph", PIXELS, [1], settings, ()))
    assert Served.of("2.51.0", [described]).provider == provider
