"""Who asks: a page by its session, a program by its address. Turns and limits go by it."""

import ipaddress
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.context import LocalContext


@dataclass(frozen=True)
class Visitor:
    """`name`: whose turn it is; `address`: where from, None where nothing is known."""

    name: str
    address: str


def page_visitor(request: gr.Request | None) -> Visitor:
    """The visitor of an open page. Two pages of one household are two in line, and one for the hour's limit."""
    address = caller_address(request)
    session = getattr(request, "session_hash", None)
    return Visitor(f"page {session}" if session else f"address {address}", address)


def api_visitor(request: gr.Request | None) -> Visitor:
    """A program: by its address, for it can make as many sessions as it likes."""
    address = caller_address(request)
    return Visitor(f"address {address}", address)


def caller_address(request: gr.Request | None) -> str:
    """The address that the outermost proxy of ours has seen.

    Each proxy appends the address that it was called from to `x-forwarded-for`, so what a caller makes up stands on the
    left. The proxies themselves have private addresses: the rightmost one that is public is the caller's.
    """
    if request is None or not hasattr(request, "headers"):
        return ""
    forwarded = [part.strip() for part in (request.headers.get("x-forwarded-for") or "").split(",")]
    client = getattr(request, "client", None)
    peer = str(getattr(client, "host", "") or "")
    hops = [hop for hop in (*forwarded, peer) if hop]
    return next((_household(hop) for hop in reversed(hops) if _is_public(hop)), peer)


def is_awaited() -> bool:
    """Whether the caller of the event that runs here still listens, as far as Gradio knows."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    running: Any = getattr(getattr(blocks, "_queue", None), "active_jobs", ())
    return all(event.alive for events in running for event in events or () if event._id == event_id)


def _household(hop: str) -> str:
    """The address; of IPv6 its /64, in which every caller has as many addresses as he likes."""
    address = ipaddress.ip_address(hop)
    if isinstance(address, ipaddress.IPv4Address):
        return hop
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))


def _is_public(hop: str) -> bool:
    try:
        address = ipaddress.ip_address(hop)
        return (getattr(address, "ipv4_mapped", None) or address).is_global
    except ValueError:
        return False
