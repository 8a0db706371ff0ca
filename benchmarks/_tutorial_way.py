"""The tutorial's way of drawing, as the baseline: a client that makes a new connection for each request.

It speaks to the same server as ours, so it also sends the bearer and leaves the certificate alone; `png_compress_level`
6 is Pillow's default, which upstream's server uses.
"""

import base64
import time
from io import BytesIO

import requests
from PIL import Image

UPSTREAM_PNG_LEVEL = 6


class TutorialClient:
    """`endpoint_address`: `http(s)://host:port`."""

    def __init__(self, endpoint_address: str, headers: dict[str, str]) -> None:
        self.endpoint_address = endpoint_address
        self.headers = headers

    def wait_until_healthy(self, *, retries: int, delay_s: float = 2.0) -> None:
        """Polls every `delay_s` seconds. Raises: TimeoutError after `retries` polls."""
        for _ in range(retries):
            try:
                url = f"{self.endpoint_address}/healthcheck"
                if requests.get(url, headers=self.headers, timeout=1.0, verify=False).json()["state"] == "healthy":
                    return
            except requests.RequestException:
                pass
            time.sleep(delay_s)
        raise TimeoutError(f"{self.endpoint_address} was not healthy after {retries} polls")

    def infer(self, prompt: str, *, num_inference_steps: int) -> tuple[Image.Image, float]:
        """The decoded picture and the engine's own time in seconds."""
        inputs = {
            "modelInputs": {"prompt": prompt, "num_inference_steps": num_inference_steps},
            "callInputs": {"image_format": "PNG", "png_compress_level": UPSTREAM_PNG_LEVEL},
        }
        response = requests.post(
            self.endpoint_address, json=inputs, headers=self.headers, timeout=60.0, verify=False
        ).json()
        image = Image.open(BytesIO(base64.b64decode(response["image_base64"])))
        image.load()
        return image, response["$timings"]["inference"] / 1000
