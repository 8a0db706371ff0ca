"""The packed model: where its text files lie, and its bytes."""

import hashlib
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
ARCHIVE_NAME = "model.tar.xz"
CHECKSUM_NAME = f"{ARCHIVE_NAME}.sha256"
PART_PATTERN = f"{ARCHIVE_NAME}.b64.[0-9][0-9]"


def part_name(number: int) -> str:
    """Returns the name of one text file of the archive, counted from 0; their sorted names are their order."""
    return f"{ARCHIVE_NAME}.b64.{number:02d}"


def checksum(archive: bytes) -> str:
    """Returns the archive's SHA-256 in hexadecimal, 64 characters."""
    return hashlib.sha256(archive).hexdigest()
