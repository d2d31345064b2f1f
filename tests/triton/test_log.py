"""What a person is told of the server's log."""

from __future__ import annotations

from tldeploy.triton.log import causes, last_events

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
