"""Finished results in DATA_DIR, for a while: a worker that is killed before its Space has a picture finds it again.

One file a result, only its user's to read: the digest of the request (32 bytes), then the result's JSON. It goes as
soon as the Space has the picture: prompts and pictures are not to lie there while the worker is off. What the Space has
not got stays, over an orderly end too, or it would be drawn twice.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

log = logging.getLogger("inference_server.requests")

_DIGEST_BYTES = 32


class KeptResults:
    """Results in `folder`, each for `keep_s` seconds, the newest `keep_bytes` of them.

    The time of an earlier process's counts from this one's start: clocks may be set meanwhile, and a machine be off.
    Writing happens on a thread of its own. Where nothing can be written results are kept in memory alone, as they are
    anyway.
    """

    def __init__(
        self, folder: Path, *, keep_s: float, keep_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._keep_s, self._keep_bytes, self._clock = folder, keep_s, keep_bytes, clock
        self._since_s: dict[str, float] = {}  # by file name
        self._writing = ThreadPoolExecutor(1, "results")
        self._has_warned = False
        self.drop_old()

    def keep(self, request_id: str, digest: bytes, body: bytes) -> None:
        """Returns at once."""
        self._do(lambda: self._write(self._path(request_id), digest + body))

    def find(self, request_id: str, digest: bytes) -> bytes | None:
        """The result of this very request, if there is one that is not too old."""
        path = self._path(request_id)
        with contextlib.suppress(OSError):
            if self._age_s(path) < self._keep_s:
                content = path.read_bytes()
                if content[:_DIGEST_BYTES] == digest:
                    return content[_DIGEST_BYTES:]
        return None

    def forget(self, request_id: str) -> None:
        """It is not needed any more."""
        self._do(lambda: self._path(request_id).unlink(missing_ok=True))

    def drop_old(self) -> None:
        """Deletes what is too old, and the oldest beyond the bound. Returns at once."""
        self._do(self._drop_old)

    def close(self) -> None:
        """Waits until all is written, and all that is not needed is deleted."""
        self._writing.shutdown()

    def _path(self, request_id: str) -> Path:
        return self._folder / hashlib.sha256(request_id.encode("utf-8", "surrogatepass")).hexdigest()

    def _age_s(self, path: Path) -> float:
        now_s = self._clock()
        return now_s - self._since_s.setdefault(path.name, now_s)

    def _do(self, work: Callable[[], None]) -> None:
        def done() -> None:
            try:
                work()
            except OSError as error:
                if not self._has_warned:
                    log.warning("results are kept in memory alone: %s cannot be used (%s)", self._folder, error)
                self._has_warned = True

        with contextlib.suppress(RuntimeError):  # closed already
            self._writing.submit(done)

    def _write(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix="new-")  # 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.replace(name, path)
            self._since_s[path.name] = self._clock()
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
        self._drop_old()

    def _drop_old(self) -> None:
        files = sorted(((path.stat(), path) for path in self._files()), key=lambda one: -one[0].st_mtime)
        total, too_old = 0, []
        for stat, path in files:
            total += stat.st_size
            if self._age_s(path) > self._keep_s or total > self._keep_bytes:
                too_old.append(path)
        self._since_s = {path.name: self._since_s.get(path.name, self._clock()) for _, path in files}
        self._drop(too_old)

    def _files(self) -> list[Path]:
        return list(self._folder.iterdir()) if self._folder.is_dir() else []

    def _drop(self, files: list[Path]) -> None:
        for path in files:
            path.unlink(missing_ok=True)
