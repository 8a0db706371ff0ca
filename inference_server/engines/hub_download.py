"""Brings a model's files from the Hub, tells how far it is, and goes on where a download broke off.

huggingface_hub deletes what it has of a file when its download fails or its process ends: over a home line a weight
file of some GB might never arrive. So the large files are fetched here, by HTTP ranges, to where that library looks for
them, and are checked against their SHA-256. All else, and all of it when everything is there, is the library's.
Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache (blobs are named by their hash)
"""

import errno
import fcntl
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented; what exports them has no __all__
    build_hf_headers,
    disable_progress_bars,
    filter_repo_objects,
    get_session,
    hf_raise_for_status,
)

from inference_server.engines import ModelLoadError
from inference_server.messages import DOWNLOADING

STALL_S = 60.0  # without a new byte
RETRY_S = 1.0
_READ_S, _CONNECT_S = 20.0, 15.0
_TELL_S = 1.0
_PASSING = frozenset({408, 425, 429})  # and all from 500 on
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class HubDownloader:
    """Downloads snapshots of models. `report` is told how far it is, in words that a visitor may read.

    `stall_s`: for how long no new byte may come; `retry_s`: between two tries.
    """

    report: Callable[[str], None]
    stall_s: float = STALL_S
    retry_s: float = RETRY_S
    skipped: tuple[str, ...] = ()  # patterns of files that are not wanted, whatever is asked for

    def snapshot(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        allow_patterns: list[str] | None = None,
        ignore_patterns: list[str] | None = None,
        **others: Any,
    ) -> str:
        """As `huggingface_hub.snapshot_download`, whose other options are taken too; returns the folder.

        Raises: ModelLoadError for what is told to the maintainer in a sentence, else what the library raises.
        """
        ignored = [*(ignore_patterns or ()), *self.skipped]
        patterns: dict[str, Any] = {"allow_patterns": allow_patterns, "ignore_patterns": ignored or None}
        try:
            commit, wanted = _listing(repo_id, revision, patterns)
        except (HfHubHTTPError, httpx2.HTTPError, OSError):
            pass  # the library says what is wrong, unless it has everything already
        else:
            self._fetch_large(repo_id, commit, wanted)
        disable_progress_bars()
        return str(snapshot_download(repo_id, revision=revision, **patterns, **others))

    def _fetch_large(self, repo_id: str, commit: str, wanted: list[RepoFile]) -> None:
        blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model") / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        large = {row.lfs.sha256: row for row in wanted if row.lfs is not None and _SHA256.fullmatch(row.lfs.sha256)}
        missing = {sha: row for sha, row in large.items() if not (blobs / sha).exists()}
        parts = {sha: blobs / f"{sha}.part" for sha in missing}
        here = sum(part.stat().st_size for part in parts.values() if part.exists())
        left = sum(row.size for row in missing.values()) - here
        total = sum(row.size for row in large.values())
        progress = _Progress(self.report, total, total - left)
        progress.require_room(blobs, left)
        for sha, row in missing.items():
            url = hf_hub_url(repo_id, row.path, revision=commit)
            with parts[sha].open("ab") as part, progress.disk_may_be_full(blobs):
                _lock(part, progress)
                if (blobs / sha).exists():  # another process has brought it meanwhile
                    continue
                self._fetch(url, part, row.size, progress)
                progress.tell("checking what came", now=True)
                _check(parts[sha], sha, row.path)
                parts[sha].rename(blobs / sha)

    def _fetch(self, url: str, part: BinaryIO, size: int, progress: "_Progress") -> None:
        """Goes on at the end of `part` until it has `size` bytes."""
        heard = time.monotonic()
        while (here := part.tell()) < size:
            try:
                for chunk in _chunks(url, part, here, size, progress):
                    part.write(chunk)
                    progress.add(len(chunk))
                    heard = time.monotonic()
                part.flush()
                why = f"the Hub sent {part.tell() / 1e6:.1f} of the file's {size / 1e6:.1f} MB"
            except _PassingError as error:
                why = str(error)
            except httpx2.TransportError as error:
                part.flush()
                why = f"{type(error).__name__}: {error}".rstrip(": ")
            if part.tell() >= size:
                break
            if part.tell() > here:
                progress.tell("the line broke, going on from there", now=True)
            elif (silent_s := time.monotonic() - heard) >= self.stall_s:
                raise ModelLoadError(
                    f"the download stalled at {progress.so_far}: no new byte for {silent_s:.0f} s ({why}). Check this "
                    f"machine's way to {constants.ENDPOINT}; the next try goes on from there"
                )
            else:
                progress.tell(f"no new byte for {silent_s:.0f} s, trying again", now=True)
            time.sleep(self.retry_s)
        part.flush()


class _PassingError(Exception):
    """An answer that says "not now"."""


class _Progress:
    """How much of `total` bytes is here, told at most once a second."""

    def __init__(self, report: Callable[[str], None], total: int, here: int) -> None:
        self._report, self._total, self._here = report, total, here
        self._told, self._told_s = "", float("-inf")

    @property
    def so_far(self) -> str:
        unit, size, digits = ("GB", 1e9, 1) if self._total >= 1e9 else ("MB", 1e6, 0 if self._total >= 1e7 else 1)
        return f"{self._here / size:.{digits}f} of {self._total / size:.{digits}f} {unit}"

    def add(self, count: int) -> None:
        self._here += count
        self.tell()

    def tell(self, note: str = "", *, now: bool = False) -> None:
        if not now and time.monotonic() - self._told_s < _TELL_S:
            return
        text = f"{DOWNLOADING}: {self.so_far}{f' ({note})' if note else ''}"
        if text != self._told:
            self._report(text)
        self._told, self._told_s = text, time.monotonic()

    def require_room(self, folder: Path, left: int) -> None:
        """Raises: ModelLoadError where the disk has no room for `left` more bytes."""
        free = shutil.disk_usage(folder).free
        if free < left:
            raise ModelLoadError(
                f"the disk has no room for the model: {left / 1e6:.0f} MB are still to come and {free / 1e6:.0f} MB "
                f"are free at {folder.parent.parent}. {_MAKE_ROOM}"
            )

    def disk_may_be_full(self, folder: Path) -> "_DiskMayBeFull":
        return _DiskMayBeFull(self, folder)


_MAKE_ROOM = "Make room there, or give the container a larger volume for /data; the next try goes on from there"


class _DiskMayBeFull:
    """Raises: ModelLoadError in place of the system's own error for a full disk."""

    def __init__(self, progress: _Progress, folder: Path) -> None:
        self._progress, self._folder = progress, folder

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelLoadError(
                f"the disk at {self._folder.parent.parent} is full after {self._progress.so_far} of the model. "
                f"{_MAKE_ROOM}"
            ) from error


def file_names(repo_id: str) -> list[str]:
    """The files of a repository; where the Hub does not answer, those that were downloaded once.

    Raises: what the library raises.
    """
    try:
        return [one.rfilename for one in HfApi().model_info(repo_id).siblings or ()]
    except (HfHubHTTPError, httpx2.HTTPError, OSError):
        folder = _downloaded_once(repo_id)
        if folder is None:
            raise
        return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())


def _downloaded_once(repo_id: str) -> Path | None:
    """The folder of what there is of a repository on this machine."""
    try:
        return Path(snapshot_download(repo_id, local_files_only=True, ignore_patterns="*"))
    except Exception:  # the Hub's own answer is told instead
        return None


def _listing(repo_id: str, revision: str | None, patterns: dict[str, Any]) -> tuple[str, list[RepoFile]]:
    """The commit that is meant, and those of its files that are wanted."""
    api = HfApi()
    commit = str(api.repo_info(repo_id, revision=revision).sha)
    rows = [row for row in api.list_repo_tree(repo_id, recursive=True, revision=commit) if isinstance(row, RepoFile)]
    return commit, list(filter_repo_objects(rows, **patterns, key=lambda row: row.path))


def _chunks(url: str, part: BinaryIO, here: int, size: int, progress: _Progress) -> Iterator[bytes]:
    """The bytes of the file from `here` on, as they come."""
    headers = {**build_hf_headers(), "Range": f"bytes={here}-{size - 1}", "Accept-Encoding": "identity"}
    timeout = httpx2.Timeout(_READ_S, connect=_CONNECT_S)
    with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as answer:
        if answer.status_code >= 500 or answer.status_code in _PASSING:
            raise _PassingError(f"the Hub answered {answer.status_code}")
        hf_raise_for_status(answer)
        if answer.status_code == 200 and here:  # the range was ignored: the file comes from its beginning
            part.seek(0)
            part.truncate()
            progress.add(-here)
        yield from answer.iter_raw()


def _lock(part: BinaryIO, progress: _Progress) -> None:
    """One process at a time: two containers may share a volume."""
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress.tell("another process is at it", now=True)
        fcntl.flock(part, fcntl.LOCK_EX)
        part.seek(0, 2)


def _check(part: Path, sha: str, name: str) -> None:
    """Raises: ModelLoadError for another content than the Hub's; it is fetched anew by the next try."""
    with part.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() == sha:
            return
    part.unlink()
    raise ModelLoadError(
        f"{name} came with another content than the Hub has (its SHA-256 differs): something on the way changed it. "
        "It is fetched anew"
    )
