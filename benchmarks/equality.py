"""How far a seed's picture in company is from the same seed's picture alone: differences of all pixels, of 255.

In company a picture shares its steps with others, in a larger bucket, where other kernels may add up in another order.
In fp32 a picture in the same slot and bucket is equal bit for bit
(tests/inference_server/diffusers/test_continuous_batching.py); here the buckets
differ. Goal: at most 2 in fp32 for schedulers that add no noise. Needs inference_server/requirements.txt.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _models
from benchmarks._machine import Table, look
from benchmarks._orders import OrdersChannel
from inference_server.engine_config import EngineConfig
from inference_server.engines.diffusers.engine import DiffusersEngine
from inference_server.messages import Draw, GenerationParams

PRECISIONS = ("fp32", "bf16", "fp16")
SEEDS, STEPS, SIDE_PX = 4, 5, 64
COMPANY = ("DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler")
ADDS_NOISE = ("DDPM", "Ancestral", "SDE")


def main() -> None:
    """Prints the table."""
    machine = look()
    table = Table("equality", machine)
    table.line(f"python -m benchmarks.equality; {machine.heading()}")
    table.line(f"{_models.SMALL.name}, {SIDE_PX} px, {STEPS} steps, {SEEDS} seeds\n")
    table.line(f"{'scheduler':<34}{'precision':>10}{'adds noise':>12}{'p50':>8}{'p99':>8}{'max':>8}")
    with tempfile.TemporaryDirectory() as folder:
        _models.save(_models.SMALL, Path(folder))
        for precision in PRECISIONS:
            config = EngineConfig(engine="diffusers", model_id=folder, model_precision=precision, compile_sizes=())
            engine = DiffusersEngine(config, lambda stage: None)
            for scheduler in sorted(engine.model_info.schedulers):
                _row(table, scheduler, precision, _differences(engine, scheduler))
    table.keep()


def _differences(engine: DiffusersEngine, scheduler: str) -> Any:
    """Of every pixel and colour of every seed, (n,) int."""
    mine = [_order(seed, scheduler, steps=STEPS) for seed in range(SEEDS)]
    others = [_order(100 + index, name, steps=2 * STEPS) for index, name in enumerate(COMPANY)]
    together = _draw(engine, [*others, *mine])
    return np.concatenate([np.abs(together[one.number] - _draw(engine, [one])[one.number]) for one in mine])


def _draw(engine: DiffusersEngine, orders: Sequence[Draw]) -> dict[int, Any]:
    channel = OrdersChannel(orders)
    engine.work(channel)
    return channel.pictures


def _order(number: int, scheduler: str, steps: int) -> Draw:
    params = GenerationParams(
        f"picture {number}", "", SIDE_PX, SIDE_PX, steps, _models.SMALL.guidance_scale, scheduler, (number,)
    )
    return Draw(number, params)


def _row(table: Table, scheduler: str, precision: str, differences: Any) -> None:
    noise = "yes" if any(word in scheduler for word in ADDS_NOISE) else "no"
    p50, p99 = np.percentile(differences, (50, 99))
    table.line(f"{scheduler:<34}{precision:>10}{noise:>12}{p50:>8.0f}{p99:>8.0f}{differences.max():>8}")


if __name__ == "__main__":
    main()
