"""The Hub of these tests refuses what the real one refuses, asked with huggingface_hub itself."""

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RepositoryNotFoundError

from tests.support.fake_hub import MAXIMUM_BYTES, TOKEN, FakeHub


def api(hub: FakeHub) -> HfApi:
    return HfApi(hub.url, token=TOKEN)


def put(hub: FakeHub, content: bytes) -> None:
    """Commits a file, not as LFS, whatever the Hub would like."""
    from huggingface_hub import CommitOperationAdd

    addition = CommitOperationAdd("file", content)
    addition._upload_mode, addition._should_ignore = "regular", False
    api(hub).create_commit("you/draw", [addition], commit_message="x", repo_type="space")


def test_what_a_space_refuses(hub: FakeHub) -> None:
    """A file of binary kind and one over 10 MB are refused outside LFS, text is taken."""
    api(hub).create_repo("you/draw", repo_type="space", space_sdk="gradio")
    for content in (b"\x00binary", b"x" * (MAXIMUM_BYTES + 1)):
        with pytest.raises(BadRequestError):
            put(hub, content)
    put(hub, "text é".encode())
    assert hub.spaces["you/draw"].files["file"] == "text é".encode()


def test_who_may(hub: FakeHub) -> None:
    """No Space, no such token, a token that may only read: each refused as the real Hub does it."""
    with pytest.raises(RepositoryNotFoundError):
        api(hub).space_info("you/draw")
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(hub.url, token="another").create_repo("you/draw", repo_type="space", space_sdk="gradio")
    hub.trouble.role = "read"
    with pytest.raises(HfHubHTTPError, match="403"):
        api(hub).create_repo("you/draw", repo_type="space", space_sdk="gradio")
