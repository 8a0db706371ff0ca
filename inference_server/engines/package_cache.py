"""The folder that keeps compiled models from one engine process to the next: diffusers' UNets, OpenVINO's networks.

A package is machine code that this process will run, so the folder must be this user's alone. A package is written
under another name and moved into place, so that no half-written file has a name that anybody asks for. Locks say
which folders a living process uses: the kernel takes them away with the process, however it ends.
Source: man 2 flock (a lock belongs to the open file; it also holds between containers that share a folder)
"""

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

MAX_PACKAGES = 32  # of some MB each; the longest unused go
MAX_TRIALS = 2  # that began and did not end: one may be the server's own end, two are the package's fault
NEW_S = 60.0  # a folder so new may not have its lock yet
OLD_S = 7 * 24 * 3600  # then an unused folder goes, also where the file system knows no locks; a failure is forgotten


class PackageCacheError(Exception):
    """The folder cannot be used; the text says why and what to do."""


class PackageCache:
    """Packages of one kind by the digest of the order that they were made for."""

    def __init__(self, folder: Path, kind: str = "unet", suffix: str = ".pt2", most: int = MAX_PACKAGES) -> None:
        """Raises: PackageCacheError."""
        self._folder, self._kind, self._suffix, self._most = folder, kind, suffix, most
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
        self._trials: dict[str, _Lock | None] = {}
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
        """A new folder on the same disk, to make a package in or to unpack one; gone at the end."""
        folder = Path(tempfile.mkdtemp(dir=self._folder, prefix="scratch-"))
        lock = _try_lock(folder)
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                lock.release()

    @contextlib.contextmanager
    def compiler_cache(self) -> Iterator[Path]:
        """The folder in which the compilers keep what they have done already; gone at the end.

        It stays if this process is killed meanwhile: the next one need not start over.
        """
        folder = self._folder / "compiler"
        folder.mkdir(mode=0o700, exist_ok=True)
        os.utime(folder)
        lock = _try_lock(folder, shared=True)
        try:
            yield folder
        finally:
            if lock is not None:
                lock.release()
            _remove_unused(folder)

    def put(self, digest: str, made: Path) -> Path:
        """Moves the finished file into the cache. Raises: OSError."""
        file = self._file(digest)
        made.chmod(0o600)
        made.replace(file)
        self._prune(keep=file)
        return file

    def note_failure(self, digest: str, reason: str) -> None:
        """So that not every engine process spends minutes on what does not compile."""
        with contextlib.suppress(OSError):
            self._failure(digest).write_text(reason, encoding="utf-8")

    def failure(self, digest: str) -> str | None:
        """Why it did not compile, in the last days; None: nothing is known against it."""
        file = self._failure(digest)
        if _age_s(file) > OLD_S:
            file.unlink(missing_ok=True)
        try:
            return file.read_text(encoding="utf-8")
        except OSError:
            return None

    def discard(self, digest: str) -> None:
        self._file(digest).unlink(missing_ok=True)
        self.end_trial(digest)

    def begin_trial(self, digest: str) -> None:
        """Notes that the package may take this process down until `end_trial`, so that later ones give up on it."""
        trial = self._trial(digest)
        with trial.open("ab") as file:
            file.write(b".")  # one for each that began
        self._trials[digest] = _try_lock(trial)

    def end_trial(self, digest: str) -> None:
        self._trial(digest).unlink(missing_ok=True)
        lock = self._trials.pop(digest, None)
        if lock is not None:
            lock.release()

    def _has_killed(self, digest: str) -> bool:
        """Whether processes that tried it did not live to say that it works; one that still tries does not count."""
        trial = self._trial(digest)
        try:
            if trial.stat().st_size < MAX_TRIALS:
                return False
            abandoned = _lock(trial)
        except FileNotFoundError:
            return False
        except OSError:  # a file system without locks
            return True
        if abandoned is None:
            return False
        abandoned.release()
        return True

    def _file(self, digest: str) -> Path:
        return self._folder / f"{self._kind}-{digest}{self._suffix}"

    def _trial(self, digest: str) -> Path:
        return self._folder / f"{self._kind}-{digest}.trial"

    def _failure(self, digest: str) -> Path:
        return self._folder / f"unet-{digest}.failed"

    def _prune(self, keep: Path) -> None:
        files = sorted(
            self._folder.glob(f"{self._kind}-*{self._suffix}"), key=lambda file: file.stat().st_mtime, reverse=True
        )
        for file in files[self._most :]:
            if file != keep:
                file.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Removes what killed processes have left."""
        for folder in self._folder.glob("scratch-*"):
            if _age_s(folder) > NEW_S:
                _remove_unused(folder)
        compiler = self._folder / "compiler"
        if _age_s(compiler) > OLD_S:
            _remove_unused(compiler)


def unpack(package: Path, folder: Path) -> None:
    """Puts the package's files into `folder`, every byte checked against its sum.

    Raises: zipfile.BadZipFile, OSError.
    """
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)


class _Lock:
    """A lock on a file or folder; `release` or the end of the process takes it away."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


def _lock(path: Path, *, shared: bool = False) -> _Lock | None:
    """Locks an existing file or folder, `shared` beside other shared locks; None where another process's is in the way.

    Raises: OSError when it is not there, or the file system knows no locks.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return _Lock(descriptor)


def _try_lock(path: Path, *, shared: bool = False) -> _Lock | None:
    """As `_lock`; None also where the file system knows no locks."""
    try:
        return _lock(path, shared=shared)
    except OSError:
        return None


def _remove_unused(folder: Path) -> None:
    """Unless a living process uses it."""
    try:
        unused = _lock(folder)
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
