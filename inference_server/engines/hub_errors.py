"""What went wrong at the Hub in a sentence for the maintainer: what came back, and what to do."""

import errno

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from inference_server.engines import short_reason


def explain(error: BaseException, repo_id: str, revision: str | None = None, setting: str = "MODEL_ID") -> str:
    """The sentence for what huggingface_hub or diffusers raised; it names no token. `setting`: which names the repo."""
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, HfHubHTTPError):
            return _refusal(cause, repo_id, revision, setting)
        if isinstance(cause, httpx2.TransportError):
            told = f"{type(cause).__name__}: {short_reason(cause)}"
            return (
                f"nobody answers at {constants.ENDPOINT} ({told}). Check this machine's network and HF_ENDPOINT; it is "
                "tried again"
            )
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk at {constants.HF_HUB_CACHE} is full. Make room there, or give /data a larger volume"
        if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return (
                f"{constants.HF_HUB_CACHE} cannot be written ({cause.strerror}). Mount a volume at /data "
                "(-v draw:/data) that uid 1000 may write"
            )
    return f"{type(causes[-1]).__name__}: {short_reason(causes[-1])}"


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it came from, the newest first."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return causes


def _refusal(error: HfHubHTTPError, repo_id: str, revision: str | None, setting: str) -> str:
    status, page = error.response.status_code, f"{constants.ENDPOINT}/{repo_id}"
    came_back = f"it answered {status}"
    if isinstance(error, GatedRepoError):
        return (
            f"{came_back}, the model is gated. Accept its terms at {page}, and set HF_TOKEN to a token of that account "
            "that may read it"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{came_back}, there is no such model, or none that may be seen without the right HF_TOKEN. Check the "
            f"spelling of {setting}={repo_id}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{came_back}, the model has no revision {revision!r}. Check MODEL_REVISION at {page}"
    if status in (401, 403):
        told = " ".join((error.server_message or "").split())[:200]
        return f"{came_back}{f' ({told})' if told else ''}. Check HF_TOKEN: it may not read {page}"
    if status == 429:
        return f"{came_back}: too many requests from this network. It is tried again; an HF_TOKEN raises the limit"
    if status >= 500:
        return f"{came_back}: the fault is at {constants.ENDPOINT}. It is tried again"
    return f"{came_back}: {short_reason(error)}"
