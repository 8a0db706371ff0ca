"""The Hugging Face Hub as manage.py needs it: with deadlines, and with each refusal told in one sentence.

Source: huggingface_hub's own `hf_api.py`; a Space's stages: its `_space_api.py`, and `SLEEPING`, which it leaves out;
"Flagged as abusive" in `errorMessage`: https://github.com/router-for-me/CLIProxyAPI/pull/4828; the 402 for an account
without PRO: https://github.com/ed-donner/agents/issues/1469.
"""

import contextlib
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars

from errors import ServiceError
from maintenance.env_file import INVISIBLE

_REQUEST_S = 60.0
_ATTRIBUTES = ".gitattributes"  # the hub's own
_LOG_IN = "Run `hf auth login` with a token that has write access."
BUILDING = frozenset({"BUILDING", "RUNNING_BUILDING"})
STARTING = frozenset({"APP_STARTING", "RUNNING_APP_STARTING"})
RESTING = frozenset({"SLEEPING", "PAUSED", "STOPPED"})


class HubError(ServiceError):
    """The Hub did not answer, or refused. `status`: its HTTP status, None when nothing came back."""

    def __init__(self, *, tried: str, came_back: str, next_step: str, status: int | None = None) -> None:
        super().__init__("The Hub", tried=tried, came_back=came_back, next_step=next_step)
        self.status = status


@dataclass(frozen=True)
class HubAccount:
    """Whose token this is. `owners`: the names under which it may have Spaces; `role`: `read`, `write`, ..."""

    name: str
    owners: frozenset[str]
    role: str


@dataclass(frozen=True)
class SpaceState:
    """A Space as the Hub sees it. `commit`: of its files; `running_commit`: of what runs, where the Hub tells it."""

    stage: str
    message: str
    host: str
    private: bool
    commit: str | None
    running_commit: str | None

    @property
    def is_flagged(self) -> bool:
        """Whether Hugging Face itself has stopped it."""
        return bool(re.search(r"flagged|abus|blocked", self.message, re.IGNORECASE))


class Hub:
    """The Hub for one account, or for nobody: then only what is public can be seen."""

    def __init__(self) -> None:
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        set_client_factory(_client_with_deadline)
        found = _token()
        self.token = found.translate(INVISIBLE).strip() or None if found else None
        self.token_was_repaired = bool(found) and found != self.token
        self._api = HfApi(token=self.token or False)

    def account(self) -> HubAccount:
        """Whose token this is. Raises: HubError, also where there is no token."""
        if self.token is None:
            came_back = "there is no Hugging Face token on this machine"
            raise HubError(tried="log in", came_back=came_back, next_step=_LOG_IN, status=401)
        with _asking("ask whose token this is"):
            told = self._api.whoami()
        role = (told.get("auth") or {}).get("accessToken", {}).get("role", "")
        owners = frozenset({told["name"], *(group["name"] for group in told.get("orgs", []))})
        return HubAccount(told["name"], owners, role)

    def space(self, space: str) -> SpaceState | None:
        """The Space; None where there is none, or none that this account may see."""
        with _asking(f"look up the Space {space}"):
            try:
                info = self._api.space_info(space)
                runtime = self._api.get_space_runtime(space)
            except RepositoryNotFoundError:
                return None
        return SpaceState(
            stage=str(runtime.stage),
            message=str(runtime.raw.get("errorMessage") or "").strip(),
            host=(info.host or page_address(space)).rstrip("/"),
            private=bool(info.private),
            commit=info.sha,
            running_commit=runtime.raw.get("sha"),
        )

    def create(self, space: str, secrets: dict[str, str], variables: dict[str, str]) -> None:
        """Creates a Gradio Space with these settings."""
        with _asking(f"create the Space {space}"):
            self._api.create_repo(
                space,
                repo_type="space",
                space_sdk="gradio",
                space_secrets=[{"key": key, "value": value} for key, value in secrets.items()],
                space_variables=[{"key": key, "value": value} for key, value in variables.items()],
            )

    def settings(self, space: str) -> tuple[set[str], dict[str, str]]:
        """The names of the Space's secrets, and its variables."""
        with _asking(f"read which settings {space} has"):
            secrets = set(self._api.get_space_secrets(space))
            return secrets, {name: row.value for name, row in self._api.get_space_variables(space).items()}

    def set_secret(self, space: str, name: str, value: str) -> None:
        """Adds or replaces a secret. The Space restarts by itself."""
        with _asking(f"set the secret {name} of {space}"):
            self._api.add_space_secret(space, name, value)

    def set_variable(self, space: str, name: str, value: str) -> None:
        """Adds or replaces a variable, which everybody can read. The Space restarts by itself."""
        with _asking(f"set the variable {name} of {space}"):
            self._api.add_space_variable(space, name, value)

    def files(self, space: str) -> dict[str, str]:
        """Path -> hash of content of the Space's files."""
        with _asking(f"list the files of {space}"):
            rows = list(self._api.list_repo_tree(space, recursive=True, repo_type="space"))
        found = [row for row in rows if isinstance(row, RepoFile) and row.path != _ATTRIBUTES]
        return {row.path: row.lfs.sha256 if row.lfs else row.blob_id for row in found}

    def commit(self, space: str, files: dict[str, Path], gone: Iterable[str], parent: str | None) -> str:
        """Uploads `files` (by path in the Space) and removes `gone`, all in one commit; returns its id.

        Raises: HubError; also where somebody else has changed the Space since `parent`.
        """
        additions = [CommitOperationAdd(path, file) for path, file in files.items()]
        removals = [CommitOperationDelete(path, is_folder=False) for path in gone]
        with _asking(f"upload the files of {space}"):
            try:
                done = self._api.create_commit(
                    space,
                    [*removals, *additions],
                    commit_message="Deploy with manage.py",
                    repo_type="space",
                    parent_commit=parent,
                )
            except HfHubHTTPError:  # some of these are ValueErrors, too
                raise
            except ValueError as error:  # the card's fields are wrong
                reason = " ".join(str(error).split())
                raise HubError(tried="upload the files", came_back=reason, next_step="Mend README.md's head.") from None
        return str(done.oid)

    def restart(self, space: str) -> None:
        """Starts a Space that sleeps or is paused."""
        with _asking(f"start the Space {space}"):
            self._api.restart_space(space)

    def log(self, space: str, *, build: bool, follow: bool = False) -> Iterator[str]:
        """The lines of the build's log or of the program's own; `follow`: also those that come later."""
        with _asking(f"read the log of {space}"):
            for piece in self._api.fetch_space_logs(space, build=build, follow=follow):
                for line in _plain(piece).splitlines():
                    if line.strip():
                        yield line


def page_address(space: str) -> str:
    """Where a Space's page is served: lower case, what is no letter or digit becomes `-`."""
    return f"https://{re.sub('[^a-z0-9]+', '-', space.lower()).strip('-')}.hf.space"


def settings_page(space: str) -> str:
    """Where the owner looks after a Space in the browser."""
    return f"{constants.ENDPOINT}/spaces/{space}/settings"


def git_hash(file: Path) -> str:
    """The id that git, and so the Hub, gives to a file's content."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _token() -> str | None:
    with _asking("find the Hugging Face token"):
        return get_token()


def _client_with_deadline() -> httpx2.Client:
    return httpx2.Client(follow_redirects=True, timeout=httpx2.Timeout(_REQUEST_S, connect=15.0))


def _plain(text: str) -> str:
    """A log's text without what colours it or moves the cursor."""
    return re.sub(
        r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]", "", text.replace("\r\n", "\n").replace("\r", "\n")
    )


@contextlib.contextmanager
def _asking(tried: str) -> Iterator[None]:
    """Raises: HubError in place of the library's errors."""
    try:
        yield
    except HfHubHTTPError as error:
        raise _refusal(tried, error) from error
    except (httpx2.HTTPError, OSError) as error:
        name = type(error).__name__
        came_back = f"nobody answered at {constants.ENDPOINT} ({name}: {' '.join(str(error).split())[:200]})"
        next_step = "Check this machine's network, then run the same command again."
        raise HubError(tried=tried, came_back=came_back, next_step=next_step) from error


def _refusal(tried: str, error: HfHubHTTPError) -> HubError:
    status = error.response.status_code
    told = " ".join((error.server_message or "").split())[:300]
    came_back = f"it answered {status}{f': {told}' if told else ''}"
    return HubError(tried=tried, came_back=came_back, next_step=_next_step(status), status=status)


def _next_step(status: int) -> str:
    hub = constants.ENDPOINT
    if status == 402:
        return (
            f"A new Gradio Space needs a PRO account ({hub}/pro). The other way: duplicate a Gradio Space that exists "
            "under this very name in the browser (its menu, Duplicate this Space); then run the same command again, "
            "which fills it."
        )
    if status in (401, 403):
        return (
            f"The token may not do that. Make one with write access to this owner's Spaces at {hub}/settings/tokens, "
            "then `hf auth login`."
        )
    if status == 404:
        return "Check the Space's name, and that the token may see it."
    if status == 409:
        return "That name is taken, by something that this account may not see. Choose another one with --space."
    if status == 412:
        return "Somebody else has changed the Space meanwhile. Look at its files, then run the same command again."
    if status == 429:
        return "Wait some minutes, then run the same command again."
    if status >= 500:
        return "The fault is at Hugging Face. Run the same command again later."
    return "Mend what it names, then run the same command again."
