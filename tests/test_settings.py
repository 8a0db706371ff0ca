"""Settings: read from the environment and `.env`, checked together, the bad ones named, no secret shown."""

from pathlib import Path

import pytest

import settings
from errors import SettingsError
from settings import Settings
from tests.support.processes import is_setting

SECRET = "Vb3-uTq0xJ8s_kLmZ7yRnP5wHcE2aQdG9fXo1iUeYt4"
FAIR = {
    "FAIRCOMPUTE_EMAIL": "me@example.org",
    "FAIRCOMPUTE_PASSWORD": "hunter2-hunter2",
    "INFERENCE_NODE": "home",
    "TUNNEL_NODE": "vm",
    "INFERENCE_IMAGE": "me/inference:1",
    "ENDPOINT_SECRET": SECRET,
}
REMOTE = {"ENDPOINT_URL": "https://gpu.example.org:8080", "ENDPOINT_SECRET": SECRET}


@pytest.fixture(autouse=True)
def _no_dot_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `.env` of the developer is not seen by these tests; the environment's settings are by no test."""
    monkeypatch.chdir(tmp_path)


def test_every_setting_is_kept_away_from_tests() -> None:
    """No setting of this module slips past what keeps the developer's own ones away from the tests."""
    aliases = {"INFERENCE_ENGINE", "FAIRCOMPUTE_USER_EMAIL", "SPACE_ID"}
    names = {name.upper() for name in Settings.model_fields if name != "engine"} | aliases
    assert [name for name in names if not is_setting(name)] == []


def load(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], **changes: str | None) -> Settings:
    for name, value in {**environment, **changes}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    return Settings.load()


def refusal(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], **changes: str | None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(monkeypatch, environment, **changes)
    for secret in (SECRET, "hunter2"):
        assert secret not in str(caught.value)
        assert secret not in repr(caught.value)
    return str(caught.value)


def test_nothing_set_is_this_machine_alone() -> None:
    """Without any setting the chain is local, with the documented defaults."""
    found = Settings.load()
    assert found.mode == "local"
    assert (found.deployment, found.tunnel, found.endpoint_tls, found.start_timeout_s) == (
        "local",
        "rathole",
        "pinned",
        300,
    )
    assert found.tunnel_image == "rapiz1/rathole:v0.5.0"
    assert found.fair_address == "https://faircompute.com:8000"


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        (FAIR, "fair"),
        ({**FAIR, "TUNNEL": "none", "TUNNEL_NODE": ""}, "fair"),
        (
            {**FAIR, "ENDPOINT_SECRET": "", "FAIRCOMPUTE_SERVER_ADDRESS": "http://127.0.0.1:8000"},
            "fair",  # all on this machine: a secret is made per run
        ),
        (REMOTE, "endpoint"),
        ({"ENDPOINT_URL": "http://127.0.0.1:8000"}, "endpoint"),
        ({"ENDPOINT_URL": "http://gpu.example.org", "ENDPOINT_TLS": "none"}, "endpoint"),
        ({"MODEL_ID": "/models/sd", "INFERENCE_ENGINE": "openvino", "TUNNEL": "none"}, "local"),
        ({"ENDPOINT_SECRET": SECRET}, "workers"),
        ({"ENDPOINT_SECRET": SECRET, "MODEL_ID": "/models/sd"}, "local"),
    ],
)
def test_modes(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], mode: str) -> None:
    """Each whole configuration leads to its own way of drawing."""
    assert load(monkeypatch, environment).mode == mode


@pytest.mark.parametrize("left_out", [[name] for name in FAIR] + [["FAIRCOMPUTE_PASSWORD", "TUNNEL_NODE"]])
def test_half_a_fair_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, left_out: list[str]) -> None:
    """Whatever is left out of a Fair configuration is named, every one of it, and it is never silently the demo."""
    text = refusal(monkeypatch, {name: value for name, value in FAIR.items() if name not in left_out})
    missing = text.partition("given,")[2].partition("missing")[0]
    assert {name.strip() for name in missing.split(",")} == set(left_out)


def test_one_fair_setting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single one of Fair's settings names all the others as missing, and how to make the secret."""
    text = refusal(monkeypatch, {"TUNNEL_ADDRESS": "vm.example.org"})
    assert all(name in text for name in FAIR)
    assert "secrets.token_urlsafe" in text


@pytest.mark.parametrize(
    "beside",
    ["FAIRCOMPUTE_EMAIL", "FAIRCOMPUTE_PASSWORD", "FAIRCOMPUTE_SERVER_ADDRESS", "FAIRCOMPUTE_CERT_SHA256"],
)
def test_endpoint_beside_fair(monkeypatch: pytest.MonkeyPatch, beside: str) -> None:
    """A fixed endpoint beside any of Fair's settings is an error that names both."""
    text = refusal(
        monkeypatch, REMOTE, **{beside: "ab" * 32 if beside.endswith("SHA256") else "https://hunter2.example.org"}
    )
    assert "ENDPOINT_URL" in text
    assert beside in text


def test_names_of_the_client_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account may go by the client's own names; an empty variable of the first name does not hide them."""
    others = {**FAIR, "FAIRCOMPUTE_EMAIL": "", "FAIRCOMPUTE_PASSWORD": ""}
    found = load(
        monkeypatch, others, FAIRCOMPUTE_USER_EMAIL="you@example.org", FAIRCOMPUTE_USER_PASSWORD="hunter2-other"
    )
    assert found.faircompute_email == "you@example.org"
    assert found.faircompute_password is not None
    assert found.faircompute_password.get_secret_value() == "hunter2-other"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, {}),
        (FAIR, {"idle_engine_s": 300, "idle_exit_s": 900}),
        ({**FAIR, "IDLE_ENGINE_S": "0", "MODEL_ID": "m"}, {"idle_engine_s": 0, "idle_exit_s": 900, "model_id": "m"}),
        (
            {"INFERENCE_ENGINE": "diffusers", "MODEL_ID": "m", "MODEL_PRECISION": "fp16", "IDLE_EXIT_S": "60"},
            {"engine": "diffusers", "model_id": "m", "model_precision": "fp16", "idle_exit_s": 60},
        ),
        ({"ENGINE": "diffusers", "engine": "diffusers"}, {}),
    ],
)
def test_what_the_inference_server_is_told(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: dict[str, object]
) -> None:
    """The settings of the engine go under endpoint.json's keys; only elsewhere does an idle server end."""
    assert load(monkeypatch, environment).inference.model_dump(exclude_none=True) == told


@pytest.mark.parametrize(
    ("environment", "deployment"),
    [
        ({}, "local"),
        ({"SPACE_ID": "me/space"}, "me/space"),
        ({"SPACE_ID": "me/space", "DEPLOYMENT": "mine"}, "mine"),
        ({"SPACE_ID": "me/space", "DEPLOYMENT": ""}, "me/space"),
    ],
)
def test_deployment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], deployment: str) -> None:
    """DEPLOYMENT comes before SPACE_ID, and `local` stands for neither."""
    assert load(monkeypatch, environment).deployment == deployment


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TUNNEL_PUBLIC_PORT", "hunter2"),
        ("TUNNEL_PUBLIC_PORT", "0"),
        ("TUNNEL_PUBLIC_PORT", "8080,x"),
        ("TUNNEL_PUBLIC_PORT", ","),
        ("INFERENCE_NODE", "home,home"),
        ("GRADIO_SERVER_PORT", "70000"),
        ("INFERENCE_HOST_PORT", "65536"),
        ("TUNNEL_CONTROL_PORT", "80.5"),
        ("START_TIMEOUT_S", "0"),
        ("START_TIMEOUT_S", "nan"),
        ("START_TIMEOUT_S", "inf"),
        ("IDLE_EXIT_S", "-1"),
        ("IDLE_ENGINE_S", "hunter2"),
        ("TUNNEL", "hunter2"),
        ("ENDPOINT_TLS", "hunter2"),
        ("INFERENCE_ENGINE", "hunter2"),
        ("ENDPOINT_SECRET", "hunter2"),
        ("ENDPOINT_SECRET", "hunter2" + " " * 40),
        ("ENDPOINT_SECRET", "a" * 64),
        ("ENDPOINT_URL", "gpu.example.org:8080"),
        ("ENDPOINT_URL", "ftp://gpu.example.org"),
        ("ENDPOINT_URL", "https://"),
        ("ENDPOINT_URL", "https://[::1"),
        ("ENDPOINT_URL", "https://gpu.example.org:hunter2"),
        ("ENDPOINT_URL", "https://me:hunter2@gpu.example.org"),
        ("FAIRCOMPUTE_SERVER_ADDRESS", "https://me:hunter2@fair.example.org"),
        ("TUNNEL_ADDRESS", "https://vm.example.org"),
        ("TUNNEL_ADDRESS", "vm.example.org:8080"),
        ("TUNNEL_ADDRESS", 'vm"\n[server]'),
        ("DEPLOYMENT", "x" * 201),
    ],
)
def test_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A wrong value is refused by its setting's name, and is not repeated: it may be a secret gone astray."""
    text = refusal(monkeypatch, {name: value})
    assert text.startswith(f"Settings: {name} ")


@pytest.mark.parametrize("address", ["203.0.113.7", "vm.example.org", "2001:db8::1", "[2001:db8::1]", "localhost"])
def test_tunnel_addresses(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """A host name and an IP address of either kind are taken as they are."""
    assert load(monkeypatch, FAIR, TUNNEL_ADDRESS=address).tunnel_address == address


def test_all_bad_values_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several wrong settings are told in one message."""
    text = refusal(monkeypatch, {"TUNNEL": "x", "START_TIMEOUT_S": "soon", "ENDPOINT_SECRET": "short"})
    assert all(name in text for name in ("TUNNEL", "START_TIMEOUT_S", "ENDPOINT_SECRET"))


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"ENDPOINT_URL": "https://gpu.example.org"}, "ENDPOINT_SECRET"),
        ({"ENDPOINT_URL": "http://gpu.example.org", "ENDPOINT_SECRET": SECRET}, "ENDPOINT_TLS"),
        ({"INFERENCE_ENGINE": "diffusers"}, "MODEL_ID"),
        ({"TUNNEL_CONTROL_PORT": "8123", "TUNNEL_PUBLIC_PORT": "8123"}, "TUNNEL_CONTROL_PORT and TUNNEL_PUBLIC_PORT"),
        ({"TUNNEL_PUBLIC_PORT": "8123", "INFERENCE_HOST_PORT": "8123"}, "INFERENCE_HOST_PORT"),
        (FAIR | {"TUNNEL_CONTROL_PORT": "8080"}, "TUNNEL_PUBLIC_PORT is 8080 unless set"),
        (FAIR | {"INFERENCE_NODE": "one,two"}, "names 2 boxes, TUNNEL_PUBLIC_PORT has too few ports for them (1)"),
        (FAIR | {"INFERENCE_NODE": "one,two", "TUNNEL_PUBLIC_PORT": "8080,8080"}, "both 8080, on one node"),
        (FAIR | {"INFERENCE_NODE": "one,two,vm", "TUNNEL_PUBLIC_PORT": "8080,80,5001"}, "INFERENCE_HOST_PORT"),
        (FAIR | {"INFERENCE_NODE": "a,b,c", "TUNNEL": "none", "INFERENCE_HOST_PORT": "1,2"}, "INFERENCE_HOST_PORT"),
        (FAIR | {"INFERENCE_NODE": "a,b", "TUNNEL": "none", "TUNNEL_ADDRESS": "gpu.example.org"}, "TUNNEL_ADDRESS"),
    ],
)
def test_what_does_not_go_together(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], named: str) -> None:
    """Settings that are right each and wrong together say which one is to be set."""
    assert named in refusal(monkeypatch, environment)


def test_ports_of_different_nodes_may_be_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what would stand on one node needs a port of its own."""
    alone = load(monkeypatch, {}, TUNNEL="none", TUNNEL_PUBLIC_PORT="8123", INFERENCE_HOST_PORT="8123")
    assert alone.mode == "local"
    assert load(monkeypatch, FAIR, TUNNEL="rathole", INFERENCE_HOST_PORT="8123").port("tunnel_public_port") == 8123


def test_several_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes, and ports for them, stand between commas in the same order; one host port serves for all of them."""
    found = load(monkeypatch, FAIR, INFERENCE_NODE="attic, cellar,", TUNNEL_PUBLIC_PORT="8080, 80,443")
    assert found.inference_node == ("attic", "cellar")
    assert [found.port("tunnel_public_port", box) for box in range(2)] == [8080, 80]
    assert [found.port("inference_host_port", box) for box in range(2)] == [5001, 5001]
    found = load(monkeypatch, {}, INFERENCE_HOST_PORT="5001,5002")
    assert [found.port("inference_host_port", box) for box in range(2)] == [5001, 5002]
    assert load(monkeypatch, {}, TUNNEL="none", TUNNEL_ADDRESS="gpu.example.org").mode == "fair"


def test_white_space_around_a_value_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was copied with its line's end, or is nothing but spaces; a password keeps spaces that may be its own."""
    found = load(
        monkeypatch, FAIR, INFERENCE_NODE=" gpu-box\n", FAIRCOMPUTE_PASSWORD=" of two words \r\n", MODEL_ID=" "
    )
    assert (found.inference_node, found.model_id) == (("gpu-box",), None)
    assert found.faircompute_password is not None
    assert found.faircompute_password.get_secret_value() == " of two words "
    assert "INFERENCE_NODE" in refusal(monkeypatch, FAIR, INFERENCE_NODE="  ")


def test_empty_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that are set to nothing change nothing."""
    assert load(monkeypatch, dict.fromkeys([*FAIR, *REMOTE, "TUNNEL", "START_TIMEOUT_S", "IDLE_EXIT_S"], "")) == (
        Settings.load()
    )
    assert Settings.load().mode == "local"


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `str` nor `repr` of the settings, nor their dumps as JSON, hold a secret."""
    found = load(monkeypatch, FAIR)
    for text in (str(found), repr(found), found.model_dump_json(), f"{found.endpoint_secret}"):
        assert SECRET not in text
        assert "hunter2" not in text


def test_dot_env_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`.env` in the current folder counts, and the environment comes before it."""
    (tmp_path / ".env").write_text(f"ENDPOINT_SECRET={SECRET}\nTUNNEL=none\nDEPLOYMENT=from-file\nOTHER=ignored\n")
    found = load(monkeypatch, {"DEPLOYMENT": "from-environment"})
    assert (found.tunnel, found.deployment) == ("none", "from-environment")
    assert found.endpoint_secret is not None
    assert found.endpoint_secret.get_secret_value() == SECRET


def test_values_given_in_code_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a caller gives, by field name or by the environment's, comes before the environment."""
    monkeypatch.setenv("DEPLOYMENT", "from-environment")
    assert Settings.load(deployment="given").deployment == "given"
    assert Settings.load(DEPLOYMENT="given").deployment == "given"
    assert Settings.load(tunnel="none").tunnel == "none"
    assert Settings.load(TUNNEL="none").tunnel == "none"


def test_the_printed_command_makes_a_good_secret() -> None:
    """The command that an error prints makes a secret that is accepted."""
    code = settings.HOW_TO_MAKE_ONE.partition("'")[2].rstrip("'")
    printed: list[str] = []
    exec(code, {"print": printed.append})
    assert Settings.load(endpoint_secret=printed[0]).endpoint_secret is not None


def test_what_was_pasted_along_with_a_secret() -> None:
    """Around it, it is dropped: the worker's key is made from the rest; within it, it is told."""
    secret = "0123456789abcdef" * 4
    pasted = Settings.load(endpoint_secret=f"\u200b{secret}\ufeff\r\n").endpoint_secret
    assert pasted is not None
    assert pasted.get_secret_value() == secret
    with pytest.raises(SettingsError, match=r"ENDPOINT_SECRET holds .* invisible") as wrong:
        Settings.load(endpoint_secret=f"{secret}\u200b{secret}")
    assert secret not in str(wrong.value)


def test_what_visitors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Space its author is the owner unless another is named; limits are off, and wrong ones are named."""
    found = load(monkeypatch, {}, SPACE_AUTHOR_NAME="ada", SPACE_ID="ada/draw")
    assert (found.owner_name, found.space_id, found.deployment) == ("ada", "ada/draw", "ada/draw")
    assert (found.visitor_waiting_max, found.visitor_pictures_per_hour, found.blocked_words) == (0, 0, None)
    assert load(monkeypatch, {}, OWNER_NAME="Ada Lovelace").owner_name == "Ada Lovelace"
    assert "VISITOR_WAITING_MAX" in refusal(monkeypatch, {}, VISITOR_WAITING_MAX="-1")
    monkeypatch.delenv("VISITOR_WAITING_MAX")
    assert "MODEL_CARD_URL" in refusal(monkeypatch, {}, MODEL_CARD_URL="javascript:alert(1)")
