"""What was learnt the hard way about one model on one card, kept from one engine process to the next.

How many pixels a step may have, from which size on pictures are decoded in tiles, which precision draws no black
pictures: without it, each awakening would run out of memory again, on a visitor's drawing.
"""

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from inference_server.engines.model_folder import read_json

FILE = "learnt.json"


@dataclass(frozen=True)
class Learnt:
    """None: nothing yet."""

    max_area_px: int | None = None  # of all images of one step
    tiled_from_px: int | None = None  # pictures of so many pixels and more are decoded in tiles
    precision: str | None = None  # the one before it gave no pictures


class LearntStore:
    """Keeps what is learnt in a folder, if there is one. Any thread of the one engine process may use it."""

    def __init__(self, folder: Path | None, key: str) -> None:
        """`key`: names card and model."""
        self._file, self._key = None if folder is None else folder / FILE, key
        self.known = _read(self._all().get(key))

    def learn(self, **found: Any) -> bool:
        """Fields of `Learnt`; whether later processes will know."""
        self.known = replace(self.known, **found)
        if self._file is None:
            return False
        try:
            _write(self._file, {**self._all(), self._key: asdict(self.known)})
        except OSError as exc:
            print(f"what was learnt is not kept in {self._file}: {exc.strerror}", flush=True)
            return False
        return True

    def _all(self) -> dict[str, Any]:
        return {} if self._file is None else read_json(self._file)


def _read(entry: Any) -> Learnt:
    """Without what another version wrote."""
    entry = entry if isinstance(entry, dict) else {}
    kinds = {"max_area_px": int, "tiled_from_px": int, "precision": str}
    names = [field.name for field in fields(Learnt)]
    return Learnt(**{name: entry[name] for name in names if isinstance(entry.get(name), kinds[name])})


def _write(file: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix="learnt-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            json.dump(content, opened)
        Path(name).replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
