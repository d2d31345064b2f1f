"""Quantization. One file a method, each from the unfused fp32 graph to a smaller one."""
