"""Makes training samples: scenes, composed and encoded, in files of 512.

`python -m demo_model.training.samples --files 32` makes 32 files.

The first file is the catalogue: every thing alone on white.

A sample is 0.03 s of one core, as long as training on it once; so they are kept and shown several times, each time with
another sentence. The same numbers give the same files. More can be made while training runs: it takes them up.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo_model.training.composer import Composer
from demo_model.training.concepts import concepts
from demo_model.training.encoder import make_encoder
from demo_model.training.run_folder import DEFAULT, RunFolder
from demo_model.training.scenes import Scene, SceneLottery, Thing, catalogue
from demo_model.training.stopping import Stop, running

SAMPLES_PER_FILE = 512
_BATCH = 16
_SEED = 5
_OWN_COLOURS = "own_colours.json"


@dataclass(frozen=True)
class Samples:
    """Pictures by their latents, float16 (n, 8, 16, 16), and what they show, in the same order."""

    latents: NDArray[np.float16]
    scenes: list[Scene]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_model.training.samples", description=__doc__)
    parser.add_argument("--run", type=Path, default=DEFAULT, help="the training run's folder (default: %(default)s)")
    parser.add_argument("--files", type=int, default=32, help="how many files there shall be (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    with running(run.samples_pid) as stop:
        make(run, arguments.files, arguments.threads, stop)


def make(run: RunFolder, files: int, threads: int, stop: Stop) -> None:
    """Writes the files numbered 0 to `files` - 1 that are not there yet, until asked to stop."""
    composer = Composer(concepts(), run.npm)
    encode = make_encoder(run.autoencoder, threads)
    run.samples.mkdir(parents=True, exist_ok=True)
    (run.samples / _OWN_COLOURS).write_text(json.dumps(composer.own_colours))
    for number in range(files):
        file = run.samples / f"{number:05d}.npz"
        if stop:
            return
        if file.exists():
            continue
        lottery = SceneLottery(concepts(), composer.colourable, np.random.default_rng((_SEED, number)))
        scenes = catalogue(len(concepts())) if number == 0 else [lottery.draw() for _ in range(SAMPLES_PER_FILE)]
        latents = [
            encode(np.stack([composer.picture(scene) for scene in scenes[start : start + _BATCH]]))
            for start in range(0, len(scenes), _BATCH)
        ]
        _write(file, Samples(np.concatenate(latents), scenes))
        print(file, flush=True)


def _write(file: Path, samples: Samples) -> None:
    """Writes the file, which appears whole: training may look for it at any time."""
    scenes = json.dumps([dataclasses.asdict(scene) for scene in samples.scenes])
    unfinished = file.with_suffix(".tmp")
    with unfinished.open("wb") as stream:
        np.savez(stream, latents=samples.latents, scenes=np.frombuffer(scenes.encode(), np.uint8))
    unfinished.rename(file)


def read(file: Path) -> Samples:
    """Returns the samples of one file."""
    with np.load(file) as content:
        scenes = json.loads(content["scenes"].tobytes())
        return Samples(content["latents"], [_scene(scene) for scene in scenes])


def read_own_colours(folder: Path) -> list[str]:
    """Returns for each concept the colour that it has as drawn, "" where nobody would say one."""
    colours: list[str] = json.loads((folder / _OWN_COLOURS).read_text())
    return colours


def files_in(folder: Path) -> Iterator[Path]:
    """Yields the sample files, in order."""
    yield from sorted(folder.glob("[0-9]*.npz"))


def _scene(content: dict[str, Any]) -> Scene:
    things = tuple(Thing(**thing) for thing in content.pop("things"))
    return Scene(things=things, **content)


if __name__ == "__main__":
    main()
