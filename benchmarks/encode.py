"""Encoding a picture for the answer: how much faster than upstream's PNG, and how large beside it, by format.

Upstream (docker-diffusers-api) saves with Pillow's defaults; both sides include the base64 of the answer. Medians of
runs of all formats interleaved, in processor time (all of it is one thread's), so that other programs matter little.
Goal: lossless at least 9 times as fast at no more than 1.1 times the size.

Both figures depend on what the pictures show. The benchmark has its own shapes of all sizes with a little noise,
whose spectrum and size as PNG are those of photographs, and pictures of the demo model, which are flat. Photographs
come by argument: `python -m benchmarks.encode PHOTOGRAPH ...` cuts them square and scales them.
"""

import argparse
import base64
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from inference_server import pictures
from inference_server.messages import GenerationParams, ModelInfo, RawImage
from inference_server.resolve import Resolved

RUNS = 9
SIDES_PX = (512, 1024)
GOAL_FASTER, GOAL_SIZE = 9.0, 1.1
DEMO_PROMPTS = ("a red apple", "a blue fish", "a house at night")
FORMATS: dict[str, tuple[str, int | None]] = {  # format, png_compress_level
    "PNG (default)": ("PNG", None),
    "PNG, level 1": ("PNG", 1),
    "WEBP_LOSSLESS": ("WEBP_LOSSLESS", None),
    "WEBP": ("WEBP", None),
    "JPEG": ("JPEG", None),
}


@dataclass(frozen=True)
class Row:
    """One picture in one format, beside upstream's PNG of the same picture."""

    picture: str
    format: str
    upstream_ms: float
    ms: float
    size: float  # upstream's is 1
    met: bool | None  # None: not what the goal is about

    @property
    def faster(self) -> float:
        return self.upstream_ms / self.ms


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encode")
    parser.add_argument("photographs", nargs="*", type=Path, help="pictures to measure with, beside the made ones")
    arguments = parser.parse_args()
    found: dict[str, Image.Image] = {}
    for side_px in SIDES_PX:
        found[f"shapes {side_px}"] = shapes_of_all_sizes(side_px)
        for path in arguments.photographs:
            found[f"{path.stem} {side_px}"] = _square(path, side_px)
    for number, image in enumerate(_demo_pictures(), start=1):
        found[f"demo {number}, {image.width}"] = image
    print(f"\nEncoding, medians of {RUNS} runs in turn (python -m benchmarks.encode)")
    print(f"{'picture':20} {'format':16} {'ms':>7} {'upstream':>9} {'faster':>8} {'size':>6}")
    rows = [row for name, image in found.items() for row in _measure(name, image)]
    for row in rows:
        goal = {True: "goal met", False: "goal not met", None: ""}[row.met]
        figures = f"{row.ms:7.2f} {row.upstream_ms:9.1f} {row.faster:7.1f}x {row.size:6.3f}"
        print(f"{row.picture:20} {row.format:16} {figures}  {goal}".rstrip())
    _summary([row for row in rows if row.met is not None])


def _summary(rows: list[Row]) -> None:
    faster = statistics.median(row.faster for row in rows)
    size = statistics.median(row.size for row in rows)
    met = sum(1 for row in rows if row.met)
    print(f"PNG (default), all pictures: {faster:.1f} times as fast, {size:.3f} of the size (medians)")
    print(
        f"goal, at least {GOAL_FASTER:g} times as fast and at most {GOAL_SIZE:g} the size: {met} of {len(rows)} met it"
    )


def _measure(name: str, image: Image.Image) -> list[Row]:
    raw = RawImage(image.width, image.height, image.tobytes())
    ways: dict[str, Callable[[], str]] = {"upstream": lambda: _as_upstream_does(image)}
    for label, (image_format, level) in FORMATS.items():
        ways[label] = _our_way(raw, image_format, level)
    sizes = {label: len(encode()) for label, encode in ways.items()}  # which also warms up
    times_ms: dict[str, list[float]] = {label: [] for label in ways}
    for _ in range(RUNS):
        for label, encode in ways.items():
            begin_s = time.thread_time()
            encode()
            times_ms[label].append((time.thread_time() - begin_s) * 1000)
    upstream_ms = statistics.median(times_ms["upstream"])
    rows = []
    for label in FORMATS:
        ms, size = statistics.median(times_ms[label]), sizes[label] / sizes["upstream"]
        met = upstream_ms / ms >= GOAL_FASTER and size <= GOAL_SIZE
        rows.append(Row(name, label, upstream_ms, ms, size, met if label == "PNG (default)" else None))
    return rows


def _as_upstream_does(image: Image.Image) -> str:
    """Source: docker-diffusers-api, api/app.py."""
    buffered = BytesIO()
    image.save(buffered, format="PNG")
    return base64.b64encode(buffered.getvalue()).decode("utf-8")


def _our_way(raw: RawImage, image_format: str, png_compress_level: int | None) -> Callable[[], str]:
    params = GenerationParams(
        prompt="a red apple",
        negative_prompt="",
        width_px=raw.width_px,
        height_px=raw.height_px,
        num_inference_steps=25,
        guidance_scale=7.5,
        scheduler="EulerDiscreteScheduler",
        seeds=(1,),
    )
    info = ModelInfo("a-model", "StableDiffusionPipeline", 512, 512, 25, 7.5, "EulerDiscreteScheduler", (), 1024, 8)
    resolved = Resolved(params, info, info.pipeline, image_format)
    return lambda: pictures.encode(raw, resolved, 0, png_compress_level)


def shapes_of_all_sizes(side_px: int, seed: int = 1) -> Image.Image:
    """Noise whose amplitude falls with the frequency to the power of 1.5, and a trace of white noise, in colours."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side_px)[:, None], np.fft.rfftfreq(side_px)[None, :])
    frequency[0, 0] = np.inf  # the mean is set below
    layers = []
    for _ in range(3):
        spectrum = np.fft.rfft2(random.normal(size=(side_px, side_px))) / frequency**1.5
        layer = np.fft.irfft2(spectrum, s=(side_px, side_px))
        layers.append(layer / layer.std())
    light = layers[0]
    colours = np.stack([light + 0.3 * layers[1], light, light + 0.3 * layers[2]], axis=-1)
    grain = random.normal(0, 1.0, (side_px, side_px, 1))
    return Image.fromarray((128 + 45 * colours + grain).clip(0, 255).astype(np.uint8))


def _square(path: Path, side_px: int) -> Image.Image:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((side_px, side_px), Image.Resampling.LANCZOS)


def _demo_pictures() -> list[Image.Image]:
    import openvino_genai

    import demo_model

    pipeline = openvino_genai.Text2ImagePipeline(str(demo_model.folder()), "CPU")
    # The pipeline draws the next picture into the same memory: each is copied at once.
    return [Image.fromarray(pipeline.generate(prompt, rng_seed=1).data[0].copy()) for prompt in DEMO_PROMPTS]


if __name__ == "__main__":
    main()
