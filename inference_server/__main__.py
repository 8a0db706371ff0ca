"""`python -m inference_server`: the engine process first, then the web framework, which takes as long to import."""

import logging
import os
import sys
from functools import partial

from inference_server.supervisor import EngineChild


def main() -> int:
    """The exit code: 0 after an orderly end, 2 when the server cannot start as it was told to."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    child = EngineChild()  # its interpreter starts while this one reads the configuration
    try:
        return _run(child)
    finally:
        child.kill()


def _run(child: EngineChild) -> int:
    from inference_server.config import ConfigError, from_command_line

    try:
        config = from_command_line(sys.argv[1:], os.environ)
        child.send(config.load)
        from inference_server import server

        server.run(config, server.bind(config.host, config.port), partial(EngineChild, config.load), child)
    except ConfigError as exc:
        print(f"inference_server: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
