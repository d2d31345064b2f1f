"""Texts of different lengths in one run: how they are cut into runs, and that each request gets its own answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from tests.triton.test_backend import BATCHED, ask, executions, refusal, tensor, write_model
from tldeploy.triton.backends.onnxruntime.merging import groups, joined, runs
from tldeploy.triton.server import Server

MERGED = '\nparameters { key: "merge_lengths" value { string_value: "true" } }\n'
# Rows of three features for ten tokens.
TABLE = np.arange(30, dtype=np.float32).reshape(10, 3)


def tokens_of(cut: list[slice], lengths: list[int], rows: list[int], run_tokens: int) -> int:
    return sum(run_tokens + sum(rows[part]) * lengths[part][-1] for part in cut)


@pytest.mark.parametrize("run_tokens", [0, 8, 4096])
def test_no_other_cut_takes_fewer_tokens(run_tokens: int) -> None:
    draw = np.random.default_rng(run_tokens)
    for _ in range(20):
        lengths = np.unique(draw.integers(1, 129, 7)).tolist()
        rows = draw.integers(1, 4, len(lengths)).tolist()
        found = runs(lengths, rows, run_tokens)
        inner = [cut for count in range(len(lengths)) for cut in itertools.combinations(range(1, len(lengths)), count)]
        every = [[slice(a, b) for a, b in itertools.pairwise([0, *cut, len(lengths)])] for cut in inner]
        assert tokens_of(found, lengths, rows, run_tokens) == min(
            tokens_of(c, lengths, rows, run_tokens) for c in every
        )
        assert [at for part in found for at in range(len(lengths))[part]] == list(range(len(lengths)))


def test_a_run_has_near_lengths_and_a_gpu_takes_all_in_one() -> None:
    feeds = {
        at: {"ids": np.ones((1, length)), "mask": np.ones((1, length))} for at, length in enumerate([9, 90, 8, 92])
    }
    assert sorted(map(sorted, groups(feeds, 8))) == [[0, 2], [1, 3]]
    assert sorted(map(sorted, groups(feeds, 4096))) == [[0, 1, 2, 3]]
    assert sorted(map(sorted, groups(feeds, None))) == [[0], [1], [2], [3]]


def test_shorter_rows_are_filled_with_zeros_at_the_end() -> None:
    assert joined([np.array([[1, 2]]), np.array([[3], [4]])]).tolist() == [[1, 2], [3, 0], [4, 0]]


def write_texts(repository: Path) -> None:
    """The sum over a text's tokens of their features; a token out of the table makes onnxruntime fail."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["features"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["features", "column"], ["seen"]),
        helper.make_node("ReduceSum", ["seen", "middle"], ["out"], keepdims=0),
    ]
    tensors = {name: (TensorProto.INT64, ["n", "length"]) for name in ("input_ids", "attention_mask")}
    constants = [
        helper.make_tensor("table", TensorProto.FLOAT, TABLE.shape, TABLE.reshape(-1)),
        helper.make_tensor("last", TensorProto.INT64, [1], [2]),
        helper.make_tensor("middle", TensorProto.INT64, [1], [1]),
    ]
    config = BATCHED + MERGED + tensor("output", "out", "FP32", "3")
    config += "".join(tensor("input", name, "INT64", "-1") for name in tensors)
    write_model(repository, "texts", nodes, tensors | {"out": (TensorProto.FLOAT, ["n", 3])}, config, constants)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.InferenceServerClient]:
    repository = tmp_path_factory.mktemp("merging") / "repo"
    write_texts(repository)
    with Server(repository, http_port=0, grpc_port=0, metrics_port=0) as server:
        own = grpc.InferenceServerClient(server.grpc_url)
        yield own
        own.close()


def sums(client: grpc.InferenceServerClient, ids: Any) -> Any:
    """The answer as lists, or what the server says instead."""
    try:
        return ask(client, "texts", input_ids=ids, attention_mask=np.ones_like(ids)).as_numpy("out").tolist()
    except InferenceServerException as error:
        return str(error.message())


def test_texts_of_all_lengths_are_handed_over_together_and_each_gets_its_own_sum(
    client: grpc.InferenceServerClient,
) -> None:
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, 10, (1 + at % 2, 1 + 3 * at)) for at in range(16)]
    before = executions(client, "texts")
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda ids: sums(client, ids), texts))
    assert answers == [TABLE[ids].sum(axis=1).tolist() for ids in texts]
    assert executions(client, "texts") - before < 12


def test_a_text_that_fails_does_not_fail_those_of_near_lengths(client: grpc.InferenceServerClient) -> None:
    texts = [np.full((1, 5 + at % 3), 99 if at == 2 else at) for at in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda ids: sums(client, ids), texts))
    assert "out of data bounds" in answers[2]
    good = [at for at in range(8) if at != 2]
    assert [answers[at] for at in good] == [TABLE[texts[at]].sum(axis=1).tolist() for at in good]


def test_a_request_whose_tensors_do_not_fit_is_answered_by_itself(client: grpc.InferenceServerClient) -> None:
    ids, mask = np.ones((1, 4), dtype=np.int64), np.ones((1, 6), dtype=np.int64)
    with ThreadPoolExecutor(4) as pool:
        wrong = pool.submit(ask, client, "texts", input_ids=ids, attention_mask=mask)
        right = list(pool.map(lambda length: sums(client, np.ones((1, length), dtype=np.int64)), (4, 5, 6)))
    with pytest.raises(InferenceServerException, match="onnx runtime error"):
        wrong.result()
    assert right == [(TABLE[[1]] * length).tolist() for length in (4, 5, 6)]


def test_lengths_are_not_merged_where_an_output_has_them_too(tmp_path: Path) -> None:
    found = refusal(tmp_path, MERGED + tensor("input", "x", "FP32", "1"))
    assert "'merge_lengths' needs inputs of [-1] and outputs of fixed dims" in found
