"""How a container says that another one holds its port."""

import pytest

from backends.deployment import port_is_taken


@pytest.mark.parametrize(
    "words",
    [
        "driver failed programming external connectivity: Bind for 0.0.0.0:5001 failed: port is already allocated",
        "listen tcp4 0.0.0.0:5001: bind: address already in use",
        "Error: Address already in use (os error 98)",
        "OSError: [Errno 48] error while attempting to bind on address ('127.0.0.1', 5001): address already in use",
        "no suitable node (host-mode port already in use on 1 node)",
        "Host port 5001 is taken: another program of this server holds it. End that one, or ask for another port.",
        "Container port 8000 is taken: something on this machine uses it.",
        "Cannot listen on 0.0.0.0 port 8000: Address already in use.",
    ],
)
def test_a_taken_port(words: str) -> None:
    """The words of Docker, of the systems and of our own Fair server are understood."""
    assert port_is_taken(words)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: all CUDA-capable devices are busy or unavailable: the device is in use",
        "device already in use",
        "the model is already in use by another process",
        "Cannot export: a name is taken",
        "",
    ],
)
def test_something_else_in_use(words: str) -> None:
    """A GPU that is in use is no port that is taken: other ports would not help."""
    assert not port_is_taken(words)
