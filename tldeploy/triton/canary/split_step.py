"""The splitting step of a model with a canary: each request goes to the stable version, or to the canary.

`tldeploy deploy --canary` copies this file as `model.py` into `<name>.split/`. It runs in a Triton worker, with numpy
and nothing of tldeploy, and asks the two ensembles inside the server. Parameters of its configuration: `stable` and
`canary`, their names; `tag`, which canary it is; `share`, of the requests that the canary answers, drawn at random.

A request for the canary is asked of both at the same time, so that their answers and latencies are compared on the same
requests under the same load; it is answered when both have. The canary's answer is given, or, where it fails, the
stable one's: a canary that breaks loses no request. What was found is in the server's metrics:

tldeploy_canary_requests_total     {model, tag, found}: `same` label, `other` label, `failed`, `refused` by both
tldeploy_canary_drift_total        {model, tag}: the largest difference of each pair of answers, added up
tldeploy_canary_seconds_total      {model, tag, arm}: latencies of those that both answered, added up
tldeploy_canary_lag_seconds        {model, tag}: canary minus stable, added up
tldeploy_canary_blocks_total       {model, tag}: stretches of BLOCK_S seconds in which pairs were answered
tldeploy_canary_block_sums         {model, tag, of}: what intervals are made of, see `Block`

Requests within a moment share the state of the machine and are not independent; stretches of time nearly are.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

BLOCK_S = 10.0
# The id of requests that only ask whether the workers live; they are put to the stable version, and not counted.
PROBE = "tldeploy-probe"
FOUND = ("same", "other", "failed", "refused")
ARMS = ("stable", "canary")


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.names = {arm: parameters[arm] for arm in ARMS}
        self.share = float(parameters["share"])
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.metrics = Metrics({"model": config["name"].removesuffix(".split"), "tag": parameters["tag"]})

    async def execute(self, requests: list[Any]) -> list[Any]:
        return await asyncio.gather(*(self._answer(request) for request in requests))

    async def _answer(self, request: Any) -> Any:
        tensors = [pb_utils.get_input_tensor_by_name(request, name) for name in self.inputs]
        if random.random() >= self.share or request.request_id() == PROBE:
            response, _ = await self._ask("stable", tensors)
            return response
        arms = random.sample(ARMS, 2)  # whoever is asked first must not always be the same
        asked = dict(zip(arms, await asyncio.gather(*(self._ask(arm, tensors) for arm in arms)), strict=True))
        (stable, stable_s), (canary, canary_s) = asked["stable"], asked["canary"]
        if canary.has_error():
            self.metrics.count("refused" if stable.has_error() else "failed")
            return stable
        if not stable.has_error():
            self.metrics.compare(first(stable), first(canary), stable_s, canary_s)
        return canary

    async def _ask(self, arm: str, tensors: list[Any]) -> tuple[Any, float]:
        """The answer of one of the two, and how many seconds it took."""
        request = pb_utils.InferenceRequest(
            model_name=self.names[arm], requested_output_names=self.outputs, inputs=tensors
        )
        start = time.perf_counter()
        answer = await request.async_exec()
        seconds = time.perf_counter() - start
        if answer.has_error():
            return pb_utils.InferenceResponse(error=answer.error()), seconds
        return pb_utils.InferenceResponse(output_tensors=answer.output_tensors()), seconds


class Block:
    """Sums over the pairs of one stretch of time; `products` are what the variance of a ratio of sums takes."""

    def __init__(self, start_s: float) -> None:
        self.start_s = start_s
        self.sums = {"pairs": 0.0, "same": 0.0, "lag": 0.0}

    def products(self) -> dict[str, float]:
        pairs, same, lag = self.sums["pairs"], self.sums["same"], self.sums["lag"]
        products = {"pairs*pairs": pairs * pairs, "same*same": same * same, "lag*lag": lag * lag}
        return self.sums | products | {"same*pairs": same * pairs, "lag*pairs": lag * pairs}


class Metrics:
    """Counters that all instances of this model share; labels: the model and the tag."""

    def __init__(self, labels: dict[str, str]) -> None:
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self.families = {
            "requests_total": family("requests_total", "Requests that the canary was asked", counter),
            "drift_total": family("drift_total", "Largest difference of each pair of answers, added up", counter),
            "seconds_total": family("seconds_total", "Latencies of those that both answered, added up", counter),
            "lag_seconds": family("lag_seconds", "Latency of the canary minus the stable one's, added up", gauge),
            "blocks_total": family("blocks_total", "Stretches of time in which pairs were answered", counter),
            "block_sums": family("block_sums", "Sums over such stretches, and their products", gauge),
        }
        each, self.block = self.families, Block(time.monotonic())
        self.requests = {found: each["requests_total"].Metric(labels=labels | {"found": found}) for found in FOUND}
        self.seconds = {arm: each["seconds_total"].Metric(labels=labels | {"arm": arm}) for arm in ARMS}
        self.drift = each["drift_total"].Metric(labels=labels)
        self.lag = each["lag_seconds"].Metric(labels=labels)
        self.blocks = each["blocks_total"].Metric(labels=labels)
        self.sums = {of: each["block_sums"].Metric(labels=labels | {"of": of}) for of in self.block.products()}

    def count(self, found: str) -> None:
        self.requests[found].increment(1)

    def compare(self, stable: Any, canary: Any, stable_s: float, canary_s: float) -> None:
        """stable, canary: probabilities, float [rows, classes]."""
        same = bool((stable.argmax(axis=-1) == canary.argmax(axis=-1)).all())
        self.count("same" if same else "other")
        self.drift.increment(float(np.abs(stable - canary).max(initial=0.0)))
        self.seconds["stable"].increment(stable_s)
        self.seconds["canary"].increment(canary_s)
        self.lag.increment(canary_s - stable_s)
        self._into_block(same, canary_s - stable_s)

    def _into_block(self, same: bool, lag_s: float) -> None:
        now = time.monotonic()
        if now - self.block.start_s > BLOCK_S:
            if self.block.sums["pairs"]:
                self.blocks.increment(1)
                for of, value in self.block.products().items():
                    self.sums[of].increment(value)
            self.block = Block(now)
        for of, value in (("pairs", 1.0), ("same", float(same)), ("lag", lag_s)):
            self.block.sums[of] += value


def family(name: str, description: str, kind: Any) -> Any:
    return pb_utils.MetricFamily(name=f"tldeploy_canary_{name}", description=description, kind=kind)


def first(response: Any) -> Any:
    return response.output_tensors()[0].as_numpy()
