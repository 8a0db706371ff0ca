"""Keeps the owner's state in DATA_DIR: one small file, only its user's to read, replaced as a whole under a lock.

The server and the owner's commands (`owner_commands.py`) both write it.
"""

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from inference_server.owner_state import OwnerState

log = logging.getLogger("inference_server.owner")

FILE_NAME = "state.json"
_LOCK_EVERY_S = 0.02


def data_dir(environment: Mapping[str, str]) -> Path:
    """DATA_DIR, or a folder of the user's.

    Source: https://specifications.freedesktop.org/basedir-spec (XDG_DATA_HOME)
    """
    if given := environment.get("DATA_DIR", "").strip():
        return Path(given)
    base = environment.get("XDG_DATA_HOME", "").strip() or os.path.expanduser("~/.local/share")
    return Path(base) / "inference_server"


class StateFile:
    """The file in its folder, which is made when it is first needed. Every method may raise OSError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME

    def stamp(self) -> tuple[int, int] | None:
        """Another one after each change; None without a file."""
        try:
            found = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_ino, found.st_mtime_ns

    def read(self) -> OwnerState:
        """What it holds. One that makes no sense is set aside, with a warning."""
        try:
            text = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return OwnerState()
        try:
            return OwnerState.model_validate_json(text)
        except ValidationError:
            aside = self.path.with_name("state.broken.json")
            self.path.replace(aside)
            log.warning(
                "%s cannot be understood: a pause, the day's counts and the last wake-ups are forgotten; it is kept "
                "as %s",
                *(self.path, aside.name),
            )
            return OwnerState()

    def update(self, change: Callable[[OwnerState], OwnerState], *, wait_s: float = 5.0) -> OwnerState:
        """Changes the content; returns the new one.

        Raises: TimeoutError (an OSError) when another process keeps the lock for `wait_s`.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked(wait_s):
            state = change(self.read())
            self._write(state)
        return state

    @contextlib.contextmanager
    def _locked(self, wait_s: float) -> Iterator[None]:
        """A lock on the folder: the file itself is another one after each change."""
        until = time.monotonic() + wait_s
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            while True:
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise TimeoutError(f"another process keeps {self.folder} locked") from None
                time.sleep(_LOCK_EVERY_S)
            yield
        finally:
            os.close(folder)

    def _write(self, state: OwnerState) -> None:
        descriptor, name = tempfile.mkstemp(prefix=".state-", dir=self.folder)  # mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(state.model_dump_json(indent=1))
                if os.geteuid() == 0:  # `docker exec --user root`: the server must be able to read it
                    owner = self.folder.stat()
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
