"""The receipt of a picture: where its time went, and what drew it."""

from drawing.models import GeneratedImage


def receipt(generated: GeneratedImage) -> dict[str, str]:
    """The lines of the receipt as labels and values, plain text; what is not known has no line."""
    told = generated.receipt
    times = {
        "In line": told.in_line_s,
        "Waking": told.waking_s,
        "Drawing": told.inference_s,
        "Writing the file": told.encode_s,
        "On the way": told.way_s,
        "In all": told.total_s,
    }
    words = {
        "Machine": told.worker,
        "Model": told.model.rstrip("/").rpartition("/")[2] if told.model else None,
        "Scheduler": told.scheduler,
        "Seed": None if generated.seed is None else str(generated.seed),
    }
    lines = {label: _seconds(value) for label, value in times.items() if value is not None}
    return lines | {label: value for label, value in words.items() if value}


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 0.95 else f"{value * 1000:.0f} ms"
