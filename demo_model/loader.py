"""Unpacks the demo model, which the repository holds as text, once into the user's cache. Standard library only."""

import base64
import binascii
import hashlib
import io
import json
import logging
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

WEIGHTS = Path(__file__).parent / "weights"
ARCHIVE_NAME = "model.tar.xz"
CHECKSUM_NAME = f"{ARCHIVE_NAME}.sha256"
PART_PATTERN = f"{ARCHIVE_NAME}.b64.[0-9][0-9]"  # text files; their sorted names are their order
CONTENTS_NAME = ".contents.json"  # of an unpacked folder: its files and their checksums
_CACHE_NAME = "stable-diffusion-space"
_log = logging.getLogger(__name__)


class DemoModelError(Exception):
    """The demo model cannot be unpacked; the message is one sentence that says why and what to do."""


def folder(cache: Path | None = None, *, weights: Path = WEIGHTS) -> Path:
    """Returns the folder of the unpacked demo model. Unpacks it first if it is not there or a file of it has changed.

    The folder lies in `cache`, by default in the user's cache (`$XDG_CACHE_HOME`, `~/.cache`). If that cannot be
    written, it lies in a private folder among the temporary files. Its name carries the archive's checksum, and one
    rename puts it there: several processes may call this at once, and nobody sees a half-written folder.

    Raises:
        DemoModelError: the packed files are damaged or missing, or no place for them can be written.
    """
    expected = _expected_checksum(weights)
    archive = b""
    failures: list[str] = []
    for place in [cache] if cache is not None else _default_places():
        if _is_whole(unpacked := place / _folder_name(expected)):
            return unpacked
        archive = archive or _read_archive(weights, expected)
        try:
            unpacked = _unpack(archive, place, _folder_name(expected))
        except OSError as error:
            failures.append(f"{place} ({error.strerror or error})")
            continue
        if failures:
            _log.warning("demo model unpacked to %s, because this could not be written: %s", unpacked, failures[0])
        return unpacked
    raise DemoModelError(
        f"The demo model needs 11 MB in a folder that can be written, but this failed: {'; '.join(failures)};"
        " free some space there or set XDG_CACHE_HOME to another folder."
    )


def checksum(content: bytes) -> str:
    """Returns the SHA-256 in hexadecimal, 64 characters."""
    return hashlib.sha256(content).hexdigest()


def _folder_name(expected: str) -> str:
    return f"demo-model-{expected[:16]}"


def _default_places() -> Iterator[Path]:
    """Yields the folders to try in turn: the user's cache, if there is one, then a private temporary folder."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        caches = [configured if configured.is_absolute() else Path.home() / ".cache"]
    except RuntimeError:  # neither $HOME nor an entry in the password file, as in some containers
        caches = []
    yield from (place / _CACHE_NAME for place in caches)
    yield from _private_temporary_places()  # made only where the cache did not serve


def _private_temporary_places() -> list[Path]:
    """Returns this user's own folder among the temporary files; nothing if somebody else holds its name.

    Its name is the same for every process of the user, so that they share one copy. Other users could put something
    there first: only a real folder of ours that nobody else can write counts.
    """
    owner = os.getuid()
    place = Path(tempfile.gettempdir()) / f"{_CACHE_NAME}-{owner}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
    except OSError:
        return [place]  # unpacking there fails in the same way, and says so
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == owner and not found.st_mode & 0o022
    return [place] if private else []


def _expected_checksum(weights: Path) -> str:
    """Returns the checksum that the archive must have."""
    file = weights / CHECKSUM_NAME
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise DemoModelError(
            f"The demo model's checksum {file} cannot be read ({error}); check the files out again."
        ) from error
    if (match := re.match(r"[0-9a-f]{64}\b", text)) is None:
        raise DemoModelError(f"The demo model's checksum {file} holds no SHA-256; check the files out again.")
    return match.group()


def _read_archive(weights: Path, expected: str) -> bytes:
    """Returns the packed archive, which has the expected checksum."""
    try:
        archive = base64.b64decode(b"".join(part.read_bytes() for part in sorted(weights.glob(PART_PATTERN))))
    except (OSError, binascii.Error) as error:
        raise DemoModelError(
            f"The demo model in {weights} cannot be read ({error}); check the files out again."
        ) from error
    if (found := checksum(archive)) != expected:
        raise DemoModelError(
            f"The demo model in {weights} is damaged: its SHA-256 is {found[:16]}... and not {expected[:16]}...;"
            " check the files out again."
        )
    return archive


def _is_whole(unpacked: Path) -> bool:
    """Returns whether all files of the folder are as they were unpacked: disks fill up, temporary files get deleted."""
    try:
        contents = json.loads((unpacked / CONTENTS_NAME).read_bytes())
        return all(checksum((unpacked / path).read_bytes()) == expected for path, expected in contents.items())
    except (OSError, ValueError, AttributeError):  # gone, or no longer JSON of the kind that was written
        return False


def _unpack(archive: bytes, place: Path, name: str) -> Path:
    """Unpacks the archive to `place/name`, replacing a damaged folder in one step; returns its path."""
    unpacked = place / name
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=place))
    damaged = unfinished.with_name(f"{unfinished.name}.damaged")
    try:
        contents = _extract(archive, unfinished)
        _write(unfinished / CONTENTS_NAME, json.dumps(contents).encode())
        if not _is_whole(unpacked):
            if os.path.lexists(unpacked):
                unpacked.rename(damaged)
                _log.warning("the demo model in %s is damaged: unpacked anew", unpacked)
            unfinished.rename(unpacked)
    except OSError:
        if not _is_whole(unpacked):  # else another process was faster: its folder is as good
            raise
    finally:
        for left in (unfinished, damaged):
            shutil.rmtree(left, ignore_errors=True)
    return unpacked


def _extract(archive: bytes, target: Path) -> dict[str, str]:
    """Writes the archive's files below `target`; returns their paths and checksums.

    Takes only plain files with a path below `target`. Done by hand, because Python 3.11.0 to 3.11.3 has no
    `filter="data"`.
    """
    contents: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(lzma.decompress(archive)), mode="r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                opened = tar.extractfile(member) if member.isfile() else None
                if opened is None or path.is_absolute() or ".." in path.parts:
                    raise DemoModelError(f"The demo model's archive holds {member.name!r}, which is no plain file.")
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                content = opened.read()
                _write(target / path, content)
                contents[member.name] = checksum(content)
    except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
        raise DemoModelError(f"The demo model's archive cannot be unpacked ({error}); pack it anew.") from error
    return contents


def _write(file: Path, content: bytes) -> None:
    """Writes the file and waits until it is on the disk: after a power cut no renamed folder holds empty files."""
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
