"""Trouble: each link of the chain broken in turn, and mended.

Every error comes before the start's deadline, unless that is what it tells of, and says which link failed, what came
back and what to do; the next prompt tries again.
"""

import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.start import Timing
from demo_model import loader
from errors import EndpointUntrustedError, FairError, InvalidRequestError, ServiceError, StartError
from tests.support.chain import INFERENCE_ARGV, PASSWORD, SECRET, START_S, Chain, draw, running_chain, start_chain
from tests.support.processes import Processes, free_port
from tests.support.strangers import foreign_tls_server, mute_server
from text_to_image import TextToImage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TOLD_S = START_S / 2  # far from the start's deadline, and long enough for a busy machine
# An image that fails until the file of its first argument is there, and then is the program of the others.
FLAKY = "import os, sys; os.path.exists(sys.argv[1]) or sys.exit('no GPU here'); os.execvp(sys.argv[2], sys.argv[2:])"

BRIEF = Timing(fair_s=0.4, fair_answer_s=5)  # Fair is waited for no longer than that
StartChain = Callable[..., Chain]


@pytest.fixture
def new_chain(processes: Processes, tmp_path: Path, rathole: Path) -> StartChain:
    """Starts a Fair server on which nothing runs yet; takes the options of `start_chain`."""

    def start(**options: Any) -> Chain:
        return start_chain(processes, tmp_path, rathole, **options)

    return start


@pytest.fixture(scope="module")
def idle_chain(tmp_path_factory: pytest.TempPathFactory, rathole: Path) -> Iterator[Chain]:
    """A Fair server for tests in which nothing comes up."""
    with running_chain(tmp_path_factory.mktemp("chain"), rathole) as chain:
        yield chain


def trouble(service: TextToImage, kind: type[ServiceError]) -> ServiceError:
    """The error that a prompt ends in, which must be there in time and be complete."""
    with pytest.raises(kind) as told:
        draw(service, timeout_s=TOLD_S)
    error = told.value
    for part in (error.link, error.tried, error.came_back, error.next_step):
        assert part.strip()
    assert SECRET not in str(error)
    assert PASSWORD not in str(error)
    return error


def test_fair_unreachable(new_chain: StartChain) -> None:
    """Nobody listens at Fair's address, or takes the connection and says nothing: told once it may be a hiccup no more.

    A silent one is given up after 10 s (here 5). Once Fair answers, the next prompt draws.
    """
    assert Timing().fair_answer_s == 10
    port = free_port()
    with Chain(None, f"http://127.0.0.1:{port}").service(BRIEF) as service:
        refused = trouble(service, FairError)
        with mute_server(port):
            silent = trouble(service, FairError)
        new_chain(port=port)
        draw(service)
    assert refused.link == silent.link == "Fair"
    assert f"http://127.0.0.1:{port}" in refused.tried
    assert "refused" in refused.came_back
    assert "FAIRCOMPUTE_SERVER_ADDRESS" in refused.next_step
    assert "nothing came back within 5 s" in silent.came_back


def test_wrong_password(idle_chain: Chain) -> None:
    """Fair refuses the password: told at once, naming the settings to check."""
    with idle_chain.service(FAIRCOMPUTE_PASSWORD="guessed in vain") as service:
        error = trouble(service, FairError)
    assert error.link == "Fair"
    assert "401" in error.came_back
    assert "FAIRCOMPUTE_PASSWORD" in error.next_step
    assert "guessed" not in str(error)


@pytest.mark.parametrize("setting", ["INFERENCE_NODE", "TUNNEL_NODE"])
def test_unknown_node(idle_chain: Chain, setting: str) -> None:
    """A node that Fair does not know: told at once, with the nodes that it knows, and nothing is started."""
    before = idle_chain.starts()
    with idle_chain.service(**{setting: "attic"}) as service:
        error = trouble(service, FairError)
    assert "'attic'" in error.tried
    assert "gpu, tunnel" in error.came_back
    assert setting in error.next_step
    assert idle_chain.starts() == before


def test_image_not_on_the_list(idle_chain: Chain) -> None:
    """A node refuses the image: the error names node, image, and the images that it runs."""
    with idle_chain.service(INFERENCE_IMAGE="somebody/else:latest") as service:
        error = trouble(service, StartError)
    assert error.link == "inference on node gpu"
    assert "somebody/else:latest" in error.tried
    assert "exit code 125" in error.came_back
    assert "inference-server" in error.came_back


def test_image_that_ends_at_once(new_chain: StartChain, tmp_path: Path) -> None:
    """A container ends right after its start: told with exit code and last words; once mended, the next one draws."""
    mended = tmp_path / "mended"
    chain = new_chain(inference_argv=[sys.executable, "-c", FLAKY, str(mended), *INFERENCE_ARGV])
    with chain.service() as service:
        error = trouble(service, StartError)
        assert error.link == "inference on node gpu"
        assert "exit code 1" in error.came_back
        assert "no GPU here" in error.came_back
        before = chain.starts()
        mended.touch()
        draw(service)
    assert chain.started_since(before) == {"inference": 1}


def test_control_port_taken(new_chain: StartChain) -> None:
    """Somebody else holds the tunnel's control port: told as the tunnel server's end; once free, the next one draws."""
    chain = new_chain(env={"RUST_BACKTRACE": "1"})
    with chain.service() as service:
        with socket.create_server(("127.0.0.1", chain.control_port)):
            error = trouble(service, StartError)
        assert error.link == "tunnel-server on node tunnel"
        assert "in use" in error.came_back
        assert "ports" in error.next_step
        draw(service)


@pytest.mark.alone
def test_tunnel_that_never_comes_up(new_chain: StartChain) -> None:
    """The tunnel's client does not reach its server: told when START_TIMEOUT_S is over, naming the tunnel."""
    with new_chain().service(START_TIMEOUT_S="9", TUNNEL_ADDRESS="127.0.0.2") as service:
        error = trouble(service, StartError)
    assert error.link == "Tunnel from node gpu to node tunnel"
    assert "127.0.0.2" in error.tried
    assert "TUNNEL_CONTROL_PORT" in error.next_step


def test_model_that_never_loads(new_chain: StartChain, tmp_path: Path) -> None:
    """The model is not where MODEL_ID says: told as the inference server's; once it is there, the next prompt draws."""
    model, not_yet = tmp_path / "model", tmp_path / "model that comes"
    shutil.copytree(loader.folder(), not_yet)  # so that it is there in one go: the server looks again by itself
    chain = new_chain()
    with chain.service(MODEL_ID=str(model)) as service:
        error = trouble(service, StartError)
        assert error.link == "Inference server"
        assert str(model) in error.came_back
        assert "MODEL_ID" in error.next_step
        before = chain.starts()
        not_yet.rename(model)
        draw(service)
    assert chain.started_since(before) in ({}, {"inference": 1})


def test_wrong_pin(new_chain: StartChain) -> None:
    """Somebody else's TLS server answers at the public port: not trusted; once it is gone, the next prompt draws."""
    chain = new_chain()
    with chain.service() as service:
        with foreign_tls_server(chain.public_port) as heard:
            error = trouble(service, EndpointUntrustedError)
            assert heard == []  # neither prompt nor bearer was given away
        assert str(chain.public_port) in error.link
        assert "certificate" in error.came_back
        assert "ENDPOINT_SECRET" in error.came_back
        draw(service)


BAD_INPUT: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "empty"),
    ({"prompt": " \n\t"}, "empty"),
    ({"prompt": None}, "prompt"),
    ({"prompt": "x" * 1_000_000}, "1000000 characters"),
    ({"negative_prompt": "x" * 100_000}, "negative prompt"),
    ({"width": 0}, "width"),
    ({"width": 257}, "multiple of 8"),
    ({"height": 1_000_000}, "height"),
    ({"height": -64}, "height"),
    ({"height": "tall"}, "height"),
    ({"num_inference_steps": 0}, "Steps"),
    ({"num_inference_steps": 251}, "Steps"),
    ({"num_inference_steps": 2.5}, "Steps"),
    ({"guidance_scale": float("nan")}, "Guidance"),
    ({"seed": 1.5}, "seed"),
    ({"seed": "lucky"}, "seed"),
    ({"seed": -2}, "seed"),
    ({"seed": 2**32}, "seed"),
    ({"seed": 10**400}, "seed"),
]


@pytest.mark.parametrize(("wrong", "named"), BAD_INPUT)
def test_bad_input(wrong: dict[str, Any], named: str) -> None:
    """What cannot be drawn is refused at once with the reason: no job begins, and Fair is not even asked."""
    with Chain(None, "http://127.0.0.1:9").service() as service, pytest.raises(InvalidRequestError) as told:
        service.submit(**{"prompt": "a red apple", **wrong})
    assert named.lower() in str(told.value).lower()
    assert len(str(told.value)) < 300
