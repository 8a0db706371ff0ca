"""What runs on Fair: the three services' containers, their fingerprints, and what of them is missing."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from endpoint.credentials import Credentials
from errors import StartError
from fair_api.models import Container, Node
from fair_services import ChainSettings, Role, Service, chain_services, plan, refuse_away, strays
from settings import InferenceConfig

SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF"
CREDENTIALS = Credentials.from_secret(SECRET)
HOME, VM = Node("home", "n1", None), Node("vm", "n2", "203.0.113.7")
CHAIN = ChainSettings(inference_node="home", inference_image="me/inference:1", deployment="me/space", tunnel_node="vm")
INFERENCE, SERVER, CLIENT = Role.INFERENCE, Role.TUNNEL_SERVER, Role.TUNNEL_CLIENT


def services(
    chain: ChainSettings = CHAIN, credentials: Credentials = CREDENTIALS, address: str = "203.0.113.7"
) -> dict[Role, Service]:
    return chain_services(chain, credentials, HOME, VM if chain.tunnel_node else None, address)


def config_of(service: Service) -> dict[str, Any]:
    (text,) = service.spec.files.values()
    return dict(json.loads(text) if service.role is INFERENCE else tomllib.loads(text))


def test_where_each_runs() -> None:
    """Inference server and tunnel client run on the inference node, the tunnel server on the tunnel node."""
    made = services()
    assert {role: service.node for role, service in made.items()} == {INFERENCE: "home", SERVER: "vm", CLIENT: "home"}
    assert set(services(replace(CHAIN, tunnel_node=None))) == {INFERENCE}


def test_inference_server() -> None:
    """The inference server gets the GPU, its port published, and its configuration by file."""
    spec = services()[INFERENCE].spec
    assert (spec.image, spec.runtime, list(spec.ports)) == ("me/inference:1", "nvidia", [(5001, 8000)])
    assert list(spec.command) == ["--config", "/app/endpoint.json"]
    assert list(spec.files) == ["/app/endpoint.json"]
    told: dict[str, Any] = {
        "engine": "diffusers",
        "model_id": "me/model",
        "model_revision": "r1",
        "model_precision": "fp16",
    }
    chain = replace(CHAIN, inference=InferenceConfig(**told, idle_engine_s=300, idle_exit_s=0))
    config = config_of(services(chain)[INFERENCE])
    assert config["bearer"] == CREDENTIALS.bearer
    assert config["tls_certificate"] == CREDENTIALS.tls_certificate
    assert told.items() <= config.items()
    assert (config["idle_engine_s"], config["idle_exit_s"], config["deployment"]) == (300, 0, "me/space")
    assert config["fingerprint"] == services(chain)[INFERENCE].fingerprint


def test_upstreams_image_gets_no_configuration() -> None:
    """An image that takes no configuration file (upstream's) is started without one."""
    spec = services(replace(CHAIN, tls="none", configurable=False))[INFERENCE].spec
    assert (list(spec.command), dict(spec.files)) == ([], {})


def test_without_tls_a_configuration_still_tells_the_model() -> None:
    """ENDPOINT_TLS=none takes away key, certificate and bearer, and nothing else."""
    spec = services(replace(CHAIN, tls="none", inference=InferenceConfig(model_id="me/model")))[INFERENCE].spec
    config = json.loads(spec.files["/app/endpoint.json"])
    assert config["model_id"] == "me/model"
    assert not {"bearer", "tls_key", "tls_certificate"} & set(config)


def test_rathole_configurations() -> None:
    """Both ends parse as TOML, hold the same token, and meet at the tunnel node's control port."""
    made = services()
    server, client = config_of(made[SERVER])["server"], config_of(made[CLIENT])["client"]
    assert server["bind_addr"] == "0.0.0.0:2333"
    assert client["remote_addr"] == "203.0.113.7:2333"
    (served,), (dialled,) = server["services"].values(), client["services"].values()
    assert served["token"] == dialled["token"] == CREDENTIALS.tunnel_token
    assert (served["bind_addr"], dialled["local_addr"]) == ("0.0.0.0:8080", "127.0.0.1:5001")
    assert set(server["services"]) == set(client["services"])
    for role, mode in ((SERVER, "--server"), (CLIENT, "--client")):
        assert list(made[role].spec.command) == [mode, "/app/config.toml"]
        assert made[role].spec.network == "host"
        assert list(made[role].spec.ports) == []


@pytest.mark.parametrize(
    ("address", "remote"),
    [("2001:db8::1", "[2001:db8::1]:2333"), ("vm.example.org", "vm.example.org:2333"), ('a"\nb', 'a"\nb:2333')],
)
def test_addresses_in_toml(address: str, remote: str) -> None:
    """Whatever address Fair tells, the configuration is whole, and holds it as it is."""
    assert config_of(services(address=address)[CLIENT])["client"]["remote_addr"] == remote


@pytest.mark.parametrize(
    ("address", "interface"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("203.0.113.7", "0.0.0.0"),
        ("vm.example.org", "0.0.0.0"),
        ("2001:db8::1", "[::]"),
        ("[2001:db8::1]", "[::]"),
    ],
)
def test_where_a_tunnel_listens(address: str, interface: str) -> None:
    """A tunnel is open to the kind of address that it is reached at; on this machine alone to nobody else."""
    server = config_of(services(address=address)[SERVER])["server"]
    (service,) = server["services"].values()
    assert (server["bind_addr"], service["bind_addr"]) == (f"{interface}:2333", f"{interface}:8080")


def test_derived_values_only() -> None:
    """Neither file nor label nor command holds ENDPOINT_SECRET, and `repr` shows no file at all."""
    for service in services().values():
        assert SECRET not in json.dumps(
            [dict(service.spec.files), dict(service.spec.labels), list(service.spec.command)]
        )
        for secret in (CREDENTIALS.bearer, CREDENTIALS.tunnel_token, CREDENTIALS.tls_key[40:80]):
            assert secret not in repr(service)


def test_labels_fit() -> None:
    """Labels hold role, deployment and fingerprint, as short text."""
    for role, service in services(replace(CHAIN, deployment="x" * 200)).items():
        assert dict(service.spec.labels) == {
            "role": str(role),
            "deployment": "x" * 200,
            "fingerprint": service.fingerprint,
        }
        assert 8 <= len(service.fingerprint) <= 64


def test_fingerprints_are_stable() -> None:
    """The same settings and secret give the same fingerprints, in this release and, unless meant, in the next."""
    assert {role: service.fingerprint for role, service in services().items()} == {
        role: service.fingerprint for role, service in services().items()
    }
    assert len({service.fingerprint for service in services().values()}) == 3


INFERENCE_ALONE: list[dict[str, Any]] = [
    {"inference_image": "other"},
    {"tls": "none"},
    {"inference": InferenceConfig(idle_engine_s=1)},
    {"inference": InferenceConfig(idle_exit_s=1)},
    {"inference": InferenceConfig(engine="openvino")},
    {"inference": InferenceConfig(model_id="other")},
]
TUNNEL_ALONE: dict[str, Any] = {"tunnel_image": "other", "tunnel_control_port": 99}


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        *[(change, {INFERENCE}) for change in INFERENCE_ALONE],
        *[({name: value}, {SERVER, CLIENT}) for name, value in TUNNEL_ALONE.items()],
        ({"tunnel_public_port": 99}, {SERVER}),
        ({"inference_host_port": 99}, {INFERENCE, CLIENT}),
        ({}, set()),
    ],
)
def test_fingerprint_follows_configuration(change: dict[str, Any], changed: set[Role]) -> None:
    """Each change of the settings changes the fingerprints of the services that it concerns, and of no other."""
    before, after = services(), services(replace(CHAIN, **change))
    assert {role for role in Role if before[role].fingerprint != after[role].fingerprint} == changed


def test_another_secret_changes_all() -> None:
    """Another ENDPOINT_SECRET makes every running service another one."""
    other = services(credentials=Credentials.from_secret(SECRET + "x"))
    assert all(other[role].fingerprint != service.fingerprint for role, service in services().items())


def container(role: Role | str | None, fingerprint: str | None = "ours", **changes: Any) -> Container:
    own = services()[role].fingerprint if isinstance(role, Role) and fingerprint == "ours" else fingerprint
    row = Container("c1", "image", "running", role and str(role), "me/space", own)
    return replace(row, **changes)


def planned(home: Sequence[Container] = (), vm: Sequence[Container] = ()) -> tuple[set[Role], set[str], set[str]]:
    """Roles to start, ids to replace, ids to adopt."""
    made = plan(services(), "me/space", {"home": home, "vm": vm})
    replaced, adopted = {row.id for _, row in made.replace}, {row.id for _, row in made.adopt}
    assert len(made.start) == len(set(made.start))
    return set(made.start), replaced, adopted


ALL = {INFERENCE, SERVER, CLIENT}
I1, C2, S3 = container(INFERENCE, id="i1"), container(CLIENT, id="c2"), container(SERVER, id="s3")
OLD = "0123456789abcdef"


@pytest.mark.parametrize(
    ("home", "vm", "expected"),
    [
        ([], [], (ALL, set(), set())),
        ([I1, C2], [S3], (set(), set(), {"i1", "c2", "s3"})),
        ([I1], [S3], ({CLIENT}, set(), {"i1", "s3"})),
        ([C2], [S3], ({INFERENCE}, set(), {"c2", "s3"})),
        ([I1, C2], [], ({SERVER}, set(), {"i1", "c2"})),
        ([replace(I1, status="starting"), C2], [S3], (set(), set(), {"i1", "c2", "s3"})),
        ([replace(I1, status="ended"), C2], [S3], ({INFERENCE}, set(), {"c2", "s3"})),
        ([replace(I1, fingerprint=OLD), C2], [S3], ({INFERENCE}, {"i1"}, {"c2", "s3"})),
        ([replace(I1, fingerprint=None), C2], [S3], ({INFERENCE}, {"i1"}, {"c2", "s3"})),
        ([replace(I1, fingerprint=OLD, status="ended")], [], (ALL, set(), set())),
        ([replace(I1, id="old", fingerprint=OLD), I1, C2], [S3], (set(), {"old"}, {"i1", "c2", "s3"})),
        ([I1, C2, replace(C2, id="twin")], [S3], (set(), {"twin"}, {"i1", "c2", "s3"})),
        ([I1, C2, replace(S3, id="elsewhere")], [], ({SERVER}, set(), {"i1", "c2"})),
        ([I1, C2, replace(I1, id="x", role=None)], [S3, container("else", id="y")], (set(), set(), {"i1", "c2", "s3"})),
        ([I1, C2, replace(I1, id="x", deployment="else")], [S3], (set(), set(), {"i1", "c2", "s3"})),
        ([replace(I1, deployment="else", status="ended")], [], (ALL, set(), set())),
    ],
)
def test_plan(home: list[Container], vm: list[Container], expected: tuple[set[Role], set[str], set[str]]) -> None:
    """What runs as it should is adopted, what is missing started, what is outdated or doubled replaced."""
    assert planned(home, vm) == expected


@pytest.mark.parametrize("fingerprint", [I1.fingerprint, OLD])
def test_unreachable(fingerprint: str) -> None:
    """A node that is away starts nothing: the error names it and says what to do."""
    with pytest.raises(StartError, match=r"Node home.*not ready.*nothing was started"):
        planned([replace(I1, status="unreachable", fingerprint=fingerprint)])


@pytest.mark.parametrize(("home", "vm", "named"), [("unreachable", "ready", "home"), (None, "unreachable", "vm")])
def test_a_node_that_fair_does_not_reach(home: str | None, vm: str | None, named: str) -> None:
    """A node that Fair calls unreachable is told by name, whether or not anything was ever started there."""
    nodes = replace(HOME, status=home), replace(VM, status=vm)
    with pytest.raises(StartError, match=rf"Node {named}.*not ready.*Switch the machine on"):
        refuse_away(chain_services(CHAIN, CREDENTIALS, *nodes, "203.0.113.7").values())


@pytest.mark.parametrize("status", [None, "ready", "Idle", ""])
def test_a_node_of_which_nothing_is_told(status: str | None) -> None:
    """A node without a status, or with another Fair's word for it, is taken to be there."""
    refuse_away(chain_services(CHAIN, CREDENTIALS, replace(HOME, status=status), VM, "203.0.113.7").values())


def test_another_deployment_is_named() -> None:
    """Another deployment's container in the place of a missing one is named: deployment, container and node."""
    with pytest.raises(StartError, match=r"Node home.*'you/space'.*i1"):
        planned([replace(I1, deployment="you/space")])


def test_another_node_is_another_service() -> None:
    """A service that is moved to another node has another fingerprint: its old self must not be taken for it."""
    moved = chain_services(CHAIN, CREDENTIALS, Node("attic", "n9", None), VM, "203.0.113.7")
    before = services()
    assert {role for role in Role if moved[role].fingerprint != before[role].fingerprint} == {INFERENCE, CLIENT}


def test_strays() -> None:
    """What is left of our deployment on nodes where it belongs no more is found, and nothing else."""
    rows = {
        "home": [I1, C2, replace(S3, id="moved"), replace(S3, id="theirs", deployment="else")],
        "vm": [S3, replace(C2, id="over", status="ended"), container(None, id="unlabelled")],
        "attic": [replace(I1, id="left"), replace(C2, id="away", status="unreachable"), container("else", id="own")],
    }
    found = strays(services(), "me/space", rows)
    assert [(node, row.id) for node, row in found] == [("home", "moved"), ("attic", "left")]


def two_boxes() -> tuple[dict[Role, Service], dict[Role, Service]]:
    """The services of two boxes that share a tunnel."""
    boxes = {"home": 8080, "attic": 80}
    nodes = {"home": HOME, "attic": Node("attic", "n9", None)}
    made = [
        chain_services(
            replace(
                CHAIN,
                inference_node=box,
                tunnel_public_port=port,
                other_boxes={name: boxes[name] for name in boxes.keys() - {box}},
            ),
            CREDENTIALS,
            nodes[box],
            VM,
            "203.0.113.7",
        )
        for box, port in boxes.items()
    ]
    return made[0], made[1]


def test_two_boxes_share_the_tunnel_s_server() -> None:
    """Both chains want the very same server, with a public port for each box; each client goes by its box's name."""
    one, two = two_boxes()
    assert one[SERVER] == two[SERVER]
    served = config_of(one[SERVER])["server"]["services"]
    assert {name: service["bind_addr"] for name, service in served.items()} == {
        "home": "0.0.0.0:8080",
        "attic": "0.0.0.0:80",
    }
    assert [list(config_of(made[CLIENT])["client"]["services"]) for made in (one, two)] == [["home"], ["attic"]]
    assert one[INFERENCE].fingerprint != two[INFERENCE].fingerprint


def test_what_the_other_boxes_have_is_no_stray() -> None:
    """A box's start ends what runs on nodes of before, and leaves alone what the deployment's other boxes have."""
    one, _ = two_boxes()
    rows = {name: [container(INFERENCE, id=name), container(CLIENT, id=name)] for name in ("home", "attic", "old")}
    rows["vm"] = [container(SERVER, id="vm")]
    found = [(node, row.role) for node, row in strays(one, "me/space", rows, ["attic"])]
    assert found == [("old", "inference"), ("old", "tunnel-client")]


def test_roles_in_a_visitors_words() -> None:
    """Every role has words for a visitor, without its technical name."""
    assert all(role.words and "-" not in role.words for role in Role)
