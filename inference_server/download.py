"""`python -m inference_server.download`: puts a model's files into an image while the image is built.

The engine's own code fetches them, so an image holds what the engine would fetch. The server then finds them without
the hub (`model_folder.find`). It imports no more than that takes: the Dockerfile copies these few modules for it, and a
change of any other one leaves the weights' layer as it is.
"""

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError, model_folder


def main() -> int:
    """The exit code: 0 with the model in the folder, 1 when it could not be fetched."""
    options = _parser().parse_args()
    config = EngineConfig(
        engine=options.engine,
        model_id=options.model_id,
        model_revision=options.model_revision or None,
        model_precision=options.model_precision or None,
    )
    try:
        found = model_folder.find(config, lambda stage: print(stage, flush=True), _fetch(config))
    except ModelLoadError as exc:
        print(f"{exc}. A gated or private model needs the build secret HF_TOKEN.", file=sys.stderr)
        return 1
    into = model_folder.built_in(options.folder, config)
    shutil.copytree(found.folder, into)  # the hub's cache has links; here they are files
    print(f"{found.name} is in {into}")
    return 0


def _fetch(config: EngineConfig) -> model_folder.Fetch:
    if config.engine != "diffusers":
        return model_folder.snapshot
    from torch import device

    from inference_server.engines.diffusers import loading

    # A build has no GPU: the precision is that of a run with one.
    dtype = loading.choose_dtype(config.model_precision, device("cuda"))
    return partial(loading.from_hub, dtype)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m inference_server.download")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--model-id", required=True, help="of the hub, owner/name")
    parser.add_argument("--model-revision")
    parser.add_argument("--model-precision")
    parser.add_argument("folder", type=Path, help="folder for the models of an image")
    return parser


if __name__ == "__main__":
    sys.exit(main())
