"""Host names and ports, written the way URLs and configuration files want them."""

import contextlib
import ipaddress
import re
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


def is_host(text: str) -> bool:
    """Whether `text` is an IP address, or a name that could be looked up; no scheme, no port. Asks no name server."""
    written = re.fullmatch(r"[\w.-]+|\[?[0-9A-Fa-f:.]+\]?", text, re.ASCII)
    return bool(written) and not re.fullmatch(r"[^:]+:\d+", text) and has_sound_parts(text)


def has_sound_parts(host: str) -> bool:
    """Whether 1 to 63 characters stand between the dots of `host`, one of which may end it: no name has others."""
    return all(1 <= len(part) <= 63 for part in host.removesuffix(".").split("."))


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
