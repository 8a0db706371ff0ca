"""Draws every thing once and counts how often the artwork nearest to the picture is the asked-for one.

`python -m demo_model.training.nearest MODEL_FOLDER`: a few minutes.
Near means: in the autoencoder's latents, wherever in
the picture the thing stands. Things drawn almost alike (a face and a slightly other face) count as confused.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo_model.training.composer import Composer
from demo_model.training.concepts import concepts
from demo_model.training.encoder import Encoder, make_encoder
from demo_model.training.run_folder import DEFAULT, RunFolder
from demo_model.training.scenes import CELL, LARGE, Scene, Thing
from demo_model.training.sheet import Painter

_SHIFTS = [(x, y) for x in (-CELL, 0, CELL) for y in (-CELL, 0, CELL)]
_SEED = 1


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_model.training.nearest", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--run", type=Path, default=DEFAULT, help="the training run's folder (default: %(default)s)")
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    encode = make_encoder(run.autoencoder, threads=2)
    known = _artwork(Composer(concepts(), run.npm), encode)
    confused = confusions(Painter(arguments.model, as_typed=True), encode, known)
    for asked, nearest in confused:
        print(f"asked for: {asked}, nearest: {nearest}")
    right = len(concepts()) - len(confused)
    print(f"{right} of {len(concepts())} nearest to the asked-for artwork: {100 * right / len(concepts()):.1f} %")


def confusions(painter: Painter, encode: Encoder, known: Tensor) -> list[tuple[str, str]]:
    """Returns the asked-for and the nearest icon of each picture that is nearest to another one.

    `known`: latents of the artwork, (concepts, shifts, values).
    """
    confused = []
    for number, concept in enumerate(concepts()):
        picture = np.array(painter.draw(f"a {concept.names[0]}", _SEED, posed=False).picture)
        latents = torch.from_numpy(encode(picture[None])).float().flatten()
        nearest = int((known - latents).square().mean(-1).amin(1).argmin())
        if nearest != number:
            confused.append((concept.icon, concepts()[nearest].icon))
    return confused


def _artwork(composer: Composer, encode: Encoder) -> Tensor:
    rows = []
    for number in range(len(concepts())):
        scenes = [Scene("single", (Thing(number, None, 128 + x, 128 + y, LARGE),)) for x, y in _SHIFTS]
        latents = encode(np.stack([composer.picture(scene) for scene in scenes]))
        rows.append(torch.from_numpy(latents).float().flatten(1))
    return torch.stack(rows)


if __name__ == "__main__":
    main()
