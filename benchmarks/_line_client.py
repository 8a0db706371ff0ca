"""Asks for the same pictures over a worker's line and over HTTP, in turn; prints the seconds of each as JSON.

`python -m benchmarks._line_client ADDRESS PORT HTTP_URL CERTIFICATE KEY PICTURES`: the worker's key in WORKER_KEY; both
ways use TLS. What is measured is the time from the request to the decoded picture, less the engine's own time.
"""

import hashlib
import json
import os
import ssl
import sys
import threading
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from backends.workers import Workers
from drawing.models import GenerationRequest
from endpoint_client import EndpointClient

_CONNECT_S = 120.0
_WARM_UP = 3


def main() -> None:
    """Prints `{"line": [...], "http": [...]}`, in seconds."""
    address, port, url, certificate, key, pictures = sys.argv[1:]
    workers = Workers(os.environ["WORKER_KEY"], wait_s=_CONNECT_S)
    app = Starlette(routes=workers.routes())
    config = uvicorn.Config(
        app, host=address, port=int(port), ssl_certfile=certificate, ssl_keyfile=key, log_level="error", lifespan="off"
    )
    threading.Thread(target=uvicorn.Server(config).run, daemon=True).start()
    _wait_connected(workers)
    pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(certificate).read_text())).hexdigest()
    http = EndpointClient(url, bearer=os.environ["WORKER_KEY"], certificate_sha256=pin)
    _wait_healthy(http)
    times: dict[str, list[float]] = {"line": [], "http": []}
    for number in range(_WARM_UP + int(pictures)):
        request = GenerationRequest("noise", seed=number, num_inference_steps=1, width=256, height=256)
        for name, draw in (("line", workers.draw), ("http", None)):
            begin = time.perf_counter()
            if draw is not None:
                drawn = draw(request, job_id=f"line-{number}", tell=lambda event: None, cancelled=lambda: False)
            else:
                drawn = http.infer(request, request_id=f"http-{number}", tell=lambda event: None)
            if number >= _WARM_UP:
                times[name].append(time.perf_counter() - begin - (drawn.receipt.inference_s or 0))
    print(json.dumps(times), flush=True)
    os._exit(0)


def _wait_connected(workers: Workers) -> None:
    until_s = time.monotonic() + _CONNECT_S
    while not workers.status().ready:
        if time.monotonic() > until_s:
            raise SystemExit(f"no worker connected within {_CONNECT_S:g} s")
        time.sleep(0.1)


def _wait_healthy(http: EndpointClient) -> None:
    until_s = time.monotonic() + _CONNECT_S
    while time.monotonic() < until_s:
        try:
            if http.health().state == "healthy":
                return
        except Exception as error:  # it starts
            last = error
        time.sleep(0.2)
    raise SystemExit(f"the HTTP server was not healthy within {_CONNECT_S:g} s: {last}")


if __name__ == "__main__":
    main()
