"""What a person is told of the server's log."""

from __future__ import annotations

import pytest

from tldeploy.triton.log import causes, last_events, remedy

START = 'I1124 02:27:35.362262 7507 model_lifecycle.cc:472] "loading: tiny.graph:1"'
NOISE = 'E1124 02:27:35.358179 7507 server.cc:241] "CudaDriverHelper has not been initialized."'
FAILED = (
    "E1124 02:35:16.945680 11935 model_lifecycle.cc:642] \"failed to load 'tiny.graph' version 1: Internal: "
    'InvalidProtobuf: Protobuf parsing failed.\\n\\nAt:\\n  model.py(59): initialize\\n"'
)
TABLE = ["+------+", "| Name |", "+------+", ""]
END = "error: creating server: Internal - failed to load all models"


def test_the_models_that_failed_to_load_are_the_cause() -> None:
    told = causes([NOISE, START, FAILED, *TABLE, END])
    assert told == ["failed to load 'tiny.graph' version 1: Internal: InvalidProtobuf: Protobuf parsing failed."]


def test_without_a_failed_model_the_errors_are_the_cause() -> None:
    assert causes([NOISE, START, *TABLE, END]) == [END]


def test_without_errors_the_end_of_the_log_is_told() -> None:
    assert causes([START, "Killed"]) == [START, "Killed"]


def test_tables_are_left_out_of_the_end() -> None:
    assert last_events([NOISE, *TABLE, START, *TABLE]) == [NOISE, START]


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            "instance group m.graph_0 of model m.graph specifies invalid or unsupported gpu id 0.",
            "where there is such a",
        ),
        (
            "instance group m.graph_0 of model m.graph has kind KIND_GPU but no GPUs are available",
            "where there is such a",
        ),
        ("ValueError: model 'm.graph' asks for CUDAExecutionProvider; libcuda.so.1: cannot open", "do what it says"),
        (
            "failed to start HTTP service: Unavailable - Socket '127.0.0.1:8000' already in use",
            "start the server again",
        ),
        ("failed to load 'm.graph' version 1: Internal: InvalidProtobuf", "publish the model that it names again"),
    ],
)
def test_what_to_do_follows_from_the_cause(cause: str, said: str) -> None:
    assert said in remedy(["another", cause])
