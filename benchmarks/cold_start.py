"""First cold start: from a prompt with nothing running to its picture, less what nobody can save.

What is taken off: the slowest service's own start (the inference server's, from its launch to healthy, measured
directly in the same run) and the engine's own drawing time. Ours against the tutorial's way: its services started one
after the other, a poll every 2 s. The Fair server runs already, as a configured one does.
Goals: at most 0.3 s beyond, and at most a fifth of the tutorial's way.
"""

import contextlib
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import requests
from fair import FairClient

from backends.choose import choose_backend
from benchmarks._tutorial_way import TutorialClient
from fair_api.client import DeadlineFairClient
from fair_api.local_server import ROOT
from network.addresses import free_ports
from network.tunnel import find_program
from settings import Settings
from text_to_image import TextToImage

DELAYS_S = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
PROMPT = "a red apple"
NODE, TUNNEL_IMAGE = "local", "rapiz1/rathole:v0.5.0"
EMAIL, PASSWORD = "bench@localhost", secrets.token_urlsafe(16)
SERVER_ARGV = [sys.executable, "-m", "inference_server", "--host", "127.0.0.1", "--port"]


def main() -> None:
    """Prints the table."""
    rows: dict[str, list[float]] = {"inference server alone": [], "ours": [], "tutorial": []}
    with _fair_server() as address:
        fair = DeadlineFairClient(address, EMAIL, PASSWORD)
        for delay_s in DELAYS_S:
            rows["inference server alone"].append(_alone_s())
            rows["ours"].append(_ours_s(address, _image(delay_s)) - delay_s)
            _stop_all(fair)
            rows["tutorial"].append(_tutorial_s(address, _image(delay_s)) - delay_s)
            _stop_all(fair)
    _print(rows)


def _image(delay_s: float) -> str:
    return f"inference-server-{delay_s:g}"


@contextlib.contextmanager
def _fair_server() -> Iterator[str]:
    """A Fair server of its own with one node; gives its address."""
    rathole = find_program(ROOT)
    if rathole is None:
        raise SystemExit("This benchmark needs rathole: `make rathole`.")
    images = {TUNNEL_IMAGE: [rathole]}
    for delay_s in DELAYS_S:
        later = ["/bin/sh", "-c", f'sleep {delay_s:g}; exec "$0" "$@"']
        images[_image(delay_s)] = [*later, *SERVER_ARGV, "{port:8000}"]
    with tempfile.TemporaryDirectory() as folder:
        nodes = Path(folder, "nodes.toml")
        lines = "\n".join(f"{json.dumps(name)} = {json.dumps(argv)}" for name, argv in images.items())
        nodes.write_text(f'[[node]]\nname = "{NODE}"\nhost_address = "127.0.0.1"\n[node.images]\n{lines}\n')
        process = subprocess.Popen(
            [sys.executable, "-m", "fair_server", "--host", "127.0.0.1", "--port", "0", "--nodes", str(nodes)],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "FAIRCOMPUTE_EMAIL": EMAIL, "FAIRCOMPUTE_PASSWORD": PASSWORD},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield next(word for word in line.split() if word.startswith("http://"))
        finally:
            process.terminate()
            process.wait(20)


def _alone_s() -> float:
    """Seconds from the inference server's launch to its first healthy answer, asked directly every 5 ms."""
    [port] = free_ports(1)
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*SERVER_ARGV, str(port)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with requests.Session() as session:
            while time.perf_counter() - begin < 60:
                with contextlib.suppress(requests.RequestException):
                    answer = session.get(f"http://127.0.0.1:{port}/healthcheck", timeout=1.0).json()
                    if answer["state"] == "healthy":
                        return time.perf_counter() - begin
                time.sleep(0.005)
    finally:
        process.terminate()
        process.wait(20)
    raise SystemExit("The inference server was not healthy after 60 s.")


def _ours_s(address: str, image: str) -> float:
    inference, control, public = free_ports(3)
    settings = Settings.load(
        FAIRCOMPUTE_EMAIL=EMAIL,
        FAIRCOMPUTE_PASSWORD=PASSWORD,
        faircompute_server_address=address,
        inference_node=NODE,
        tunnel_node=NODE,
        inference_image=image,
        inference_host_port=inference,
        tunnel_control_port=control,
        tunnel_public_port=public,
        endpoint_secret=secrets.token_urlsafe(32),
    )
    service = TextToImage(choose_backend(settings))
    begin = time.perf_counter()
    drawing = service.submit(PROMPT).result(120)
    return time.perf_counter() - begin - (drawing.receipt.inference_s or 0)


def _tutorial_s(address: str, image: str) -> float:
    """Serial starts, then a poll every 2 s, through a tunnel of its own to an open server."""
    inference, control, public = free_ports(3)
    token = secrets.token_hex(32)
    server = (
        f'[server]\nbind_addr = "127.0.0.1:{control}"\n'
        f'[server.services.inference_server]\ntoken = "{token}"\nbind_addr = "127.0.0.1:{public}"\n'
    )
    client = (
        f'[client]\nremote_addr = "127.0.0.1:{control}"\n'
        f'[client.services.inference_server]\ntoken = "{token}"\nlocal_addr = "127.0.0.1:{inference}"\n'
    )
    endpoint = TutorialClient(f"http://127.0.0.1:{public}", {})
    begin = time.perf_counter()
    fair = FairClient(server_address=address, user_email=EMAIL, user_password=PASSWORD)
    with contextlib.suppress(requests.RequestException):
        requests.get(f"{endpoint.endpoint_address}/healthcheck", timeout=1.0)
    fair.run(image, ports=[(inference, 8000)], runtime="nvidia", node_name=NODE, detach=True)
    with tempfile.TemporaryDirectory() as folder:
        for mode, config in (("--server", server), ("--client", client)):
            file = Path(folder, "config.toml")
            file.write_text(config)
            fair.run(
                TUNNEL_IMAGE,
                command=[mode, "/app/config.toml"],
                volumes=[(str(file), "/app/config.toml")],
                network="host",
                node_name=NODE,
                detach=True,
            )
    endpoint.wait_until_healthy(retries=30)
    _, inference_s = endpoint.infer(PROMPT, num_inference_steps=20)
    return time.perf_counter() - begin - inference_s


def _stop_all(fair: DeadlineFairClient) -> None:
    for row in fair.containers(NODE) or []:
        if row.alive:
            fair.delete_container(NODE, row.id, timeout_s=20)


def _print(rows: dict[str, list[float]]) -> None:
    means = {name: statistics.mean(values) for name, values in rows.items()}
    alone = means["inference server alone"]
    print(f"\nFirst cold start, {len(DELAYS_S)} runs each, in turn (python -m benchmarks.cold_start)")
    print(f"{'':24} {'mean s':>7} {'min':>6} {'max':>6} {'beyond s':>9}")
    for name, values in rows.items():
        print(f"{name:24} {means[name]:7.2f} {min(values):6.2f} {max(values):6.2f} {means[name] - alone:9.2f}")
    ratio = (means["ours"] - alone) / (means["tutorial"] - alone)
    print(f"ours beyond the server's own start: {means['ours'] - alone:.2f} s   (goal: at most 0.3)")
    print(f"ours / tutorial, both beyond it:    {ratio:.2f}     (goal: at most 0.2)")


if __name__ == "__main__":
    main()
