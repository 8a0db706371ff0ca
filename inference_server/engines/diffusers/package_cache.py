"""The folder that keeps compiled UNets from one engine process to the next.

A package is machine code that this process will run: the folder must be this user's alone. Each is written under
another name and moved into place, so a half-written one has no name that anybody asks for.
"""

import os
import shutil
import stat
import tempfile
import time
import zipfile
from pathlib import Path

MAX_PACKAGES = 32  # of some MB each; the longest unused go
OLD_S = 24 * 3600


class PackageCacheError(Exception):
    """The folder cannot be used; the text says why and what to do."""


class PackageCache:
    """Files by the digest of the order they were made for."""

    def __init__(self, folder: Path) -> None:
        """Raises: PackageCacheError."""
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.stat()
        except OSError as exc:
            raise PackageCacheError(f"{folder} cannot be made: {exc.strerror}. Set another compile_cache") from exc
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PackageCacheError(
                f"{folder} can be written by others, and what lies in it is run. Give it to this user alone "
                "(chmod 700), or set another compile_cache"
            )

    def find(self, digest: str) -> Path | None:
        file = self._file(digest)
        if not file.is_file():
            return None
        if self._trial(digest).exists():  # the process that tried it last did not live to say that it works
            self.discard(digest)
            return None
        os.utime(file)
        return file

    def scratch(self) -> tempfile.TemporaryDirectory[str]:
        """A new folder on the same disk, for what becomes a package and for what is unpacked from one."""
        return tempfile.TemporaryDirectory(dir=self._folder, prefix="scratch-", ignore_cleanup_errors=True)

    def put(self, digest: str, made: Path) -> Path:
        """Takes over the finished file. Raises: OSError."""
        file = self._file(digest)
        made.chmod(0o600)
        made.replace(file)
        self._prune(keep=file)
        return file

    def discard(self, digest: str) -> None:
        self._file(digest).unlink(missing_ok=True)
        self._trial(digest).unlink(missing_ok=True)

    def begin_trial(self, digest: str) -> None:
        """From now until `end_trial` the package may take this process down; no later one will then try it again."""
        self._trial(digest).touch()

    def end_trial(self, digest: str) -> None:
        self._trial(digest).unlink(missing_ok=True)

    def _file(self, digest: str) -> Path:
        return self._folder / f"unet-{digest}.pt2"

    def _trial(self, digest: str) -> Path:
        return self._folder / f"unet-{digest}.trial"

    def _prune(self, keep: Path) -> None:
        files = sorted(self._folder.glob("unet-*.pt2"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[MAX_PACKAGES:]:
            if file != keep:
                file.unlink(missing_ok=True)
        for folder in self._folder.glob("scratch-*"):  # left by a process that was ended
            if _is_old(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_old(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > OLD_S
    except OSError:
        return False


def unpack(package: Path, folder: Path) -> None:
    """The package's files in `folder`, every byte checked against its sum.

    Raises: zipfile.BadZipFile, OSError.
    """
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
