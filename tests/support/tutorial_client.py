"""The tutorial's own code, run as a script: `tutorial_client.py PROMPT FILE`.

As printed there, for faircompute 0.20.1 (later releases know neither `node=` nor `get_nodes`), with the one exception
corrected that kept it from ever starting anything. Only its addresses and ports have become variables.
"""

# ruff: noqa
# mypy: ignore-errors

import base64
import hashlib
import logging
import os
import sys
import time
from io import BytesIO

import requests
from fair import FairClient
from PIL import Image

SERVER_ADDRESS = os.environ["SERVER_ADDRESS"]
INFERENCE_NODE = os.environ["NODE_OF_INFERENCE"]
INFERENCE_DOCKER_IMAGE = os.environ["IMAGE_OF_INFERENCE"]
TUNNEL_NODE = os.environ["NODE_OF_TUNNEL"]
TUNNEL_DOCKER_IMAGE = os.environ["IMAGE_OF_TUNNEL"]
LISTEN_ADDRESS = os.environ["LISTEN_ADDRESS"]
INFERENCE_PORT = int(os.environ["PORT_OF_INFERENCE"])
CONTROL_PORT = int(os.environ["PORT_OF_CONTROL"])
PUBLIC_PORT = int(os.environ["PORT_OF_PUBLIC"])

fair_client = None
endpoint_client = None


def create_fair_client():
    return FairClient(
        server_address=SERVER_ADDRESS,
        user_email=os.getenv("FAIRCOMPUTE_EMAIL", "debug-usr"),
        user_password=os.environ.get("FAIRCOMPUTE_PASSWORD", "debug-pwd"),
    )


def start_inference_server(fc: FairClient):
    fc.run(
        node=INFERENCE_NODE, image=INFERENCE_DOCKER_IMAGE, runtime="nvidia", ports=[(INFERENCE_PORT, 8000)], detach=True
    )


def start_tunnel(fc: FairClient):
    token = hashlib.sha256(os.environ.get("FAIRCOMPUTE_PASSWORD", "debug-pwd").encode()).hexdigest()

    server_config = f"""
[server]
bind_addr = "{LISTEN_ADDRESS}:{CONTROL_PORT}"

[server.services.inference_server]
token = "{token}"
bind_addr = "{LISTEN_ADDRESS}:{PUBLIC_PORT}"
"""
    with open("server.toml", "w") as file:
        file.write(server_config)
    fc.run(
        node=TUNNEL_NODE,
        image=TUNNEL_DOCKER_IMAGE,
        command=["--server", "/app/config.toml"],
        volumes=[("./server.toml", "/app/config.toml")],
        network="host",
        detach=True,
    )

    server_address = next(info["host_address"] for info in fc.get_nodes() if info["node_id"] == TUNNEL_NODE)
    client_config = f"""
[client]
remote_addr = "{server_address}:{CONTROL_PORT}"

[client.services.inference_server]
token = "{token}"
local_addr = "127.0.0.1:{INFERENCE_PORT}"
"""
    with open("client.toml", "w") as file:
        file.write(client_config)
    fc.run(
        node=INFERENCE_NODE,
        image=TUNNEL_DOCKER_IMAGE,
        command=["--client", "/app/config.toml"],
        volumes=[("./client.toml", "/app/config.toml")],
        network="host",
        detach=True,
    )


def start_services(fc: FairClient):
    start_inference_server(fc)
    start_tunnel(fc)


class ServerNotReadyException(Exception):
    pass


def create_endpoint_client(fc, retries, timeout=1.0, delay=2.0):
    server_address = next(info["host_address"] for info in fc.get_nodes() if info["node_id"] == TUNNEL_NODE)
    for i in range(retries):
        try:
            return EndpointClient(server_address, timeout=timeout)
        except (requests.exceptions.ConnectionError, requests.exceptions.HTTPError, requests.exceptions.Timeout) as e:
            logging.exception(e)
            time.sleep(delay)

    raise ServerNotReadyException("Failed to start the server")


class EndpointClient:
    def __init__(self, server_address, timeout):
        self.endpoint_address = f"http://{server_address}:{PUBLIC_PORT}"
        response = requests.get(os.path.join(self.endpoint_address, "healthcheck"), timeout=timeout).json()
        if response["state"] != "healthy":
            raise Exception("Server is not healthy")

    def infer(self, prompt):
        inputs = {
            "modelInputs": {
                "prompt": prompt,
                "num_inference_steps": 25,
                "width": 512,
                "height": 512,
            },
            "callInputs": {
                "MODEL_ID": "lykon/dreamshaper-8",
                "PIPELINE": "AutoPipelineForText2Image",
                "SCHEDULER": "DEISMultistepScheduler",
                "PRECISION": "fp16",
                "REVISION": "fp16",
            },
        }

        response = requests.post(self.endpoint_address, json=inputs).json()
        image_data = BytesIO(base64.b64decode(response["image_base64"]))
        image = Image.open(image_data)

        return image


def text_to_image(text):
    global endpoint_client
    global fair_client
    if fair_client is None:
        fair_client = create_fair_client()

    try:
        if endpoint_client is not None:
            return endpoint_client.infer(text)
        else:
            endpoint_client = create_endpoint_client(fair_client, 1)
    # Corrected: printed without ServerNotReadyException, which is what create_endpoint_client raises.
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.HTTPError,
        requests.exceptions.Timeout,
        ServerNotReadyException,
    ):
        start_services(fair_client)
        endpoint_client = create_endpoint_client(fair_client, retries=10)

    return endpoint_client.infer(text)


if __name__ == "__main__":
    text_to_image(sys.argv[1]).save(sys.argv[2])
