"""The doctor's look at several GPU boxes: each is named; one that is off is no failure while another one is there."""

import json

import pytest

from maintenance.console import Console
from maintenance.doctor_places import look_at_fair
from settings import Settings
from tests.support.fair_fronts import logs_in
from tests.support.hostile_server import Line, Received, hostile_server
from tests.support.reconcile_bench import FAIR_SETTINGS

SECRET = "Vb3-uTq0xJ8s_kLmZ7yRnP5wHcE2aQdG9fXo1iUeYt4"


def look(away: list[str], port: int, capsys: pytest.CaptureFixture[str], **changes: str) -> list[dict[str, str]]:
    """The doctor's rows where Fair does not reach these nodes; nothing listens on the tunnel's public ports."""

    def script(line: Line, request: Received) -> bool:
        rows = [
            {
                "name": name,
                "id": name,
                "host_address": "127.0.0.1",
                "status": "unreachable" if name in away else "ready",
            }
            for name in ("box1", "box2", "vm")
        ]
        line.answer(200, json.dumps({"nodes": rows}))
        return True

    with hostile_server(logs_in(script)) as server:
        values = {
            **FAIR_SETTINGS,
            "FAIRCOMPUTE_SERVER_ADDRESS": server.url,
            "ENDPOINT_SECRET": SECRET,
            "INFERENCE_NODE": "box1,box2",
            "TUNNEL_PUBLIC_PORT": f"{port},9",
            **changes,
        }
        look_at_fair(Console(as_json=True), Settings.load(_env_file=None, **values), from_space=False)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_both_are_there(closed_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each box, by its name and public port."""
    rows = look([], closed_port, capsys)
    endpoints = [row["detail"] for row in rows if row["check"] == "endpoint"]
    assert [text.partition(":")[0] for text in endpoints] == ["box1", "box2"]
    assert str(closed_port) in endpoints[0]
    assert {row["status"] for row in rows} == {"ok"}


def test_one_is_off(closed_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """It is a warning that names it; the others are looked at."""
    rows = look(["box2"], closed_port, capsys)
    warnings = [row for row in rows if row["status"] == "warning"]
    assert [row["check"] for row in warnings] == ["nodes"]
    assert "box2" in warnings[0]["detail"]
    assert "the others draw" in warnings[0]["detail"]
    assert [row["detail"][:5] for row in rows if row["check"] == "endpoint"] == ["box1:"]


@pytest.mark.parametrize("away", [["box1", "box2"], ["vm"]])
def test_none_can_draw(away: list[str], closed_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Without any box, or without the tunnel's node, it has failed, and nothing behind it is looked at."""
    rows = look(away, closed_port, capsys)
    assert [row["check"] for row in rows if row["status"] == "failed"] == ["nodes"]
    assert "endpoint" not in {row["check"] for row in rows}
