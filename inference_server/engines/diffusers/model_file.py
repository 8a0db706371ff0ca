"""`MODEL_FILE`: one file with the weights of the network that draws, as GGUF or .safetensors; or a whole checkpoint.

With a network alone, `MODEL_ID` names the pipeline that it is for: its text encoders, autoencoder and configuration
come from there, and its own network is neither downloaded nor loaded. A GGUF file stays as small in memory as it is.
Source: https://huggingface.co/docs/diffusers/quantization/gguf
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError, short_reason
from inference_server.engines.diffusers import weights
from inference_server.engines.named_files import NamedFile

GGUF = ".gguf"
NETWORKS = ("transformer", "unet")  # parts that draw
_OTHER_PARTS = ("first_stage_model.", "vae.", "cond_stage_model.", "conditioner.", "text_encoders.")


class UnfitModelFileError(ModelLoadError):
    """The file is for another model, or for none."""

    permanent = True


@dataclass(frozen=True)
class ModelFile:
    """The file, and whether it holds a network alone."""

    file: Path
    network_alone: bool

    @property
    def is_gguf(self) -> bool:
        return self.file.suffix.lower() == GGUF

    def skipped(self) -> list[str]:
        """Patterns of the pipeline's files that it replaces."""
        kinds = (weights.SAFE, *weights.PICKLES)
        if self.network_alone:
            return [f"{part}/*{kind}*" for part in NETWORKS for kind in kinds]
        return [f"*{kind}*" for kind in kinds]

    def loaded_bytes(self, dtype: torch.dtype) -> int:
        return self.file.stat().st_size if self.is_gguf else weights.loaded_bytes(self.file, dtype)


def find(config: EngineConfig, report: Callable[[str], None]) -> ModelFile | None:
    """The named file, downloaded if need be; None where none is named. Raises: ModelLoadError, PickleError."""
    if not config.model_file:
        return None
    if config.model_file.lower().endswith(weights.PICKLES):
        raise weights.PickleError(f"MODEL_FILE={config.model_file} is a pickle file")
    file = NamedFile("MODEL_FILE", config.model_file, (GGUF, weights.SAFE)).find(report)
    if file.suffix.lower() not in (GGUF, weights.SAFE):
        raise UnfitModelFileError(f"MODEL_FILE takes a {GGUF} or {weights.SAFE} file, which {file.name} is not")
    alone = file.suffix.lower() == GGUF or (bool(config.model_id) and not _holds_other_parts(file))
    if alone and not config.model_id:
        raise UnfitModelFileError(
            f"MODEL_FILE={file.name} holds only the network that draws: MODEL_ID must name the pipeline that it is "
            "for, such as black-forest-labs/FLUX.1-dev"
        )
    return ModelFile(file, alone)


def _holds_other_parts(file: Path) -> bool:
    return any(name.startswith(_OTHER_PARTS) for name in weights.names_in(file))


def part_of(index: Mapping[str, Any]) -> str:
    """The name of the part that draws. Raises: UnfitModelFileError."""
    part = next((name for name in NETWORKS if name in weights.parts_of(index)), None)
    if part is None:
        raise UnfitModelFileError(f"MODEL_FILE: {index.get('_class_name')} has no part that one file could replace")
    return part


def load_network(one: ModelFile, folder: Path, index: Mapping[str, Any], model: str, dtype: torch.dtype) -> Any:
    """The network from the file, with the configuration in `folder`.

    Raises: UnfitModelFileError naming the file, its kind, the model and its class; ModelLoadError without the package.
    """
    part = part_of(index)
    name = str(index[part][1])
    kind: Any = getattr(diffusers, name, None)
    if not hasattr(kind, "from_single_file"):
        raise UnfitModelFileError(f"MODEL_FILE: diffusers loads {name} ({model}) from a folder alone")
    options: dict[str, Any] = {}
    if one.is_gguf:
        try:
            import gguf  # noqa: F401  # diffusers does so later, with another error
        except ImportError as exc:
            raise ModelLoadError("MODEL_FILE needs the package gguf, which is not installed here") from exc
        options["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    try:
        network = kind.from_single_file(
            str(one.file), config=str(folder), subfolder=part, dtype=dtype, local_files_only=True, **options
        )
    except Exception as exc:
        raise _unfit(one, name, model, short_reason(exc)) from exc
    # diffusers leaves weights that the file lacks without values, and says nothing.
    if missing := [name for name, weight in network.state_dict().items() if weight.is_meta]:
        raise _unfit(one, name, model, f"it lacks {len(missing)} of the weights, such as {missing[0]}")
    return network


def _unfit(one: ModelFile, name: str, model: str, reason: str) -> UnfitModelFileError:
    return UnfitModelFileError(
        f"{one.file.name} ({architecture(one.file)}) is not for MODEL_ID={model}, whose network is a {name}: {reason}"
    )


def architecture(file: Path) -> str:
    """What the file says that it holds, in words."""
    if file.suffix.lower() != GGUF:
        return "a .safetensors file"
    try:
        import gguf

        field = gguf.GGUFReader(str(file)).fields.get("general.architecture")
    except Exception as exc:
        return f"no readable GGUF: {short_reason(exc)}"
    return f"architecture {field.contents() if field is not None else 'unknown'}"
