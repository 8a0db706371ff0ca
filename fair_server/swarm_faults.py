"""Why a task of a swarm does not run: the engine's own words, and what to do where they are known."""

import re

from fair_server.errors import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_NOT_STARTED, CannotStart
from fair_server.executor import ProgramSpec

_PORT = re.compile(r"port is already allocated|address already in use|port already in use", re.IGNORECASE)
_NO_IMAGE = re.compile(r"no such image|manifest unknown|pull access denied|repository does not exist", re.IGNORECASE)
_NO_COMMAND = re.compile(r"no command specified", re.IGNORECASE)
_NO_PERMISSION = re.compile(r"permission denied", re.IGNORECASE)
_NOT_FOUND = re.compile(r"executable file not found|no such file or directory", re.IGNORECASE)
_NO_USER = re.compile(r"unable to find user", re.IGNORECASE)
_RUNTIME = re.compile(r"did not terminate successfully|failed to create shim", re.IGNORECASE)
_NO_ROOM = re.compile(r"no space left on device", re.IGNORECASE)


def start_failure(error: str, spec: ProgramSpec) -> CannotStart:
    """Returns the error for a task that failed before its program began, or that fits on no node. `error`: Docker's."""
    said = f"Docker says: {error or 'nothing'}"
    node = spec.node.name
    image = spec.node.images[spec.image].reference or spec.image
    if _PORT.search(error):
        ports = ", ".join(str(port.host) for port in spec.ports)
        return CannotStart(
            f"Host port {ports} is taken on node {node}: another program there holds it. "
            f"End that one, or ask for another port. {said}"
        )
    if _NO_IMAGE.search(error):
        return CannotStart(
            f"The image {image} is not on node {node}, and could not be fetched there: pull, build or import it on "
            f"that machine, or correct the nodes file. {said}"
        )
    if _NO_ROOM.search(error):
        return CannotStart(f"The disk of node {node} is full: `docker system prune` there makes room. {said}")
    if _NO_USER.search(error):
        return CannotStart(f"The image {image} names a user that it does not have: mend the image. {said}")
    if _NO_COMMAND.search(error):
        return CannotStart(f"There is nothing to run: image {spec.image} has no command of its own. {said}")
    if _NOT_FOUND.search(error):
        return CannotStart(f"The image {image} has no such executable. {said}", EXIT_NOT_FOUND)
    if _NO_PERMISSION.search(error):
        return CannotStart(f"The image {image} may not execute it. {said}", EXIT_NOT_EXECUTABLE)
    if _RUNTIME.search(error):  # on a full disk the engine often does not say so
        return CannotStart(
            f"What runs containers on node {node} failed. Its disk may be full (`df -h` there), or the runtime of its "
            f"daemon.json is not as it should be. {said}"
        )
    return CannotStart(f"Its container did not start on node {node}. {said}", EXIT_NOT_STARTED)
