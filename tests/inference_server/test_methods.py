"""HTTP methods of the inference server's routes, and the steps in the events of a request for several images."""

from pathlib import Path

import requests

from tests.support.inference_front_door import FrontDoor, serve
from tests.support.inference_process import DEADLINE_S

BEARER = "right-bearer-0123456789abcdef"


def test_a_monitor_may_ask_for_the_head_of_a_healthcheck(tmp_path: Path) -> None:
    """HEAD is answered as GET is, without a body, to strangers too."""

    def visit(door: FrontDoor) -> None:
        for headers in ({}, {"Authorization": f"Bearer {BEARER}"}):
            head, get = (door.ask(method, "/healthcheck", headers=headers) for method in ("HEAD", "GET"))
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(get.content))
            assert head.headers["content-type"] == get.headers["content-type"]
        assert requests.head(f"{door.url}/metrics", timeout=DEADLINE_S).status_code == 401
        assert door.ask("HEAD", "/metrics").status_code == 200

    serve(tmp_path, {"bearer": BEARER}, visit, bearer=BEARER)


def test_a_method_that_a_route_lacks_is_told_those_that_it_has(tmp_path: Path) -> None:
    """Each 405 carries `Allow`, in JSON's shape as all refusals are."""
    allowed = {
        "/healthcheck": "GET, HEAD",
        "/": "POST",
        "/requests/x": "DELETE",
        "/metrics": "GET, HEAD",
        "/shutdown": "POST",
    }

    def visit(door: FrontDoor) -> None:
        for path, methods in allowed.items():
            for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "FOO"} - {*methods.split(", ")}:
                answer = door.ask(method, path)
                assert (answer.status_code, answer.headers["allow"]) == (405, methods), (method, path)
                assert method == "HEAD" or answer.json()["$error"]["code"] == "METHOD_NOT_ALLOWED"

    serve(tmp_path, {}, visit)


def test_events_of_several_images_tell_the_steps_that_were_asked_for(tmp_path: Path) -> None:
    """`num_inference_steps` means the same in an event and in `$meta`; the steps of all images are `total_steps`."""

    def visit(door: FrontDoor) -> None:
        door.child.may_finish.clear()
        lines = door.lines(num_inference_steps=30, num_images_per_prompt=4)
        told = next(line for line in lines if line.get("type") == "progress" and line["step"])
        door.child.may_finish.set()
        told.pop("preview", None)
        assert told == {
            "type": "progress",
            "progress": round(1 / 120, 4),
            "step": 1,
            "total_steps": 120,
            "num_inference_steps": 30,
        }
        assert list(lines)[-1]["$meta"]["num_inference_steps"] == 30

    serve(tmp_path, {}, visit)
