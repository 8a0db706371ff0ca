"""The compiling process: `python -m inference_server.engines.diffusers.compile_child PID FILE`, order on stdin.

The engine process starts it, never a hand. A process of its own, because compiling takes minutes of Python: in the
engine process it would hold up every step. It writes the package to FILE and ends; after a failure the last line on
stderr says why.
"""

import os
import sys

from inference_server.engine_process import die_with
from inference_server.engines import short_reason

NICENESS = 10  # the engine process goes first


def main() -> None:
    die_with(int(sys.argv[1]))
    os.nice(NICENESS)
    # Only now: importing it takes seconds of a core.
    from inference_server.engines.diffusers.unet_compiler import compile_package
    from inference_server.engines.diffusers.unet_package import PackageOrder

    order = PackageOrder.model_validate_json(sys.stdin.read())
    try:
        compile_package(order, sys.argv[2])
    except Exception as exc:
        sys.exit(short_reason(exc))  # the compiler's own last line is a hint for its developers


if __name__ == "__main__":
    main()
