"""Finds the model's folder and reads from its configuration what it can draw and what it draws best.

Layout: a diffusers model folder (`model_index.json`, `unet/` or `transformer/`, `vae/` or `vae_decoder/`,
`scheduler/`), with an optional `defaults.json` beside the index whose keys (all optional) win:
`height`, `width`, `num_inference_steps`, `guidance_scale`, `side_multiple_px`, `max_side_px`.
Source: https://huggingface.co/docs/diffusers/using-diffusers/loading (model_index.json)
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from inference_server.engine_config import DEMO_MODEL_NAME, EngineConfig
from inference_server.engines import ModelLoadError
from inference_server.messages import ModelInfo


def as_typed(prompt: str, *, negative: bool = False) -> str:
    """The prompt as it is, a negative one too."""
    return prompt


@dataclass(frozen=True)
class FoundModel:
    """A model folder on this machine and the name that the wire gives it."""

    folder: Path  # or a file that holds the whole model
    name: str
    encoder_prompt: Callable[..., str] = as_typed  # from a prompt to the text that the text encoder is given
    configuration: Path | None = None  # of a model that is one file: a diffusers folder to read it from


def snapshot(config: EngineConfig, report: Callable[[str], None]) -> Path:
    """All files of a model of the hub. Raises: ModelLoadError, or what huggingface_hub raises."""
    from inference_server.engines.hub_download import HubDownloader

    return Path(HubDownloader(report).snapshot(str(config.model_id), revision=config.model_revision or None))


def built_in(models: Path, config: EngineConfig) -> Path:
    """Where an image with models in the folder `models` has this one, at this revision."""
    return models / quote(f"{config.model_id}@{config.model_revision or 'main'}", safe="@")


Fetch = Callable[[EngineConfig, Callable[[str], None]], Path]


def find(config: EngineConfig, report: Callable[[str], None], fetch: Fetch = snapshot) -> FoundModel:
    """The folder of the configured model. A hub id's is built into this image (BUILT_IN_MODELS), or `fetch` brings it.

    Raises: ModelLoadError.
    """
    if not config.model_id:
        report("unpacking the demo model")
        try:
            import demo_model  # the one exception to "nothing of the top level"
        except ImportError as exc:
            raise ModelLoadError(f"No MODEL_ID is set and there is no demo model beside this server: {exc}") from exc
        return FoundModel(demo_model.folder(), DEMO_MODEL_NAME, demo_model.encoder_prompt)
    folder = Path(config.model_id).expanduser()
    if folder.is_dir() or folder.is_file():
        return FoundModel(folder, config.model_id)
    if folder.is_absolute() or config.model_id.startswith((".", "~")) or config.model_id.count("/") != 1:
        raise ModelLoadError(f"MODEL_ID {config.model_id!r} is no folder here and no model id of the hub (owner/name)")
    if built_in_models := os.environ.get("BUILT_IN_MODELS"):
        folder = built_in(Path(built_in_models), config)
        if folder.is_dir():
            return FoundModel(folder, config.model_id)
    report(f"asking the hub for {config.model_id}")
    return FoundModel(_fetched(config, report, fetch), config.model_id)


def _fetched(config: EngineConfig, report: Callable[[str], None], fetch: Fetch) -> Path:
    try:
        return fetch(config, report)
    except ImportError as exc:
        raise ModelLoadError(
            f"MODEL_ID {config.model_id!r} is no folder here, and fetching it needs the package {exc.name}, "
            "which is not installed"
        ) from exc
    except ModelLoadError as exc:
        told = ModelLoadError(f"Fetching {config.model_id} from the hub: {exc}")
        told.permanent = exc.permanent
        raise told from exc
    except Exception as exc:
        from inference_server.engines.hub_errors import explain

        raise ModelLoadError(
            f"Fetching {config.model_id} from the hub: {explain(exc, str(config.model_id), config.model_revision)}"
        ) from exc


def read_model_info(
    found: FoundModel,
    schedulers: Callable[[Mapping[str, Any]], tuple[str, ...]],
    max_side_px: Callable[[int], int] = lambda side_px: side_px,
    side_multiple_px: int = 64,
    side_px: int | None = None,
    best: tuple[int, float] | None = None,
    index: Mapping[str, Any] | None = None,
) -> ModelInfo:
    """What the folder says about the model; `schedulers` picks the usable ones from the scheduler's config.

    `max_side_px`: the largest side that the engine draws, from the one that the model was trained for. What an engine
    knows better than the folder: `side_px`, the trained side; `best`, steps and guidance; `index`, of a model that is
    one file. `defaults.json` wins.

    Raises: ModelLoadError when the folder holds no readable model_index.json.
    """
    index = index or read_json(found.folder / "model_index.json")
    if "_class_name" not in index:
        raise ModelLoadError(f"{found.folder} holds no readable model_index.json: it is no diffusers model folder")
    defaults = read_json(found.folder / "defaults.json")
    scheduler = _own_scheduler(found.folder, index)
    scale = _vae_scale(found.folder)
    side = side_px or native_side_px(found.folder, scale)
    steps, guidance = best or steps_and_guidance(found.name, scheduler)
    width, height = _int(defaults, "width", side), _int(defaults, "height", side)
    offered = schedulers(read_scheduler_config(found.folder))
    return ModelInfo(
        name=found.name,
        pipeline=str(index["_class_name"]),
        width_px=width,
        height_px=height,
        num_inference_steps=_int(defaults, "num_inference_steps", steps),
        guidance_scale=_float(defaults, "guidance_scale", guidance),
        scheduler=scheduler,
        schedulers=tuple(dict.fromkeys((scheduler, *offered))),
        max_side_px=_int(defaults, "max_side_px", max(max_side_px(side), width, height)),
        side_multiple_px=_int(defaults, "side_multiple_px", max(side_multiple_px, scale)),
    )


def read_scheduler_config(folder: Path) -> dict[str, Any]:
    """The config of the model's own scheduler; empty where there is none."""
    return read_json(folder / "scheduler" / "scheduler_config.json")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _int(values: Mapping[str, Any], key: str, otherwise: int) -> int:
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else otherwise


def _float(values: Mapping[str, Any], key: str, otherwise: float) -> float:
    value = values.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else otherwise


def _own_scheduler(folder: Path, index: Mapping[str, Any]) -> str:
    named = read_scheduler_config(folder).get("_class_name")
    entry = index.get("scheduler")
    if not named and isinstance(entry, list) and len(entry) == 2:
        named = entry[1]
    return str(named or "DDIMScheduler")


def _vae_scale(folder: Path) -> int:
    """Picture pixels per latent pixel: one doubling for every level of the autoencoder but the first."""
    for part in ("vae_decoder", "vae"):
        levels = read_json(folder / part / "config.json").get("block_out_channels")
        if isinstance(levels, list) and levels:
            return int(2 ** (len(levels) - 1))
    return 8


def native_side_px(folder: Path, scale: int | None = None) -> int:
    """The side that the model was trained for, as its configuration tells it; 512 where it does not."""
    scale = scale or _vae_scale(folder)
    for part in ("unet", "transformer"):
        size = read_json(folder / part / "config.json").get("sample_size")
        if isinstance(size, list) and size:
            size = size[0]
        if isinstance(size, int) and size > 0:
            return size * scale
    return 512


def steps_and_guidance(name: str, scheduler: str) -> tuple[int, float]:
    """Distilled models want few steps and no guidance; told by their scheduler or their name."""
    if scheduler == "LCMScheduler" or "lcm" in name.lower():
        return 4, 1.0
    if any(word in name.lower() for word in ("turbo", "lightning", "schnell", "hyper")):
        return 4, 0.0
    return 25, 7.5
