"""Plain diffusers as a server, the baseline: `pipe(...)` for one request at a time, behind a lock, as upstream does it.

`python -m benchmarks._plain_diffusers FOLDER cuda|cpu [compiled]`. The wire is docker-diffusers-api's as far as the
benchmarks need it; half precision on CUDA and the scheduler DPMSolverMultistep are its defaults too. Whatever diffusers
and PyTorch do by themselves today (fused attention) is in, nothing else: no batching, and `torch.compile` of the whole
UNet only where `compiled` is asked for.
"""

import base64
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import diffusers
import torch


class _Pipeline:
    def __init__(self, folder: Path, device: str, compiled: bool) -> None:
        dtype = torch.float16 if device == "cuda" else torch.float32
        self._device, self._lock = device, threading.Lock()
        self._pipe: Any = diffusers.StableDiffusionPipeline.from_pretrained(folder, dtype=dtype).to(device)
        self._pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(self._pipe.scheduler.config)
        if compiled:
            self._pipe.unet = torch.compile(self._pipe.unet)
        self._pipe.set_progress_bar_config(disable=True)

    def draw(self, inputs: dict[str, Any]) -> tuple[str, float]:
        """The picture as upstream encodes it, and the seconds of the pipeline's own call."""
        with self._lock, torch.inference_mode():
            begin = time.perf_counter()
            seed = inputs.pop("seed")
            generator = torch.Generator(self._device).manual_seed(seed)
            image = self._pipe(**inputs, generator=generator).images[0]
            inference_s = time.perf_counter() - begin
            buffered = BytesIO()
            image.save(buffered, format="PNG")
            return base64.b64encode(buffered.getvalue()).decode("utf-8"), inference_s


def main() -> None:
    """Serves until it is ended; prints its address when it has drawn once."""
    diffusers.utils.logging.set_verbosity_error()
    pipeline = _Pipeline(Path(sys.argv[1]), sys.argv[2], "compiled" in sys.argv[3:])
    pipeline.draw({"prompt": "warm up", "num_inference_steps": 2, "seed": 0})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            picture, inference_s = pipeline.draw(body["modelInputs"])
            answer = json.dumps({"image_base64": picture, "$timings": {"inference": inference_s * 1000}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
