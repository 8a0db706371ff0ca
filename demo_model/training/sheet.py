"""Draws every prompt of a list on contact sheets: `python -m demo_model.training.sheet` (a minute).

For each list of `prompts/` three files in `build/demo_sheets/`: `LIST_blind.png`, with numbers alone, for a reader who
shall say what is on it; `LIST.png`, with the prompts; and `LIST_key.txt`. Nothing is picked: one seed, every prompt.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai
from PIL import Image, ImageDraw

import demo_model

PROMPTS = Path(__file__).with_name("prompts")
_COLUMNS, _TILE, _CAPTION, _GAP = 8, 176, 16, 4  # pixels, except the columns
_CAPTION_LETTERS = 30
_ROWS = 6  # of one sheet


@dataclass(frozen=True)
class Drawn:
    """A picture and its prompt."""

    prompt: str
    picture: Image.Image


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_model.training.sheet", description=__doc__)
    parser.add_argument("lists", type=Path, nargs="*", default=sorted(PROMPTS.glob("*.txt")))
    parser.add_argument("--model", type=Path, help="a model folder; the packed model where left out")
    parser.add_argument("--out", type=Path, default=Path("build/demo_sheets"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guidance", type=float, help="the model's own default where left out")
    parser.add_argument("--as-typed", action="store_true", help="give the text encoder the prompts as they are")
    arguments = parser.parse_args()
    folder = arguments.model or demo_model.folder()
    painter = Painter(folder, arguments.guidance, as_typed=arguments.as_typed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for file in arguments.lists:
        started = time.monotonic()
        drawn = [painter.draw(prompt, arguments.seed) for prompt in read_prompts(file)]
        each_s = (time.monotonic() - started) / len(drawn)
        write_sheets(drawn, arguments.out / file.stem)
        print(f"{file.stem}: {len(drawn)} pictures, {each_s:.2f} s each, in {arguments.out}")


def read_prompts(file: Path) -> list[str]:
    """Returns the prompts of a list, one a line."""
    return [line.strip() for line in file.read_text().splitlines() if line.strip()]


class Painter:
    """A loaded model with its defaults."""

    def __init__(self, folder: Path, guidance: float | None = None, *, as_typed: bool = False) -> None:
        """`guidance`: the model's own default if None. `as_typed`: without `demo_model.encoder_prompt`."""
        self._as_typed = as_typed
        defaults = json.loads((folder / "defaults.json").read_text()) if (folder / "defaults.json").exists() else {}
        self._steps = int(defaults.get("num_inference_steps", 20))
        self._guidance = float(defaults.get("guidance_scale", 2.0)) if guidance is None else guidance
        self._pipeline = openvino_genai.Text2ImagePipeline(str(folder), "CPU")

    def draw(self, prompt: str, seed: int, *, posed: bool = True) -> Drawn:
        """Returns the prompt's picture, 256x256; `posed=False`: the thing where the training pictures have it."""
        tensor = self._pipeline.generate(
            prompt if self._as_typed else demo_model.encoder_prompt(prompt),
            num_inference_steps=self._steps,
            guidance_scale=self._guidance,
            generator=openvino_genai.CppStdGenerator(seed) if posed else _Unposed(seed),
        )
        return Drawn(prompt, Image.fromarray(np.array(tensor.data)[0]))


class _Unposed(openvino_genai.Generator):
    """A seed's noise without that of the pose."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._noise = openvino_genai.CppStdGenerator(seed)

    def next(self) -> float:
        return float(self._noise.next())

    def randn_tensor(self, shape: ov.Shape) -> ov.Tensor:
        noise = self._noise.randn_tensor(shape)
        noise.data[:, -1] = 0
        return noise


def write_sheets(drawn: Sequence[Drawn], stem: Path) -> None:
    """Writes STEM_blind_1.png, STEM_1.png and so on, and STEM_key.txt."""
    per_sheet = _COLUMNS * _ROWS
    for number, start in enumerate(range(0, len(drawn), per_sheet), start=1):
        part = drawn[start : start + per_sheet]
        numbers = [str(start + offset + 1) for offset in range(len(part))]
        sheet([one.picture for one in part], numbers).save(f"{stem}_blind_{number}.png")
        sheet([one.picture for one in part], [one.prompt for one in part]).save(f"{stem}_{number}.png")
    Path(f"{stem}_key.txt").write_text("".join(f"{number} {one.prompt}\n" for number, one in enumerate(drawn, 1)))


def sheet(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Returns the pictures side by side, each above its caption."""
    rows = -(-len(pictures) // _COLUMNS)
    height = _TILE + _CAPTION
    canvas = Image.new("RGB", (_COLUMNS * _TILE, rows * height), "lightgrey")
    pen = ImageDraw.Draw(canvas)
    side = _TILE - _GAP
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = number % _COLUMNS * _TILE, number // _COLUMNS * height
        canvas.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (left + _GAP // 2, top + _GAP // 2))
        pen.text((left + _GAP, top + side + _GAP), caption[:_CAPTION_LETTERS], "black")
    return canvas


if __name__ == "__main__":
    main()
