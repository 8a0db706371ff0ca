"""The receipt of a picture: where its time went, and what drew it."""

from drawing.models import GeneratedImage
from page.language import ENGLISH, Words


def receipt(generated: GeneratedImage, words: Words = ENGLISH) -> dict[str, str]:
    """The lines of the receipt as labels and values, plain text; what is not known has no line."""
    told = generated.receipt
    times = {
        "in_line": told.in_line_s,
        "waking": told.waking_s,
        "drawing": told.inference_s,
        "encoding": told.encode_s,
        "way": told.way_s,
        "total": told.total_s,
    }
    names = {
        "machine": told.worker,
        "model": told.model.rstrip("/").rpartition("/")[2] if told.model else None,
        "scheduler": told.scheduler,
        "seed": None if generated.seed is None else str(generated.seed),
    }
    lines = {name: _seconds(value, words) for name, value in times.items() if value is not None}
    lines |= {name: value for name, value in names.items() if value}
    return {words[f"receipt_{name}"]: value for name, value in lines.items()}


def _seconds(value: float, words: Words) -> str:
    if value >= 0.95:
        return words("short_s", count=words.number(value, 1))
    return words("short_ms", count=f"{value * 1000:.0f}")
