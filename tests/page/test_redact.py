"""Strangers read which link failed, not where the owner's machines stand."""

import pytest

from errors import EndpointUnreachableError
from page import text as page_text
from page.redact import without_addresses

HIDDEN = "(address in the log)"


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("nothing came from 203.0.113.7:8080 in 10 s", f"nothing came from {HIDDEN} in 10 s"),
        ("nothing came from [2001:db8::7]:8080 in 10 s", f"nothing came from {HIDDEN} in 10 s"),
        ("node at 2001:db8::7, asleep", f"node at {HIDDEN}, asleep"),
        ("log in to fair.example:8000 as ada@example.org", f"log in to {HIDDEN} as {HIDDEN}"),
        (
            "http://ada:pw@home.example/x: the name home.example is not known",
            f"{HIDDEN}: the name {HIDDEN} is not known",
        ),
        ("https://[2001:db8::7]:8443/a refused", f"{HIDDEN} refused"),
        ("Inference endpoint http://127.0.0.1:5001: nobody", "Inference endpoint http://127.0.0.1:5001: nobody"),
        ("http://127.0.0.1.evil.example/ said", f"{HIDDEN} said"),
        ("rathole 0.5.0 ended at 12:30:05. See v1.2.3.", "rathole 0.5.0 ended at 12:30:05. See v1.2.3."),
        ("rapiz1/rathole:v0.5.0 on node gpu-box", "rapiz1/rathole:v0.5.0 on node gpu-box"),
    ],
)
def test_addresses_are_left_out(told: str, read: str) -> None:
    """URLs, host names with a port or named in a URL, IP and mail addresses are left out; versions, times, nodes and
    this machine itself are not.
    """
    assert without_addresses(told) == read


def test_a_visitor_does_not_learn_where_the_gpu_stands() -> None:
    """Neither the page nor the API tells the address of an endpoint that is away."""
    error = EndpointUnreachableError(
        "Inference endpoint https://home.example:8443",
        how="unheard",
        tried="draw",
        came_back="nothing came from home.example:8443 in 10 s, not even a refusal",
        next_step="Check ENDPOINT_URL, and open TCP port 8443 in that machine's firewall.",
    )
    for told in (page_text.error_html(error), page_text.error_text(error)):
        assert "home.example" not in told
        assert "Check ENDPOINT_URL" in told
