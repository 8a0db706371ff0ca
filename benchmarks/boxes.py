"""Two GPU boxes against one: pictures a second from `text_to_image`, with many visitors at once.

The real chain on this machine: Fair server, tunnel, two inference servers, whose engine sleeps 0.4 s a step and so
needs no core of its own. Goal: two boxes draw at least 1.9 times as much as one.
"""

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backends.choose import choose_backend
from benchmarks._boxes import BOXES, BoxesFair, boxes_fair
from network.tunnel import PROGRAM, find_program
from settings import Settings
from text_to_image import TextToImage

VISITORS = 32
PICTURES = 64  # in a round
STEP_S, STEPS = 0.4, 10  # 4 s a picture, 4 of them side by side on a box
GOAL = 1.9
_READY_S = 120.0
_DRAW_S = 300.0
_ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Prints the table; exit status 1 where the goal is missed."""
    tunnel = find_program(_ROOT)
    if tunnel is None:
        raise SystemExit(f"There is no {PROGRAM} on the PATH, nor one that `make` has built.")
    with (
        tempfile.TemporaryDirectory(prefix="boxes-") as folder,
        boxes_fair(Path(folder), tunnel, step_s=STEP_S) as fair,
    ):
        rounds = [(boxes, _pictures_a_second(fair, boxes)) for boxes in (BOXES[:1], BOXES, BOXES[:1])]
    print(f"\n{PICTURES} pictures of {STEPS} steps for {VISITORS} visitors at once (python -m benchmarks.boxes)")
    for boxes, rate in rounds:
        print(f"{' and '.join(boxes):14} {rate:6.2f} pictures a second")
    one = statistics.mean(rate for boxes, rate in rounds if len(boxes) == 1)
    ratio = rounds[1][1] / one
    print(f"ratio          {ratio:6.2f}   (goal: at least {GOAL})")
    return int(ratio < GOAL)


def _pictures_a_second(fair: BoxesFair, boxes: tuple[str, ...]) -> float:
    values = {name.lower(): value for name, value in fair.environment(*boxes).items()}
    service = TextToImage(choose_backend(Settings.load(_env_file=None, **values)))
    try:
        _wake(service)
        begin = time.perf_counter()
        with ThreadPoolExecutor(VISITORS) as pool:
            list(pool.map(lambda number: _draw(service, number), range(PICTURES)))
        return PICTURES / (time.perf_counter() - begin)
    finally:
        service.close()


def _wake(service: TextToImage) -> None:
    deadline = time.monotonic() + _READY_S
    service.submit("wake up", num_inference_steps=1).result(_READY_S)
    while not all(box.ready for box in service.status().boxes):
        if time.monotonic() > deadline:
            raise SystemExit(f"A box was not ready within {_READY_S:g} s: {service.status().boxes}")
        time.sleep(0.1)


def _draw(service: TextToImage, number: int) -> None:
    service.submit(f"picture {number}", num_inference_steps=STEPS, visitor=str(number)).result(_DRAW_S)


if __name__ == "__main__":
    raise SystemExit(main())
