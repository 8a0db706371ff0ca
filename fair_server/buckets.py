"""Buckets: named files of one program, spooled to disk, that grow until their end is declared.

A bucket holds a program's input (copied files, `#stdin`) and its output (`#stdout`, `#stderr`). Many can read a file
while it grows and again later, each from its first byte. All files lie in a private folder (0700, files 0600) that the
server removes when it ends.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from fair_server.errors import ApiError

STDIN, STDOUT, STDERR = "#stdin", "#stdout", "#stderr"
UPLOAD_LIMIT_BYTES = 64 * 1024 * 1024
OUTPUT_LIMIT_BYTES = 256 * 1024 * 1024  # what a program writes beyond it is dropped
_PIECE_BYTES = 64 * 1024
_FILES_AT_MOST = 300


class BucketFile:
    """One growing file. Not thread-safe: it belongs to the event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self.ended = False
        self.put_at = 0.0  # when a client last put something, its end included; by the event loop's clock
        self.uploading = asyncio.Lock()  # one upload at a time
        self._changed = asyncio.Event()
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def append(self, data: bytes) -> None:
        """Adds `data`, and wakes the readers. After the end it is dropped."""
        if self.ended or not data:
            return
        with self.path.open("ab") as file:
            file.write(data)
        self.size_bytes += len(data)
        self._wake()

    def append_upload(self, data: bytes) -> None:
        """Adds `data` that a client puts.

        Raises:
            ApiError: 413 TOO_LARGE, also if only all uploads together are.
        """
        if self.size_bytes + len(data) > UPLOAD_LIMIT_BYTES:
            raise ApiError(413, "TOO_LARGE", f"A file holds at most {UPLOAD_LIMIT_BYTES} bytes.")
        self.put_at = asyncio.get_running_loop().time()
        self.append(data)

    def truncate(self, size_bytes: int) -> None:
        """Forgets what came after `size_bytes`: half an upload that broke off."""
        os.truncate(self.path, size_bytes)
        self.size_bytes = size_bytes

    def end(self) -> None:
        """Declares that nothing more comes. Doing so again changes nothing."""
        self.ended = True
        self._wake()

    async def until_ended(self) -> None:
        """Returns when the file is whole."""
        while not self.ended:
            await self._changed.wait()

    async def read(self) -> AsyncIterator[bytes]:
        """Yields the file from its first byte, waiting for more, until its end. A file that is gone is at its end."""
        offset = 0
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:  # the server ends, or the program's 48 hours are over
            return
        try:
            while True:
                changed, ended = self._changed, self.ended
                piece = os.pread(descriptor, min(_PIECE_BYTES, self.size_bytes - offset), offset)
                offset += len(piece)
                if piece:
                    yield piece
                elif ended:
                    return
                else:
                    await changed.wait()
        finally:
            os.close(descriptor)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Bucket:
    """The files of one program."""

    def __init__(self, bucket_id: int, account: str, folder: Path) -> None:
        self.id = bucket_id
        self.account = account
        self.closed = False
        self._folder = folder
        self._files: dict[str, BucketFile] = {}
        folder.mkdir(mode=0o700)
        for key in (STDIN, STDOUT, STDERR):
            self.file(key)

    def file(self, key: str) -> BucketFile:
        """Returns the file of that key, empty if nothing came for it yet.

        Raises:
            ApiError: 409 TOO_MANY_FILES.
        """
        if key not in self._files:
            if len(self._files) >= _FILES_AT_MOST:
                raise ApiError(409, "TOO_MANY_FILES", f"A bucket holds at most {_FILES_AT_MOST} files.")
            self._files[key] = BucketFile(self._folder / str(len(self._files)))
        return self._files[key]

    def existing_file(self, key: str) -> BucketFile:
        """Returns the file of that key for reading.

        Raises:
            ApiError: 404 NO_SUCH_FILE.
        """
        if key not in self._files:
            raise ApiError(404, "NO_SUCH_FILE", f"Bucket {self.id} has no file of the key that was asked for.")
        return self._files[key]

    async def upload(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        """Appends `pieces` to the file of that key: all of them, or none if they break off.

        If the program has ended, which a client cannot know, they are read and dropped.

        Raises:
            ApiError: 409 when the file was ended or is the program's own; 413 beyond the limit.
        """
        if key in (STDOUT, STDERR):
            raise ApiError(409, "READ_ONLY", f"{key} is written by the program alone.")
        if self.closed:
            async for _ in pieces:
                pass
            return
        file = self.file(key)
        async with file.uploading:
            if file.ended and not self.closed:
                raise ApiError(409, "FILE_ENDED", "The end of this file was declared already; it takes no more.")
            before = file.size_bytes
            try:
                async for piece in pieces:
                    file.append_upload(piece)
            except BaseException:
                if not self.closed:
                    file.truncate(before)
                raise

    def declare_end(self, key: str) -> None:
        """Ends the file of that key, which may be one that nothing was put into.

        Raises:
            ApiError: 409 READ_ONLY for the program's own output.
        """
        if key in (STDOUT, STDERR):
            raise ApiError(409, "READ_ONLY", f"{key} is written by the program alone.")
        if not self.closed:
            file = self.file(key)
            file.put_at = asyncio.get_running_loop().time()
            file.end()

    def write_output(self, key: str, data: bytes) -> None:
        """Appends what the program wrote to `#stdout` or `#stderr`, as far as there is room.

        The rest is dropped: a full disk must not stop a running program.
        """
        file = self._files[key]
        with contextlib.suppress(OSError):
            file.append(data[: max(0, OUTPUT_LIMIT_BYTES - file.size_bytes)])

    def close(self) -> None:
        """Ends all files and removes those that were uploaded, which may hold secrets; the output stays."""
        self.closed = True
        for key, file in list(self._files.items()):
            file.end()
            if key not in (STDOUT, STDERR):
                file.path.unlink(missing_ok=True)
                del self._files[key]

    def remove(self) -> None:
        """Removes the output, too."""
        self.close()
        self._files.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


class Buckets:
    """All buckets, each seen by the account that made it and no other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buckets: dict[int, Bucket] = {}
        folder.mkdir(mode=0o700)

    def create(self, bucket_id: int, account: str) -> Bucket:
        """Makes a bucket of that number."""
        bucket = Bucket(bucket_id, account, self._folder / str(bucket_id))
        self._buckets[bucket_id] = bucket
        return bucket

    def get(self, bucket_id: int, account: str) -> Bucket:
        """Returns the account's bucket.

        Raises:
            ApiError: 404 NO_SUCH_BUCKET, also for another account's.
        """
        bucket = self._buckets.get(bucket_id)
        if bucket is None or bucket.account != account:
            raise ApiError(404, "NO_SUCH_BUCKET", "There is no such bucket.")
        return bucket

    def remove(self, bucket: Bucket) -> None:
        """Forgets a bucket and all that it holds."""
        self._buckets.pop(bucket.id, None)
        bucket.remove()
