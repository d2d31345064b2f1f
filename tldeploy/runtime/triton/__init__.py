"""Calling a served model: runners over Triton's HTTP or gRPC protocol.

    with Client("127.0.0.1:8000", model="review-sentiment") as client:
        client.predict(["Great camera, awful battery"])       # float32 [1, classes]
        client.classify(["Great camera, awful battery"])      # [[Classification("neutral", 0.71)]]
        client.predict_tensors({"input_ids": ids, "attention_mask": mask})    # of rows that you encoded

    async with AsyncClient("127.0.0.1:8000", model="review-sentiment") as client:
        await client.predict(["Great camera, awful battery"])

1. served.py reads what the server says of a model, and makes requests of rows or tensors, probabilities of answers.
2. request.py is one request: what the client libraries need to send it, and the array that its answer holds.
3. client.py and async_client.py send requests and receive answers, and do nothing else.
4. memory.py lets a client and a server on one machine share memory, instead of sending tensors.
5. statistics.py reads what the server counts of its models.
6. address.py says where the server is. Whatever goes wrong there becomes a ServerError (nobody there, too slow, a dead
   worker) or a RequestError (the server refused this request), whichever of its many kinds the libraries raise.
"""

from __future__ import annotations

from tldeploy.runtime.triton.address import Protocol
from tldeploy.runtime.triton.async_client import AsyncClient
from tldeploy.runtime.triton.client import Client
from tldeploy.runtime.triton.served import Classification

__all__ = ["AsyncClient", "Classification", "Client", "Protocol"]
