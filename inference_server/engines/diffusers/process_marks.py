"""Marks of a living process on files and folders: the kernel takes them away with the process, however it ends.

Source: man 2 flock (a lock belongs to the open file; it also holds between containers that share a folder)
"""

import fcntl
import os
from pathlib import Path


class Mark:
    """A lock on a file or folder; `release` or the process's end takes it away."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


def mark(path: Path, *, shared: bool = False) -> Mark | None:
    """Marks an existing file or folder; None while another process's mark is in the way, `shared` beside others.

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
    return Mark(descriptor)
