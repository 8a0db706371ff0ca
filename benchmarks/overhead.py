"""Beside inference: time per picture from `text_to_image` to the decoded picture, less the engine's own time.

Ours against the tutorial's way, in turn, on the same warm local chain. Goal: a ratio of at most 0.25.
"""

import statistics
import time
import warnings

from backends.choose import choose_backend
from benchmarks._tutorial_way import TutorialClient
from endpoint.credentials import Credentials, new_secret
from network.addresses import free_ports
from settings import Settings
from text_to_image import TextToImage

PICTURES = 60
STEPS = 4
PROMPT = "a red apple"


def main() -> None:
    """Prints the table."""
    warnings.filterwarnings("ignore", message="Unverified HTTPS request")
    secret, (inference_port, public_port) = new_secret(), free_ports(2)
    settings = Settings.load(endpoint_secret=secret, inference_host_port=inference_port, tunnel_public_port=public_port)
    service = TextToImage(choose_backend(settings))
    try:
        service.submit(PROMPT).result(120)
        port = public_port if service.status().tunnel else inference_port
        bearer = Credentials.from_secret(secret).bearer
        theirs = TutorialClient(f"https://127.0.0.1:{port}", {"Authorization": f"Bearer {bearer}"})
        rows: dict[str, list[float]] = {"ours": [], "tutorial": []}
        for _ in range(PICTURES):
            rows["ours"].append(_ours_s(service))
            rows["tutorial"].append(_theirs_s(theirs))
    finally:
        service.close()
    _print(rows)


def _ours_s(service: TextToImage) -> float:
    begin = time.perf_counter()
    drawing = service.submit(PROMPT, num_inference_steps=STEPS).result(60)
    return time.perf_counter() - begin - (drawing.receipt.inference_s or 0)


def _theirs_s(client: TutorialClient) -> float:
    begin = time.perf_counter()
    _, inference_s = client.infer(PROMPT, num_inference_steps=STEPS)
    return time.perf_counter() - begin - inference_s


def _print(rows: dict[str, list[float]]) -> None:
    print(f"\nTime per picture beside inference, {PICTURES} pictures each, in turn (python -m benchmarks.overhead)")
    print(f"{'':10} {'median ms':>10} {'p10 ms':>8} {'p90 ms':>8}")
    for name, values in rows.items():
        deciles = statistics.quantiles(values, n=10)
        print(f"{name:10} {statistics.median(values) * 1e3:10.2f} {deciles[0] * 1e3:8.2f} {deciles[-1] * 1e3:8.2f}")
    ratio = statistics.median(rows["ours"]) / statistics.median(rows["tutorial"])
    print(f"ratio      {ratio:10.2f}   (goal: at most 0.25)")


if __name__ == "__main__":
    main()
