"""What is kept of a program that has ended: a config of the swarm, so that another run of the server knows it, too."""

import base64
import json
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fair_server.executor import Ended, Survivor
from fair_server.swarm_api import RECORD_LABEL
from fair_server.wire import rfc3339

RECORDS_AT_MOST = 500
_LOG = logging.getLogger(__name__)


def record_name(program_id: int) -> str:
    """The config's name."""
    return f"fair-ended-{program_id}"


def record_labels(program_id: int) -> dict[str, str]:
    """The config's labels."""
    return {RECORD_LABEL: str(program_id)}


def write_record(ended: Survivor) -> bytes:
    """Returns the config's content: JSON, less than 200 KB of it for the outputs."""
    if ended.ended is None:
        raise ValueError("it has not ended")
    return json.dumps(
        {
            "labels": dict(ended.labels),
            "started_at": rfc3339(ended.started_at) if ended.started_at else None,
            "ended_at": rfc3339(ended.ended.at),
            "exit_code": ended.ended.exit_code,
            "stdout": base64.b64encode(ended.stdout).decode(),
            "stderr": base64.b64encode(ended.stderr).decode(),
        }
    ).encode()


def read_record(config: Mapping[str, Any]) -> Survivor | None:
    """Reads a config as the manager tells it; None for one that is not of this version."""
    try:
        spec = config["Spec"]
        content = json.loads(base64.b64decode(spec["Data"]))
        started_at = content["started_at"]
        return Survivor(
            program_id=int(spec["Labels"][RECORD_LABEL]),
            labels=content["labels"],
            started_at=datetime.fromisoformat(started_at) if started_at else None,
            ended=Ended(int(content["exit_code"]), datetime.fromisoformat(content["ended_at"])),
            stdout=base64.b64decode(content["stdout"]),
            stderr=base64.b64decode(content["stderr"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        _LOG.warning("A record of an ended program cannot be read: %s", type(exc).__name__)
        return None
