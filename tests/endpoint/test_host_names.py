"""Invalid host names: the settings refuse them, errors name their source, and no service is blamed for one."""

from dataclasses import replace
from pathlib import Path

import pytest

from backends.fair_chain import FairChain
from endpoint_client import EndpointClient
from errors import EndpointUnreachableError, FairError, SettingsError, StartError
from fair_api.client import DeadlineFairClient
from fair_api.models import Node
from fair_services import ChainSettings
from settings import Settings
from tests.support.fair_servers import EMAIL, PASSWORD
from tests.support.reconcile_bench import FAIR_SETTINGS, IMPATIENT, SECRET, Bench, chain_settings

LONG = "a" * 64
NO_NAMES = ["vm..example.org", ".example.org", f"{LONG}.example.org", f"vm.{LONG}", "vm.example.org..", "."]
FAIR = {**FAIR_SETTINGS, "ENDPOINT_SECRET": SECRET}


def settings_with(name: str, host: str) -> Settings:
    """The settings with that host name in one of them."""
    others = {"ENDPOINT_SECRET": SECRET} if name == "ENDPOINT_URL" else FAIR
    value = host if name == "TUNNEL_ADDRESS" else f"https://{host}:8080"
    return Settings.load(_env_file=None, **{**others, name: value})


@pytest.mark.parametrize("host", NO_NAMES)
@pytest.mark.parametrize("name", ["TUNNEL_ADDRESS", "FAIRCOMPUTE_SERVER_ADDRESS", "ENDPOINT_URL"])
def test_a_setting_that_is_no_host_name(name: str, host: str) -> None:
    """A part between dots that is empty or too long is refused at the start; the setting and the rule are named."""
    with pytest.raises(SettingsError, match=rf"{name} must have 1 to 63 characters between the dots"):
        settings_with(name, host)


@pytest.mark.parametrize("host", ["vm.example.org.", "a" * 63 + ".org", "vm", "203.0.113.7", "[2001:db8::7]"])
@pytest.mark.parametrize("name", ["TUNNEL_ADDRESS", "FAIRCOMPUTE_SERVER_ADDRESS", "ENDPOINT_URL"])
def test_host_names_that_are_some(name: str, host: str) -> None:
    """One dot may end a name, and a part may have 63 characters; addresses of both kinds have no such parts."""
    assert settings_with(name, host)


@pytest.mark.parametrize("host", NO_NAMES)
def test_an_endpoint_without_a_host_name(host: str) -> None:
    """Where one slips through, the endpoint's client calls the name unknown: no service is suspected."""
    with pytest.raises(EndpointUnreachableError, match="Check ENDPOINT_URL") as caught:
        EndpointClient(f"https://{host}:8080", certificate_sha256="0" * 64).health()
    assert caught.value.how == "unknown"


@pytest.mark.parametrize("host", NO_NAMES)
def test_a_fair_without_a_host_name(host: str) -> None:
    """The Fair client's error is typed here, too, and says what to check."""
    with pytest.raises(FairError, match="Check FAIRCOMPUTE_SERVER_ADDRESS"):
        DeadlineFairClient(f"https://{host}:8000", EMAIL, PASSWORD)


def test_authorities_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle of authorities that the environment names and that is not there is a typed error as well."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
    with pytest.raises(FairError, match=r"nowhere\.pem"):
        DeadlineFairClient("https://192.0.2.1:8000", EMAIL, PASSWORD)


class FairThatTells:
    """Stands in for the Fair client: all nodes have this address."""

    def __init__(self, address: str) -> None:
        self._address = address

    def node(self, name: str) -> Node:
        return Node(name, f"id-of-{name}", self._address)


@pytest.mark.parametrize("address", [*NO_NAMES, "https://vm.example.org", "203.0.113.7:8080", "two words"])
def test_an_address_of_fairs_that_is_none(address: str) -> None:
    """What Fair tells as a node's address, and is none, is told with the node and the setting that overrides it."""
    fair = FairThatTells(address)
    chain = ChainSettings("home", "image", "me/space", tunnel_node="vm")
    backend = FairChain(chain, lambda: fair, secret=SECRET, kind="fair", timing=IMPATIENT)  # type: ignore[arg-type,return-value]
    with pytest.raises(
        FairError, match=r"address of the node vm.*no host name and no IP address.*TUNNEL_ADDRESS"
    ) as told:
        backend.ensure(lambda event: None, lambda: False)
    assert repr(address) in told.value.came_back


@pytest.mark.slow
def test_no_service_is_ended_for_it(bench: Bench) -> None:
    """A chain that runs is left as it is when it is looked for under a name that is none."""
    chain = chain_settings(tunnel_node=None)
    bench.reconcile(chain)
    before = bench.alive()
    wrong = replace(chain, tunnel_address="vm..example.org")
    timing = replace(IMPATIENT, timeout_s=15, name_s=0.2)
    backend = FairChain(wrong, bench.client, secret=SECRET, kind="fair", timing=timing)
    with pytest.raises(StartError, match=r"vm\.\.example\.org.*Check TUNNEL_ADDRESS"):
        backend.ensure(lambda event: None, lambda: False)
    assert bench.alive() == before
