"""Some of onnx's own operator tests through the served backend, of every type that onnx tests and Triton has.

bench/conformance.py runs all of them.
"""

from __future__ import annotations

import pytest

from bench.conformance import operator_tests, run

NAMES = [
    "test_abs",  # fp32
    "test_add_bcast",  # two inputs
    "test_add_int8",
    "test_add_uint8",
    "test_ai_onnx_ml_label_encoder_string_int",
    "test_and_bcast3v1d",  # bool
    "test_argmax_default_axis_example",
    "test_averagepool_2d_default",
    "test_batchnorm_epsilon",
    "test_bitcast_float64_to_int64",
    "test_bitwise_and_ui64_bcast_3v1d",
    "test_bitwise_not_3d",
    "test_concat_3d_axis_2",
    "test_conv_with_strides_padding",
    "test_convinteger_without_padding",
    "test_cumsum_1d",  # a scalar input, fp64
    "test_div_uint16",
    "test_div_uint32",
    "test_dynamicquantizelinear",
    "test_equal_string_broadcast",
    "test_gather_elements_negative_indices",
    "test_gelu_tanh_1",
    "test_greater_uint64",
    "test_gru_seq_length",
    "test_identity",
    "test_if",
    "test_isnan_float16",
    "test_layer_normalization_4d_axis1",  # three outputs
    "test_lstm_with_peepholes",
    "test_matmul_2d",
    "test_max_float16",
    "test_nonzero_example",
    "test_not_3d",
    "test_qlinearmatmul_2D_uint8_float32",
    "test_reduce_sum_keepdims_random",
    "test_split_equal_parts_1d_opset13",
    "test_string_concat",
    "test_string_concat_zero_dimensional",
    "test_string_split_basic",
    "test_sub_int16",
    "test_top_k",
    "test_where_long_example",
]


@pytest.fixture(scope="module")
def misses() -> dict[str, dict[str, str] | None]:
    """One server loads, answers and unloads them all."""
    return run([case for case in operator_tests() if case.name in NAMES])


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_onnxs_own(misses: dict[str, dict[str, str] | None], name: str) -> None:
    assert misses[name] is None
