"""The folder that keeps compiled UNets from one engine process to the next.

A package is machine code that this process will run: the folder must be this user's alone. Each is written under
another name and moved into place, so a half-written one has no name that anybody asks for.
"""

import contextlib
import os
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from inference_server.engines.diffusers.process_marks import Mark, mark

MAX_PACKAGES = 32  # of some MB each; the longest unused go
MAX_TRIALS = 2  # that began and did not end: once may be the server's own end, twice is the package
NEW_S = 60.0  # a folder so new may not have its mark yet
OLD_S = 7 * 24 * 3600  # of what nobody uses; also where the file system knows no marks


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
        self._trials: dict[str, Mark | None] = {}
        self._tidy()

    def find(self, digest: str) -> Path | None:
        file = self._file(digest)
        if not file.is_file():
            return None
        if self._has_killed(digest):
            self.discard(digest)
            return None
        os.utime(file)
        return file

    @contextlib.contextmanager
    def scratch(self) -> Iterator[str]:
        """A new folder on the same disk, for what becomes a package and for what is unpacked from one."""
        folder = Path(tempfile.mkdtemp(dir=self._folder, prefix="scratch-"))
        living = _mark(folder)
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if living is not None:
                living.release()

    @contextlib.contextmanager
    def compilers_own(self) -> Iterator[Path]:
        """The folder in which compilers keep what they have done already, gone at the end.

        It stays if this process is ended meanwhile: the next one need not begin from the beginning.
        """
        folder = self._folder / "compiler"
        folder.mkdir(mode=0o700, exist_ok=True)
        os.utime(folder)
        using = _mark(folder, shared=True)
        try:
            yield folder
        finally:
            if using is not None:
                using.release()
            _remove_unused(folder)

    def put(self, digest: str, made: Path) -> Path:
        """Takes over the finished file. Raises: OSError."""
        file = self._file(digest)
        made.chmod(0o600)
        made.replace(file)
        self._prune(keep=file)
        return file

    def discard(self, digest: str) -> None:
        self._file(digest).unlink(missing_ok=True)
        self.end_trial(digest)

    def begin_trial(self, digest: str) -> None:
        """From now until `end_trial` the package may take this process down; later ones then will not try for ever."""
        trial = self._trial(digest)
        with trial.open("ab") as file:
            file.write(b".")  # one for each that began
        self._trials[digest] = _mark(trial)

    def end_trial(self, digest: str) -> None:
        self._trial(digest).unlink(missing_ok=True)
        mine = self._trials.pop(digest, None)
        if mine is not None:
            mine.release()

    def _has_killed(self, digest: str) -> bool:
        """Whether processes that tried it did not live to say that it works; one that still tries does not count."""
        trial = self._trial(digest)
        try:
            if trial.stat().st_size < MAX_TRIALS:
                return False
            abandoned = mark(trial)
        except FileNotFoundError:
            return False
        except OSError:  # a file system without marks
            return True
        if abandoned is None:
            return False
        abandoned.release()
        return True

    def _file(self, digest: str) -> Path:
        return self._folder / f"unet-{digest}.pt2"

    def _trial(self, digest: str) -> Path:
        return self._folder / f"unet-{digest}.trial"

    def _prune(self, keep: Path) -> None:
        files = sorted(self._folder.glob("unet-*.pt2"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[MAX_PACKAGES:]:
            if file != keep:
                file.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """What processes have left that were ended."""
        for folder in self._folder.glob("scratch-*"):
            if _age_s(folder) > NEW_S:
                _remove_unused(folder)
        compiler = self._folder / "compiler"
        if _age_s(compiler) > OLD_S:
            _remove_unused(compiler)


def _mark(path: Path, *, shared: bool = False) -> Mark | None:
    """None also where the file system knows no marks."""
    try:
        return mark(path, shared=shared)
    except OSError:
        return None


def _remove_unused(folder: Path) -> None:
    """Unless a living process uses it."""
    try:
        unused = mark(folder)
    except FileNotFoundError:
        return
    except OSError:
        if _age_s(folder) > OLD_S:
            shutil.rmtree(folder, ignore_errors=True)
        return
    if unused is not None:
        shutil.rmtree(folder, ignore_errors=True)
        unused.release()


def _age_s(folder: Path) -> float:
    """Since anything was put into it or taken out; 0 when it is not there."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def unpack(package: Path, folder: Path) -> None:
    """The package's files in `folder`, every byte checked against its sum.

    Raises: zipfile.BadZipFile, OSError.
    """
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
