"""`python -m inference_server`: the engine process first, then the web framework, which takes as long to import."""

import logging
import os
import signal
import sys
from functools import partial

from inference_server.engine_child import EngineChild

OWNER_COMMANDS = ("pause", "resume", "status")


def main() -> int:
    """The exit code: 0 after an orderly end, 2 when the server cannot start as it was told to."""
    if sys.argv[1:2] and sys.argv[1] in OWNER_COMMANDS:
        from inference_server.owner_commands import run

        return run(sys.argv[1:])
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # The first process of a container has no default action for signals: it would not hear one while it starts. An
    # exception out of the handler may be lost in an import. The engine process ends with this one.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    child = EngineChild()  # its interpreter starts while this one reads the configuration
    try:
        return _run(child)
    finally:
        child.kill()


def _run(child: EngineChild) -> int:
    from inference_server.config import ConfigError, from_command_line
    from inference_server.owner import owner_of

    try:
        told = from_command_line(sys.argv[1:])
        owner = owner_of(told.config, told.space, os.environ)
        paused = owner.pause is not None
        if paused:
            child.discard()
        else:
            child.send(told.config.engine_config)
        from inference_server import server

        start_child = partial(EngineChild, told.config.engine_config)
        place = told.space or server.bind(told.host, told.port)
        server.run(told.config, place, start_child, None if paused else child, owner)
    except ConfigError as exc:
        print(f"inference_server: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
