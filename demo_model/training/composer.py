"""Scenes as pictures: the icons, in their colours and sizes, on their ground."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from demo_model.training import artwork, places
from demo_model.training.artwork import Picture
from demo_model.training.concepts import Concept
from demo_model.training.scenes import Scene, Thing

_COLOURABLE_SHARE = 0.45  # of the icon in its main colour: enough that one would call it by another colour


class Composer:
    """Renders every icon once (about half a minute), then composes scenes from them."""

    def __init__(self, concepts: Sequence[Concept], npm: Path) -> None:
        self._icons = [artwork.render(concept.icon, npm) for concept in concepts]
        self._main_colours = [artwork.main_colour(icon) for icon in self._icons]
        self._own_colours = [concept.own_colour for concept in concepts]
        self._coloured = [concept.coloured for concept in concepts]
        self._icon = lru_cache(maxsize=4096)(self._drawn)
        self._place = lru_cache(maxsize=None)(places.place)

    @property
    def own_colours(self) -> list[str]:
        """For each concept the colour that it has as drawn, "" where nobody would say one."""
        return [
            own or (main.name() if main.share >= _COLOURABLE_SHARE else "")
            for own, main in zip(self._own_colours, self._main_colours, strict=True)
        ]

    @property
    def colourable(self) -> list[bool]:
        """For each concept whether it can be drawn in another colour."""
        return [
            coloured or main.share >= _COLOURABLE_SHARE
            for coloured, main in zip(self._coloured, self._main_colours, strict=True)
        ]

    def picture(self, scene: Scene) -> Picture:
        """Returns the scene as uint8 RGB (256, 256, 3)."""
        canvas = self._place(scene.place).copy() if scene.place else places.plain(scene.ground)
        for thing in scene.things:
            icon = self._icon(thing.concept, thing.colour, thing.side)
            canvas.paste(icon, _corner(thing), icon)
        return np.array(canvas)

    def _drawn(self, concept: int, colour: str | None, side: int) -> Image.Image:
        icon, main = self._icons[concept], self._main_colours[concept]
        if colour is not None and colour != self._own_colours[concept]:
            icon = artwork.recolour(icon, colour, main)
        # Colours count by their opacity while shrinking, else a dark rim appears.
        premultiplied = Image.fromarray(icon).convert("RGBa").resize((side, side), Image.Resampling.LANCZOS)
        return premultiplied.convert("RGBA")


def _corner(thing: Thing) -> tuple[int, int]:
    return thing.x - thing.side // 2, thing.y - thing.side // 2
