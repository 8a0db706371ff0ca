"""What outlives the server about a program: labels that an executor keeps with it, and a program made of them again."""

import logging
from collections.abc import Sequence
from datetime import datetime

from pydantic import ValidationError

from fair_server.buckets import STDERR, STDOUT, Bucket, Buckets
from fair_server.executor import Ended, Survivor
from fair_server.nodes import Node
from fair_server.program_state import Program
from fair_server.wire import ProgramRequest, rfc3339

_TAIL_BYTES = 32 * 1024  # of each output, of a program that has ended: its last words
_LOG = logging.getLogger(__name__)


def labels_of(program: Program) -> dict[str, str]:
    """Returns all that `restore` needs. The files' contents are not among it."""
    told = program.request.container.labels.model_dump(exclude_none=True)
    return {
        **{name: str(value) for name, value in told.items()},  # for people: they are in the request, too
        "account": program.account,
        "node": program.node.id,
        "asked-node": program.asked_node,
        "created-at": rfc3339(program.created_at),
        "request": program.request.model_dump_json(),
    }


def restore(survivor: Survivor, nodes: Sequence[Node], buckets: Buckets) -> Program | None:
    """Returns the program of an earlier run, with a bucket; None where the nodes file has no such node any more."""
    labels = survivor.labels
    try:
        node = next(node for node in nodes if node.id == labels["node"])
        request = ProgramRequest.model_validate_json(labels["request"])
        created_at = datetime.fromisoformat(labels["created-at"])
        account, asked_node = labels["account"], labels["asked-node"]
    except (KeyError, StopIteration, ValueError, ValidationError) as exc:
        _LOG.warning(
            "Program %d of an earlier run is left alone: its node is not in the nodes file, or its labels are not of "
            "this version (%s).",
            survivor.program_id,
            type(exc).__name__,
        )
        return None
    bucket = buckets.create(survivor.program_id, account)
    program = Program(survivor.program_id, account, node, asked_node, request, bucket, created_at)
    program.started_at = survivor.started_at
    program.starting = True
    if survivor.ended is not None:
        bucket.write_output(STDOUT, survivor.stdout)
        bucket.write_output(STDERR, survivor.stderr)
        program.end(survivor.ended)
    return program


def record_of(program: Program, ended: Ended) -> Survivor:
    """Returns what is kept of a program that has ended: its labels and its last words."""
    return Survivor(
        program_id=program.id,
        labels=labels_of(program),
        started_at=program.started_at,
        ended=ended,
        stdout=_tail(program.bucket, STDOUT),
        stderr=_tail(program.bucket, STDERR),
    )


def _tail(bucket: Bucket, key: str) -> bytes:
    file = bucket.existing_file(key)
    with file.path.open("rb") as output:
        output.seek(max(0, file.size_bytes - _TAIL_BYTES))
        return output.read(_TAIL_BYTES)
