"""Batches for training: latents of samples and the tokens of sentences for them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTokenizer

from demo_model import folder
from demo_model.training import samples
from demo_model.training.captions import Captions
from demo_model.training.concepts import concepts
from demo_model.training.networks import GRID, MAX_TOKENS
from demo_model.training.run_folder import RunFolder
from demo_model.training.scenes import Scene
from demo_model.training.unknown_words import unknown_words

_WITHOUT_CAPTION = 0.08  # so that guidance has something to lead away from
_NEW_PAIRS = 0.8  # of the pairs: the left half of one with the right half of another
_HALF = GRID // 2
_PLAIN = 0.20  # of what is shown: things as they are drawn, alone on white
# The rest of what is shown, by kind. A small thing is harder to learn than a large one, so there are many of them.
_KINDS = {"single": 0.25, "pair": 0.38, "count": 0.21, "wearing": 0.05, "sized": 0.06, "unknown": 0.05}
_COMMON_WEIGHT = 3.0  # how much more often a thing that is asked for often is shown so than another one


class NoSamplesError(Exception):
    """There is nothing to train on; the message says what makes it."""


@dataclass(frozen=True)
class Batch:
    """Latents, float (n, 8, 16, 16), and token numbers, (n, 24)."""

    latents: Tensor
    tokens: Tensor


def tokenizer_folder() -> Path:
    """Returns the tokenizer's folder: the packed model's, which all weights share.

    It was trained on the captions, names first, so that the words of a name are whole tokens; other words fall into
    pieces, down to bytes.
    """
    return folder() / "tokenizer"


class Batches:
    """Draws batches from the sample files of a run, those included that appear while it trains."""

    def __init__(self, run: RunFolder, seed: int, device: str) -> None:
        self._folder, self._device = run.samples, device
        self._read: set[str] = set()
        self._latents: list[np.ndarray] = []
        self._scenes: list[Scene] = []
        self._pairs: defaultdict[tuple[str | None, str | None], list[int]] = defaultdict(list)  # by surroundings
        self._all_latents = torch.empty(0)
        self.take_up_new_files()
        if not self._scenes:
            raise NoSamplesError(f"{run.samples} holds no samples; make some: python -m demo_model.training.samples.")
        self._tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder())
        self._rng = np.random.default_rng(seed)
        own_colours = samples.read_own_colours(run.samples)
        self._captions = Captions(concepts(), own_colours, self._rng, unknown_words())

    def __len__(self) -> int:
        """Returns the number of samples to draw from."""
        return len(self._scenes)

    def take_up_new_files(self) -> None:
        """Reads the files that have appeared since the last call."""
        new = [file for file in samples.files_in(self._folder) if file.name not in self._read]
        for file in new:
            content = samples.read(file)
            self._latents.append(content.latents)
            for number, scene in enumerate(content.scenes, start=len(self._scenes)):
                if scene.kind == "pair":
                    self._pairs[scene.ground, scene.place].append(number)
            self._scenes += content.scenes
            self._read.add(file.name)
        if new:
            self._shares = self._make_shares()
            self._all_latents = torch.from_numpy(np.concatenate(self._latents)).to(self._device)

    def _make_shares(self) -> NDArray[np.float64]:
        """Returns for each sample how often it is shown."""
        plain = np.array([scene.is_plain for scene in self._scenes])
        common = np.array([scene.is_plain and concepts()[scene.things[0].concept].common for scene in self._scenes])
        shares = np.where(common, _COMMON_WEIGHT, 1.0)
        kinds = np.array([scene.kind for scene in self._scenes])
        groups = [(plain, _PLAIN)]
        groups += [(~plain & (kinds == kind), (1 - _PLAIN) * _KINDS[kind]) for kind in set(kinds)]
        for members, share in groups:
            shares[members] *= share / max(1.0, shares[members].sum())
        shares /= shares.sum()
        return shares

    def draw(self, number: int) -> Batch:
        """Returns a batch of so many samples, each with a new sentence or none."""
        lefts = self._rng.choice(len(self._scenes), size=number, p=self._shares)
        rights = np.array([self._partner(left) for left in lefts])
        left_latents, right_latents = (
            self._all_latents[torch.from_numpy(chosen).to(self._device)].float() for chosen in (lefts, rights)
        )
        latents = torch.cat([left_latents[..., :_HALF], right_latents[..., _HALF:]], dim=-1)
        texts = [self._text(left, right) for left, right in zip(lefts, rights, strict=True)]
        return Batch(latents, self._tokens(texts))

    def _partner(self, index: int) -> int:
        """Returns whose right half goes with the left half of a sample: mostly its own.

        Two things side by side do not touch, so halves of pairs in the same surroundings make new pairs: hundreds of
        times more than there are samples.
        """
        scene = self._scenes[index]
        if scene.kind != "pair" or self._rng.random() >= _NEW_PAIRS:
            return index
        return int(self._rng.choice(self._pairs[scene.ground, scene.place]))

    def _text(self, left: int, right: int) -> str:
        if self._rng.random() < _WITHOUT_CAPTION:
            return ""
        scene = self._scenes[left]
        if right != left:
            scene = replace(scene, things=(scene.things[0], self._scenes[right].things[1]))
        return self._captions.write(scene)

    def _tokens(self, texts: Sequence[str]) -> Tensor:
        encoded = self._tokenizer(
            list(texts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
        )
        tokens: Tensor = encoded.input_ids
        return tokens.to(self._device)
