"""Host names and ports: which mean this machine, and how they are written."""

import socket

import pytest

from network.addresses import free_ports, host_port, is_loopback


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_this_machine(host: str) -> None:
    """Loopback addresses of both kinds, and their one name."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "::", "10.0.0.1", "203.0.113.7", "localhost.example.org", "127.0.0.1.example.org", "gpu"]
)
def test_other_machines(host: str) -> None:
    """Any other address, and any name that a name server would have to be asked about."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("vm.example.org", "vm.example.org:80"),
        ("127.0.0.1", "127.0.0.1:80"),
        ("::1", "[::1]:80"),
        ("[::1]", "[::1]:80"),
    ],
)
def test_host_port(host: str, written: str) -> None:
    """An IPv6 address is put in brackets, once."""
    assert host_port(host, 80) == written


def test_free_ports() -> None:
    """Free ports differ, and they can be listened on."""
    ports = free_ports(50)
    assert len(set(ports)) == 50
    taken = []
    for port in ports:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:  # the kernel has given it to somebody else of this machine meanwhile
            taken.append(port)
    assert len(taken) < 5
