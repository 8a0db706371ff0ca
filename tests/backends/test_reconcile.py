"""What runs is asked of Fair, not guessed: adopted, started or replaced by the rules, with a Fair that lists."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import requests

from backends.fair_chain import FairChain
from endpoint.wire_format import Health
from errors import PortTakenError, StartError
from fair_api.client import DeadlineFairClient
from fair_api.models import ContainerSpec
from fair_api.transport import send
from fair_services import Role
from settings import InferenceConfig
from tests.support.fair_servers import DEADLINE_S, EMAIL, PASSWORD
from tests.support.hostile_server import hostile_server
from tests.support.reconcile_bench import IMPATIENT, QUICK, SECRET, Bench, chain_settings
from tests.support.stand_ins import SLOW_S

pytestmark = pytest.mark.slow
INFERENCE, SERVER, CLIENT = Role.INFERENCE, Role.TUNNEL_SERVER, Role.TUNNEL_CLIENT


def test_cold_then_warm(bench: Bench) -> None:
    """On a cold chain each service is started once; a second Space finds it healthy and starts nothing."""
    chain = chain_settings()
    health = bench.reconcile(chain)
    assert (health.state, health.deployment) == ("healthy", "me/space")
    bench.wait_for_starts(inference=1, tunnel_server=1, tunnel_client=1)
    assert "Waking the machine that draws" in bench.told
    bench.told.clear()
    assert bench.reconcile(chain).model == health.model
    assert bench.told == []
    assert len(bench.alive()) == 3


@pytest.mark.parametrize("role", list(Role))
def test_what_ended_is_started_again(bench: Bench, role: Role) -> None:
    """Of a chain where one service has ended that one is started, and no other."""
    chain = chain_settings()
    bench.reconcile(chain)
    bench.wait_for_starts(inference=1, tunnel_server=1, tunnel_client=1)
    before = bench.alive()
    bench.end(role)
    bench.wait_until_gone(role, chain)
    bench.reconcile(chain)
    after = bench.alive()
    assert {name for name in Role if before[name].id != after[name].id} == {role}


def test_without_a_tunnel(bench: Bench) -> None:
    """Without a tunnel the inference server alone is started, and reached at its own port."""
    assert bench.reconcile(chain_settings(tunnel_node=None)).state == "healthy"
    assert bench.log.starts() == {"inference": 1}


def test_upstreams_server(bench: Bench) -> None:
    """A server without TLS, bearer and fingerprint is taken for ours, as its healthcheck says nothing else."""
    chain = chain_settings(tunnel_node=None, tls="none", configurable=False)
    assert bench.reconcile(chain).fingerprint is None
    bench.reconcile(chain)
    assert bench.log.starts() == {"inference": 1}


def test_another_configuration_is_replaced(bench: Bench) -> None:
    """A changed setting replaces the service that it concerns: the old one is gone, the others are adopted."""
    chain = chain_settings()
    bench.reconcile(chain)
    before = bench.alive()
    health = bench.reconcile(replace(chain, inference=InferenceConfig(model_id="another/model")))
    after = bench.alive()
    assert health.fingerprint == after[INFERENCE].fingerprint != before[INFERENCE].fingerprint
    assert (after[SERVER].id, after[CLIENT].id) == (before[SERVER].id, before[CLIENT].id)


def test_another_secret_replaces_all(bench: Bench) -> None:
    """With another ENDPOINT_SECRET all three are replaced, and the new certificate is the pinned one."""
    chain = chain_settings()
    bench.reconcile(chain)
    before = bench.alive()
    assert bench.reconcile(chain, secret=SECRET + "another").state == "healthy"
    assert all(bench.alive()[role].id != before[role].id for role in Role)


def test_a_move_to_another_node(bench: Bench) -> None:
    """When the settings name another node, what ran on the old one is ended: two tunnel clients would displace each
    other for ever."""
    chain = chain_settings()
    bench.reconcile(chain)
    bench.wait_for_starts(inference=1, tunnel_server=1, tunnel_client=1)
    health = bench.reconcile(replace(chain, inference_node="vm"))
    rows = bench.client().containers("home") or []
    assert not any(row.alive for row in rows)
    alive = {row.role: row for row in bench.client().containers("vm") or [] if row.alive}
    assert set(alive) == set(Role)
    assert health.fingerprint == alive[INFERENCE].fingerprint


def test_another_deployment(bench: Bench) -> None:
    """Another deployment's service in our place is an error that names its container; nothing is started or ended."""
    chain = chain_settings(tunnel_node=None)
    bench.reconcile(chain)
    theirs = bench.alive()[INFERENCE]
    with pytest.raises(StartError, match=rf"'me/space'.*container {theirs.id}"):
        bench.reconcile(chain_settings(tunnel_node=None, deployment="you/space"))
    assert bench.alive()[INFERENCE] == theirs
    assert bench.log.starts() == {"inference": 1}


def test_image_not_on_the_list(bench: Bench) -> None:
    """An image that the node does not run is told with the node's own words, and no deadline is waited for."""
    with pytest.raises(StartError, match=r"inference on node home.*does not run the image nowhere"):
        bench.reconcile(chain_settings(inference_image="nowhere"))


def test_image_that_dies(bench: Bench) -> None:
    """A container that ends at once is told with its exit code and last words, and no deadline is waited for."""
    with pytest.raises(StartError, match=r"exit code 1.*CUDA is not available"):
        bench.reconcile(chain_settings(inference_image="dies"))


def test_taken_port(bench: Bench) -> None:
    """A port that something else holds fails the start and says so, although somebody answers there."""
    chain = chain_settings(tunnel_node=None, tls="none", configurable=False)
    with (
        hostile_server(lambda line, request: line.answer(404, "not here")) as server,
        pytest.raises(PortTakenError, match=f"port {server.port}"),
    ):
        bench.reconcile(replace(chain, inference_host_port=server.port))


def test_model_that_never_loads(bench: Bench) -> None:
    """A server that loads for ever is given up at the deadline, which the error names together with the state."""
    chain = chain_settings(tunnel_node=None, inference_image="loading")
    bench.client().launch("home", bench.services(chain)[INFERENCE].spec)
    bench.wait_for_starts(inference=1)  # its start is not to count: a busy machine takes the second for that alone
    with pytest.raises(StartError, match=r"within 1 s.*is loading.*START_TIMEOUT_S"):
        bench.reconcile(chain, timing=replace(QUICK, timeout_s=1))
    assert "Loading the model" in bench.told


def test_model_that_failed(bench: Bench) -> None:
    """A server whose model failed is told with its reason; the next try starts it again, once."""
    chain = chain_settings(tunnel_node=None, inference_image="failed")
    for starts in (1, 2):
        with pytest.raises(StartError, match=r"load the model.*no such file: unet"):
            bench.reconcile(chain)
        assert bench.log.starts() == {"inference": starts}


def test_a_busy_gpu_is_nothing_to_start_again_for(bench: Bench) -> None:
    """A server whose GPU is used by its owner is left as it is, and asked for pictures: each post tries to load."""
    chain = chain_settings(tunnel_node=None, inference_image="gpu-busy")
    for _ in range(2):
        assert bench.reconcile(chain).gpu_busy
        assert bench.log.starts() == {"inference": 1}
    backend = FairChain(chain, bench.client, secret=SECRET, kind="fair", timing=QUICK)
    for _ in range(2):
        backend.ensure(lambda event: None, lambda: False)
        assert not backend.status().ready  # it is asked again before each drawing
        assert bench.log.starts() == {"inference": 1}


def test_frozen_inference_server(bench: Bench) -> None:
    """A frozen inference server, and only that, is replaced after `silence_s`."""
    chain = chain_settings()
    bench.reconcile(chain)
    bench.wait_for_starts(inference=1, tunnel_server=1, tunnel_client=1)
    os.kill(bench.log.pid("inference"), signal.SIGSTOP)
    # Not as impatient as others: the new one must not pass for frozen while it begins to answer.
    assert bench.reconcile(chain, timing=replace(QUICK, silence_s=5, probe_s=3)).state == "healthy"
    assert bench.log.starts() == {"inference": 2, "tunnel-server": 1, "tunnel-client": 1}


def test_frozen_tunnel(bench: Bench) -> None:
    """A frozen tunnel server is found, too, in the end: the suspects are started again one after the other."""
    chain = chain_settings()
    bench.reconcile(chain)
    bench.wait_for_starts(inference=1, tunnel_server=1, tunnel_client=1)
    os.kill(bench.log.pid("tunnel-server"), signal.SIGSTOP)
    assert bench.reconcile(chain, timing=IMPATIENT).state == "healthy"
    assert bench.log.starts()["tunnel-server"] == 2
    assert max(bench.log.starts().values()) == 2


def test_a_start_under_way_is_not_suspected(bench: Bench) -> None:
    """A container that is still being started, by a Space that was replaced meanwhile, is waited for."""
    chain = chain_settings(tunnel_node=None)
    spec = bench.services(chain)[INFERENCE].spec
    held: list[dict[str, Any]] = []

    def send_files_later(method: str, url: str, **options: Any) -> requests.Response:
        """Of a Space that is cut off in the middle of its start, before the files are there, and goes on later."""
        if method != "put" or "/buckets/" not in url:
            return send(method, url, **options)
        held.append({"method": method, "url": url, **options})
        accepted = requests.Response()
        accepted.status_code = 200
        return accepted

    DeadlineFairClient(bench.url, EMAIL, PASSWORD, send=send_files_later).launch("home", spec)
    begun = bench.alive()
    with pytest.raises(StartError, match="within 3 s"):
        bench.reconcile(chain, timing=replace(QUICK, silence_s=0.5, timeout_s=3))
    assert bench.alive() == begun  # neither ended nor doubled, although it was silent for long
    for request in held:
        send(**request)
    assert bench.reconcile(chain).state == "healthy"
    assert bench.log.starts() == {"inference": 1}


def test_two_spaces_at_once(bench: Bench) -> None:
    """Two Spaces of one deployment that start at the same moment share one inference server."""
    chain = chain_settings(tunnel_node=None)
    found: list[Health | Exception] = []
    both_begin = threading.Barrier(2)

    def reconcile() -> None:
        begun: list[str] = []

        def tell(stage: str) -> None:
            if stage.startswith("Starting") and not begun:  # now it has looked, and found nothing
                begun.append(stage)
                both_begin.wait(DEADLINE_S)

        try:
            found.append(bench.reconcile(chain, tell=tell))
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=reconcile) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE_S)
    assert [getattr(one, "state", one) for one in found] == ["healthy", "healthy"]
    assert len([row for row in bench.client().containers("home") or [] if row.alive]) == 1


def test_two_spaces_do_not_replace_each_others_slow_newcomer(bench: Bench) -> None:
    """Two Spaces that find the same server frozen replace it once each at most, however long the new one takes."""
    chain = chain_settings(tunnel_node=None, inference_image="slow")
    bench.reconcile(chain)
    os.kill(bench.log.pid("inference"), signal.SIGSTOP)
    impatient = replace(IMPATIENT, silence_s=SLOW_S / 4)
    with ThreadPoolExecutor(2) as spaces:
        found = list(spaces.map(lambda _: bench.reconcile(chain, timing=impatient).state, range(2)))
    assert found == ["healthy", "healthy"]
    rows = bench.client().containers("home") or []
    assert len([row for row in rows if row.role == INFERENCE and row.image == "slow"]) <= 3  # the frozen one, too
    assert len([row for row in rows if row.alive]) == 1


def test_a_container_without_our_labels_is_none_of_ours(bench: Bench) -> None:
    """What others run on our nodes is left alone."""
    stranger = bench.client().launch(
        "home", ContainerSpec("inference", ports=[(chain_settings().inference_host_port, 8000)])
    )
    bench.reconcile(chain_settings(tunnel_node=None))
    assert bench.client().end_of(stranger) is None
