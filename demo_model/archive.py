"""The packed model: where its text files lie, and its bytes."""

import hashlib
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
ARCHIVE_NAME = "model.tar.xz"
CHECKSUM_NAME = f"{ARCHIVE_NAME}.sha256"
PART_PATTERN = f"{ARCHIVE_NAME}.b64.[0-9][0-9]"
CONTENTS_NAME = ".contents.json"  # of an unpacked folder: its files and their checksums


def part_name(number: int) -> str:
    """Returns the name of one text file of the archive, counted from 0; their sorted names are their order."""
    return f"{ARCHIVE_NAME}.b64.{number:02d}"


def checksum(content: bytes) -> str:
    """Returns the SHA-256 of the archive, or of a file in it, in hexadecimal, 64 characters."""
    return hashlib.sha256(content).hexdigest()
