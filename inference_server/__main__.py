"""`python -m inference_server`: the engine process first, then the web framework, which takes as long to import."""

import logging
import sys
from functools import partial

from inference_server.config import ConfigError, from_command_line
from inference_server.supervisor import EngineChild


def main() -> int:
    """The exit code: 0 after an orderly end, 2 when the server cannot start as it was told to."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        _run()
    except ConfigError as exc:
        print(f"inference_server: {exc}", file=sys.stderr)
        return 2
    return 0


def _run() -> None:
    told = from_command_line(sys.argv[1:])
    start_child = partial(EngineChild, told.config.engine_config)
    child = start_child()  # it loads its model while the rest is imported here
    try:
        from inference_server import server

        server.run(told.config, server.bind(told.host, told.port), start_child, child)
    finally:
        child.kill()


if __name__ == "__main__":
    sys.exit(main())
