"""What is read from `.env` for a Space, and how its secret is kept there."""

import stat
from pathlib import Path

import pytest

from endpoint.credentials import Credentials
from errors import SettingsError
from maintenance.env_file import home_line, is_secret, keep_secret, read_env_file

SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF"


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The `.env` of the current folder; it is not there yet."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".env"


def test_only_settings_of_ours(env_file: Path) -> None:
    """A Space is told the settings that the page knows, not whatever else the file holds."""
    env_file.write_text(f"AWS_KEY=x\nENDPOINT_SECRET={SECRET}\nTUNNEL=none\nGRADIO_SERVER_PORT=7000\n")
    assert read_env_file().for_the_space() == {"ENDPOINT_SECRET": SECRET, "TUNNEL": "none"}


def test_the_model_is_the_workers(env_file: Path) -> None:
    """Where workers draw, the model is theirs: a Space is not told of it. Through Fair it is."""
    env_file.write_text(f"ENDPOINT_SECRET={SECRET}\nMODEL_ID=owner/name\n")
    assert "MODEL_ID" not in read_env_file().for_the_space()
    env_file.write_text(
        f"ENDPOINT_SECRET={SECRET}\nMODEL_ID=owner/name\nFAIRCOMPUTE_EMAIL=a@b.c\nFAIRCOMPUTE_PASSWORD=p\n"
        "INFERENCE_NODE=gpu\nTUNNEL=none\nINFERENCE_IMAGE=i\n"
    )
    assert read_env_file().for_the_space()["MODEL_ID"] == "owner/name"


def test_what_is_a_secret() -> None:
    """The account and the secret are secrets; the rest is open."""
    assert [name for name in ("FAIRCOMPUTE_EMAIL", "FAIRCOMPUTE_PASSWORD", "ENDPOINT_SECRET") if is_secret(name)] == [
        "FAIRCOMPUTE_EMAIL",
        "FAIRCOMPUTE_PASSWORD",
        "ENDPOINT_SECRET",
    ]
    assert not is_secret("INFERENCE_NODE")


@pytest.mark.parametrize("pasted", [f"{SECRET}\u200b", f"\ufeff{SECRET}", f'"{SECRET}\n"', f"'{SECRET}\r\n'"])
def test_what_was_pasted_along(env_file: Path, pasted: str) -> None:
    """Invisible characters and line ends around a value are left out, and it is told which value had them."""
    env_file.write_bytes(f"ENDPOINT_SECRET={pasted}\n".encode())
    env = read_env_file()
    assert env.secret == SECRET
    assert env.repaired == ("ENDPOINT_SECRET",)


def test_a_secret_is_kept(env_file: Path) -> None:
    """The secret replaces the old one or is added; other lines stay, and only the owner can read the file."""
    env_file.write_text("# mine\nTUNNEL=none")
    keep_secret("first")
    keep_secret(SECRET)
    assert env_file.read_text() == f"# mine\nTUNNEL=none\nENDPOINT_SECRET={SECRET}\n"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600


def test_a_new_file_is_private(env_file: Path) -> None:
    """A file that was not there is made so that only its owner can read it."""
    keep_secret(SECRET)
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert read_env_file().secret == SECRET


def test_a_wrong_setting(env_file: Path) -> None:
    """A setting that is wrong is named, and its value is not told."""
    env_file.write_text("ENDPOINT_SECRET=short-and-secret\n")
    with pytest.raises(SettingsError, match="ENDPOINT_SECRET") as caught:
        read_env_file()
    assert "short-and-secret" not in str(caught.value)


def test_the_file_is_in_no_repr(env_file: Path) -> None:
    """What was read shows no secret in its `repr`."""
    env_file.write_text(f"ENDPOINT_SECRET={SECRET}\n")
    assert SECRET not in repr(read_env_file())


def test_the_line_for_home(env_file: Path) -> None:
    """It holds the worker's key, never the secret; a model's folder here is none in a container."""
    env_file.write_text(f"ENDPOINT_SECRET={SECRET}\nMODEL_ID=/models/mine\n")
    line = home_line(read_env_file(), SECRET, "you/draw")
    assert f"-e SPACE=you/draw -e WORKER_KEY={Credentials.from_secret(SECRET).worker_key} " in line
    assert SECRET not in line
    assert "-e MODEL_ID=OWNER/MODEL draw" in line
    env_file.write_text(f"ENDPOINT_SECRET={SECRET}\nMODEL_ID=a/b\nMODEL_PRECISION=fp16\n")
    assert home_line(read_env_file(), SECRET, None).endswith("-e MODEL_ID=a/b -e MODEL_PRECISION=fp16 draw")
