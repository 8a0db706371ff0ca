"""Buckets: files that grow."""

import asyncio
from pathlib import Path

import pytest

from fair_server.buckets import Buckets


def test_broken_upload_leaves_nothing(tmp_path: Path) -> None:
    """An upload that breaks off leaves the file as it was before, so that it can be sent again."""

    async def scenario() -> None:
        bucket = Buckets(tmp_path / "buckets").create(1, "one")

        async def pieces(*, broken: bool):  # type: ignore[no-untyped-def]
            yield b"one "
            if broken:
                raise ConnectionResetError
            yield b"two"

        with pytest.raises(ConnectionResetError):
            await bucket.upload("/a", pieces(broken=True))
        await bucket.upload("/a", pieces(broken=False))
        bucket.declare_end("/a")
        assert [piece async for piece in bucket.file("/a").read()] == [b"one two"]

    asyncio.run(scenario())
