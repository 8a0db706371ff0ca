"""The metrics of `GET /metrics`, in Prometheus' text format. No label holds anything of a prompt or a client."""

import time

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from inference_server.messages import BatchStats

CONTENT_TYPE = CONTENT_TYPE_LATEST
STEP_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
BATCH_BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16)
PICTURE_BUCKETS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Metrics:
    """One registry per server, so that two servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "inference_requests_total", "Posts answered, by outcome", ["outcome"], registry=self.registry
        )
        self.waiting = Gauge("inference_waiting_requests", "Requests in the queue", registry=self.registry)
        self.drawing = Gauge(
            "inference_drawing_requests", "Requests that the engine is drawing", registry=self.registry
        )
        self.step_seconds = Histogram(
            "inference_step_seconds",
            "Time of one step of the model, however many images shared it",
            buckets=STEP_BUCKETS_S,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "inference_batch_size", "Images that shared one step", buckets=BATCH_BUCKETS, registry=self.registry
        )
        self.images = Counter("inference_images_total", "Images drawn", registry=self.registry)
        self.gpu_memory = Gauge(
            "inference_gpu_memory_bytes",
            "GPU memory that the engine process held at its last step; 0 while it is asleep or has no GPU",
            registry=self.registry,
        )
        self.picture_seconds = Histogram(
            "inference_picture_seconds",
            "Time of one answer, from the post to its end",
            buckets=PICTURE_BUCKETS_S,
            registry=self.registry,
        )
        self.idle_seconds = Gauge("inference_idle_seconds", "Since anything was drawn or asked", registry=self.registry)
        self.engine_crashes = Counter(
            "inference_engine_crashes_total", "Engine processes that ended unasked", registry=self.registry
        )
        self.engine_state = Enum(
            "inference_engine_state",
            "What the engine process is at",
            states=["loading", "ready", "asleep", "failed"],
            registry=self.registry,
        )
        self._active_s = time.monotonic()

    def on_phase(self, phase: str) -> None:
        """The engine process changed its phase. Unless it is ready, it holds no memory of the GPU."""
        self.engine_state.state(phase)
        if phase != "ready":
            self.gpu_memory.set(0)

    def on_batch(self, batch: BatchStats) -> None:
        """The engine did one step."""
        self.step_seconds.observe(batch.step_s)
        self.batch_size.observe(batch.images)
        if batch.device_bytes is not None:
            self.gpu_memory.set(batch.device_bytes)

    def touch(self) -> None:
        """Something was drawn or asked for just now."""
        self._active_s = time.monotonic()

    @property
    def idle_s(self) -> float:
        return time.monotonic() - self._active_s

    def text(self) -> bytes:
        self.idle_seconds.set(self.idle_s)
        return generate_latest(self.registry)
