"""`python -m inference_server` as it is, with one engine more: the one that draws noise (`_lines_engine.py`)."""

import sys

from benchmarks import _lines_engine
from inference_server.__main__ import main
from inference_server.engine_child import EngineChild
from inference_server.engine_config import ENGINES

if __name__ == "__main__":
    ENGINES[_lines_engine.NAME] = f"{_lines_engine.__name__}:NoiseEngine"
    EngineChild.MODULE = _lines_engine.__name__
    sys.exit(main())
