"""Asks one inference server for pictures directly and through a tunnel, in turn; prints the seconds of each as JSON.

`python -m benchmarks._tunnel_client DIRECT_URL TUNNEL_URL CERTIFICATE PICTURES`: the bearer in ENDPOINT_BEARER. What is
measured is the time from the request to the decoded picture, less the engine's own time.
"""

import hashlib
import json
import os
import ssl
import sys
import time
from pathlib import Path

from drawing.models import GenerationRequest
from endpoint_client import EndpointClient
from errors import SpaceError

WIDTH_PX, HEIGHT_PX = 384, 448  # of noise: 516 KB of PNG
_START_S = 120.0
_WARM_UP = 5


def main() -> None:
    """Prints `{"direct": [...], "tunnel": [...]}`, in seconds."""
    direct, tunnel, certificate, pictures = sys.argv[1:]
    pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(certificate).read_text())).hexdigest()
    ways = {
        name: EndpointClient(url, bearer=os.environ["ENDPOINT_BEARER"], certificate_sha256=pin)
        for name, url in (("direct", direct), ("tunnel", tunnel))
    }
    for client in ways.values():
        _wait_healthy(client)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(_WARM_UP + int(pictures)):
        request = GenerationRequest(
            "noise", seed=number, num_inference_steps=1, width=WIDTH_PX, height=HEIGHT_PX, guidance_scale=7.5
        )
        for name in sorted(ways, reverse=bool(number % 2)):
            begin = time.perf_counter()
            drawn = ways[name].infer(request, request_id=f"{name}-{number}", tell=lambda event: None)
            if number >= _WARM_UP:
                times[name].append(time.perf_counter() - begin - (drawn.receipt.inference_s or 0))
    print(json.dumps(times), flush=True)
    os._exit(0)


def _wait_healthy(client: EndpointClient) -> None:
    until_s, last = time.monotonic() + _START_S, "nothing"
    while time.monotonic() < until_s:
        try:
            last = client.health().state
        except SpaceError as error:  # it starts
            last = str(error)
        if last == "healthy":
            return
        time.sleep(0.2)
    raise SystemExit(f"the server was not healthy within {_START_S:g} s: {last}")


if __name__ == "__main__":
    main()
