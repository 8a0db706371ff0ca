"""Keeps what OpenVINO compiles of a model, so that the next engine process loads it in a third of the time.

The library has a cache of its own (CACHE_DIR): a file for each network, found by the network's content, the CPU and the
library's version. It takes a damaged file for a good one, though, and ends the process (2026.4), and two processes
write over each other. So each process gives it a folder of its own, filled from a package of the PackageCache.
Source: https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/optimizing-latency/model-caching-overview.html
"""

import hashlib
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from inference_server.engines.package_cache import PackageCache, PackageCacheError, unpack

MAX_WEIGHTS_BYTES = 500_000_000  # of a larger model, what is kept would cost gigabytes of disk, written at each start
MAX_MODELS = 4  # the longest unused go
_Pipeline = TypeVar("_Pipeline")


class CompiledModel:
    """What is compiled of the model in one folder. Whatever fails here costs time, and never the start."""

    def __init__(self, compile_cache: str | None, model: Path) -> None:
        """`compile_cache`: the folder of what was compiled; None: nothing is kept."""
        self._digest = hashlib.sha256(os.fsencode(model.resolve())).hexdigest()[:32]
        self._cache = None if compile_cache is None or _is_large(model) else _open(Path(compile_cache))

    def load(self, load: Callable[..., _Pipeline]) -> _Pipeline:
        """Returns what `load` returns, called with the library's properties as keywords.

        Raises: whatever `load` raises without any.
        """
        if self._cache is None:
            return load()
        try:
            with self._cache.scratch() as scratch:
                kept = self._unpack(self._cache, Path(scratch))
                pipeline = load(CACHE_DIR=scratch)
                if kept != _names(Path(scratch)):  # the model, the CPU or the library has changed, or was not known
                    self._keep(self._cache, Path(scratch))
        except (OSError, RuntimeError) as exc:  # the library raises the latter alone
            self._tell(exc)
            self._cache.discard(self._digest)
            self._cache = None
            return load()
        return pipeline

    def works(self) -> None:
        """The loaded model has drawn. Without this word, two processes in a row, the package is not used again."""
        if self._cache is not None:
            self._cache.end_trial(self._digest)

    def _unpack(self, cache: PackageCache, scratch: Path) -> set[str]:
        package = cache.find(self._digest)
        if package is None:
            return set()
        cache.begin_trial(self._digest)
        try:
            unpack(package, scratch)
        except (zipfile.BadZipFile, OSError) as exc:
            self._tell(exc)
            cache.discard(self._digest)
            for file in scratch.iterdir():
                file.unlink()
        return _names(scratch)

    def _keep(self, cache: PackageCache, scratch: Path) -> None:
        try:
            with cache.scratch() as folder:
                package = Path(folder) / "package.zip"
                with zipfile.ZipFile(package, "w") as archive:
                    for name in sorted(_names(scratch)):
                        archive.write(scratch / name, name)
                cache.put(self._digest, package)
        except OSError as exc:  # the disk is full, say
            self._tell(exc)

    @staticmethod
    def _tell(exc: Exception) -> None:
        print(f"What OpenVINO compiles of the model is not kept: {type(exc).__name__}: {exc}", file=sys.stderr)


def _open(folder: Path) -> PackageCache | None:
    try:
        return PackageCache(folder, "openvino", ".zip", MAX_MODELS)
    except (PackageCacheError, OSError) as exc:
        print(f"What OpenVINO compiles of the model is not kept: {exc}", file=sys.stderr)
        return None


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def _is_large(model: Path) -> bool:
    return sum(file.stat().st_size for file in model.rglob("*.bin")) > MAX_WEIGHTS_BYTES
