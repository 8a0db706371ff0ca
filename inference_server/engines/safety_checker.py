"""Looks whether a picture is fit for the visitors of a page: the CLIP safety checker that came with Stable Diffusion.

For models that have none of their own, in every engine. It takes torch, diffusers and transformers, which the OpenVINO
engine does without otherwise. It compares pictures with 20 concepts that are unfit, errs to both sides, and sees
nothing but that. The demo model needs none: it draws the words of its list and nothing else.
Source: https://huggingface.co/CompVis/stable-diffusion-safety-checker
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError, short_reason
from inference_server.messages import Drawn

_WEIGHTS = ("model.fp16.safetensors", "model.safetensors")  # the first that is there
_FOLDERS = ("safety_checker/", "")  # of a pipeline, or a checker alone
_TURN_OFF = "SAFETY_CHECKER_MODEL=none draws without one"


class CheckerError(ModelLoadError):
    """The safety checker cannot be had; the model is then not served to visitors."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"the safety checker of {model} cannot be loaded: {reason}. {_TURN_OFF}")


class SafetyChecker:
    """The checker in memory. For one thread at a time."""

    def __init__(self, checker: Any, processor: Any, device: Any) -> None:
        self._checker, self._processor, self._device = checker, processor, device

    def is_unfit(self, pixels: Any) -> bool:
        """`pixels`: (H, W, 3) uint8."""
        from PIL import Image

        seen = self._processor(Image.fromarray(pixels), return_tensors="pt").pixel_values
        _, found = self._checker(images=pixels[None].copy(), clip_input=seen.to(self._device, self._checker.dtype))
        return bool(found[0])


def needs_one(folder: Path, index: dict[str, Any]) -> bool:
    """Whether a model has no checker of its own, and can draw what calls for one."""
    own = index.get("safety_checker")
    has_own = isinstance(own, list) and bool(own) and bool(own[0])
    return not has_own and not (folder.is_dir() and (folder / "words.txt").is_file())


def fetch(config: EngineConfig, report: Callable[[str], None]) -> Path | None:
    """The folder of the configured checker, downloaded if need be; None where there is to be none.

    Raises: CheckerError.
    """
    model = config.checker
    if model is None:
        return None
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    report("asking the hub for the safety checker")
    try:
        return _downloaded(model, report)
    except ModelLoadError as exc:
        raise CheckerError(model, str(exc)) from exc
    except ImportError as exc:
        raise CheckerError(model, f"the package {exc.name} is not installed") from exc
    except Exception as exc:
        from inference_server.engines.hub_errors import explain

        raise CheckerError(model, explain(exc, model, setting="SAFETY_CHECKER_MODEL")) from exc


def fetch_for(
    config: EngineConfig, folder: Path, index: dict[str, Any], report: Callable[[str], None]
) -> tuple[Path | None, str]:
    """The folder of the checker of the model in `folder`, None for none, and what the maintainer should know.

    A model of the hub is not served without its checker. A folder of the maintainer's own may lie where no hub is: a
    checker that nobody named is then done without, and that is told. Raises: CheckerError.
    """
    if not needs_one(folder, index):
        return None, ""
    try:
        return fetch(config, report), ""
    except CheckerError as exc:
        if config.safety_checker_model or not Path(config.model_id or config.model_file or "").expanduser().exists():
            raise
        return None, _unchecked(exc)


def _unchecked(exc: CheckerError) -> str:
    return f"nobody checks the pictures of this public page: {exc}"


def _downloaded(model: str, report: Callable[[str], None]) -> Path:
    """Raises: ModelLoadError, ImportError, what huggingface_hub raises."""
    from inference_server.engines.hub_download import HubDownloader, file_names

    wanted = _wanted(file_names(model))
    if not wanted:
        raise ModelLoadError(f"it has none of {', '.join(_WEIGHTS)}")
    return Path(HubDownloader(report).snapshot(model, allow_patterns=wanted))


def _wanted(names: list[str]) -> list[str]:
    for folder in _FOLDERS:
        for weights in _WEIGHTS:
            if folder + weights in names:
                settings = ("feature_extractor/preprocessor_config.json", "preprocessor_config.json")
                return [folder + weights, f"{folder}config.json", *(name for name in settings if name in names)]
    return []


def load(folder: Path, config: EngineConfig, device: str = "cpu") -> SafetyChecker:
    """On a GPU in half precision, where it takes 0.6 GB. Raises: CheckerError."""
    model = str(config.checker)
    try:
        import torch
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import CLIPImageProcessor

        part = folder / "safety_checker" if (folder / "safety_checker").is_dir() else folder
        settings = folder / "feature_extractor" if (folder / "feature_extractor").is_dir() else folder
        half = (part / _WEIGHTS[0]).is_file()
        checker = StableDiffusionSafetyChecker.from_pretrained(
            part,
            dtype=torch.float32 if device == "cpu" else torch.float16,
            local_files_only=True,
            use_safetensors=True,
            **({"variant": "fp16"} if half else {}),
        )
        processor = CLIPImageProcessor.from_pretrained(settings, local_files_only=True)
    except ImportError as exc:
        raise CheckerError(model, f"the package {exc.name} is not installed here") from exc
    except Exception as exc:
        raise CheckerError(model, short_reason(exc)) from exc
    return SafetyChecker(checker.to(device).eval(), processor, device)


def checked(drawn: Drawn, checker: SafetyChecker | None, *, wanted: bool) -> Drawn:
    """The drawing with what the checker says of each picture, and black in place of those that are unfit."""
    if checker is None or not wanted:
        return drawn
    images, flags = [], []
    for image in drawn.images:
        pixels = np.frombuffer(image.rgb, np.uint8).reshape(image.height_px, image.width_px, 3)
        flags.append(checker.is_unfit(pixels))
        images.append(replace(image, rgb=bytes(len(image.rgb))) if flags[-1] else image)
    return replace(drawn, images=tuple(images), nsfw=tuple(flags))


def load_for(
    config: EngineConfig, folder: Path, index: dict[str, Any], report: Callable[[str], None]
) -> tuple[SafetyChecker | None, str]:
    """For an engine that does without torch: the checker, and what the maintainer should know.

    A checker that nobody named is done without where it cannot be had; that is told. Raises: CheckerError.
    """
    if config.checker is None or not needs_one(folder, index):
        return None, ""
    try:
        found = fetch(config, report)
        return (load(found, config), "") if found is not None else (None, "")
    except CheckerError as exc:
        if config.safety_checker_model:
            raise
        return None, _unchecked(exc)
