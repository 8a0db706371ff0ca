"""What the last run knew of the model, so that a page whose GPU sleeps offers what it can draw.

Kept in the process, and in a small file where there is a disk that outlives it. It serves what is offered, never what
is refused: the model may be another one by now.
"""

import hashlib
import json
import logging
import os
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from drawing.models import Defaults, Limits
from drawing.status import BackendStatus

log = logging.getLogger(__name__)


class KnownModel:
    """The model's name, limits and defaults as last seen. `file`: None keeps them in this process alone."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._known = self._read()

    @classmethod
    def of(cls, folder: Path | None, *settings: object) -> "KnownModel":
        """That of a place that draws, which `settings` tell from others; its file is in `folder`, None for no file."""
        name = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
        return cls(folder / f"model-{name}.json" if folder else None)

    def note(self, status: BackendStatus) -> None:
        """Keeps what `status` says, if it knows the model itself."""
        if status.model is None or status.stand_in:
            return
        seen = {
            "model": status.model,
            "limits": status.limits.model_dump(mode="json"),
            "defaults": status.defaults.model_dump(mode="json"),
        }
        with self._lock:
            if seen == self._known:
                return
            self._known = seen
            self._write(seen)

    def fill_in(self, status: BackendStatus) -> BackendStatus:
        """`status`, with what is known from before where it knows no model yet."""
        known = self._known
        if status.model is not None or known is None:
            return status
        return replace(
            status,
            model=known["model"],
            limits=Limits.model_validate(known["limits"]),
            defaults=Defaults.model_validate(known["defaults"]),
        )

    def _read(self) -> dict[str, Any] | None:
        if self._file is None:
            return None
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
            Limits.model_validate(known["limits"])
            Defaults.model_validate(known["defaults"])
            return {name: known[name] for name in ("model", "limits", "defaults")}
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or one that something has spoilt
            return None

    def _write(self, known: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._file.parent, delete=False, encoding="utf-8") as file:
                json.dump(known, file)
            os.replace(file.name, self._file)
        except OSError as error:  # a disk that is full or not there: the process remembers all the same
            log.info("what is known of the model is not kept on the disk: %s", error)
