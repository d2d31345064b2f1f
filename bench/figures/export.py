"""The graphs of the export stage against PyTorch eager and OpenVINO, out of export.json."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from tldeploy.measuring.statistics import Estimate, ratio_of_rounds

from .table import listed, markdown, spread

EAGER, OPENVINO = "torch eager", "openvino int8"
REQUESTS = {
    "minilm": ("MiniLM-L6", "onnxruntime int8-dynamic", [["64 sentences"], ["1 x 32", "1 x 128", "8 x 128"]]),
    "bert-base": ("BERT-base", "onnxruntime int8-dynamic", [["1 x 128", "1 x 384"]]),
    "resnet50": ("ResNet-50", "onnxruntime int8-static", [["1 x 224", "8 x 224"]]),
    "vgg16": ("VGG16", "onnxruntime int8-static", [["1 x 224", "8 x 224"]]),
}


def ratios(rounds_ms: dict[str, list[float]]) -> dict[str, Estimate]:
    """How many times as fast as PyTorch eager each engine is."""
    return {name: ratio_of_rounds(rounds_ms[EAGER], times) for name, times in rounds_ms.items()}


def page(report: dict[str, Any]) -> str:
    """The whole of export.md."""
    results = report["results"]
    rounds = len(next(iter(next(iter(results.values()))["rounds_ms"].values()))[EAGER])
    about = (
        f"{report['environment']['cpu']}; PyTorch eager fp32 = 1: geometric mean of {rounds} interleaved rounds with "
        "its 95 % interval, the median in ms, and the share of the rate of a large matrix product (int8 and int4 "
        "engines: of one of uint8 by int8)."
    )
    return "\n\n".join([about, *(_subject(key, result) for key, result in results.items())]) + "\n"


def _subject(key: str, result: dict[str, Any]) -> str:
    """One line an engine: ratio to PyTorch eager at each request, and the share of the machine's rate."""
    peak, requests = result["peak_gflops"], list(result["rounds_ms"])
    times = {request: ratios(result["rounds_ms"][request]) for request in requests}
    rows = []
    for engine, opened in result["opened"].items():
        cells = [
            f"{spread(times[request][engine])} {_ms(result, request, engine):.1f} ms, "
            f"{share(result, request, engine):.0%}"
            for request in requests
        ]
        size = result["size_bytes"].get(engine)
        rows.append([engine, *cells, f"{size / 1e6:.1f}" if size else "", f"{opened['seconds']:.2f}"])
    rates = f"{peak['fp32']:.0f} and {peak['int8']:.0f} Gop/s in fp32 and int8"
    return markdown([f"{key}; {rates}", *requests, "MB", "s to import and open"], rows)


def share(result: dict[str, Any], request: str, engine: str) -> float:
    """Of the rate that a large matrix product reaches."""
    # int4 weights are unpacked to int8: on the CPU activations are rounded to it as well.
    kind = "int8" if "int8" in engine or "int4" in engine else "fp32"
    done: float = result["operations"][request] / _ms(result, request, engine) / 1e6
    return done / float(result["peak_gflops"][kind])


def _ms(result: dict[str, Any], request: str, engine: str) -> float:
    return statistics.median(result["rounds_ms"][request][engine])


def summary(report: dict[str, Any]) -> str:
    """README's table: our int8 graph and OpenVINO's, times PyTorch eager with one thread."""
    rows = []
    for key, (name, ours, lines) in REQUESTS.items():
        result = report["results"][f"{key}, threads: 1"]
        for requests in lines:
            times = [ratios(result["rounds_ms"][request]) for request in requests]
            cells = [", ".join(f"{found[engine].value:.1f}" for found in times) for engine in (ours, OPENVINO)]
            rows.append([f"{name}, {_in_words(requests)}", *cells])
    return markdown(["", "int8", "OpenVINO int8"], rows) + "\n"


def _in_words(requests: Sequence[str]) -> str:
    if requests == ["64 sentences"]:
        return "real sentences"
    if all(request.endswith(" x 224") for request in requests):
        return f"batches of {listed(request.partition(' ')[0] for request in requests)}"
    return f"{', '.join(request.replace('x', '×') for request in requests)} tokens"


def said(report: dict[str, Any]) -> list[str]:
    """In "Why int8 is not faster on that CPU"."""
    alone = {key: report["results"][f"{key}, threads: 1"] for key in REQUESTS}
    peaks = {kind: sorted(result["peak_gflops"][kind] for result in alone.values()) for kind in ("int8", "fp32")}
    long = [
        (result["peak_gflops"]["int8"] / result["peak_gflops"]["fp32"], share(result, request, EAGER))
        for result in (alone["minilm"], alone["bert-base"])
        for request in result["rounds_ms"]
        if request.endswith(("128", "384"))
    ]
    shares, most = sorted(share for _, share in long), sorted(times / share for times, share in long)
    behind = sorted(
        100 * (1 - 1 / ratio_of_rounds(rounds["onnxruntime int8-static"], rounds[OPENVINO]).value)
        for threads in (1, 2)
        for rounds in report["results"][f"resnet50, threads: {threads}"]["rounds_ms"].values()
    )
    return [
        f"that rate is {peaks['int8'][0]:.0f} to {peaks['int8'][-1]:.0f} Gop/s in int8 and {peaks['fp32'][0]:.0f} to "
        f"{peaks['fp32'][-1]:.0f} in fp32 for one core",
        f"reaches {100 * shares[0]:.0f} to {100 * shares[-1]:.0f} % of fp32's with 128 tokens or more",
        f"would be {most[0]:.1f} to {most[-1]:.1f} times as fast as it",
        f"ResNet-50 in int8 is {behind[0]:.0f} to {behind[-1]:.0f} % behind OpenVINO",
    ]
