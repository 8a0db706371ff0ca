"""Host names and ports, written the way URLs and rathole's configuration want them."""

import contextlib
import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an IP address, `[::1]` too) can only mean this machine. Asks no name server."""
    bare = host.strip("[]")
    if bare.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def host_port(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def free_ports(count: int) -> list[int]:
    """That many different TCP ports of the loopback interface that nobody listens on just now."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
