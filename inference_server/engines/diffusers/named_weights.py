"""The weights that settings name beside the model itself: `MODEL_FILE` and `LORAS`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from inference_server.engines.diffusers import loras, model_file
from inference_server.engines.diffusers.loras import LoraFile
from inference_server.engines.diffusers.memory_plan import ModelSize, is_network
from inference_server.engines.diffusers.model_file import ModelFile
from inference_server.engines.model_folder import FoundModel

CHECKER_BYTES = 610_000_000  # in half precision


@dataclass(frozen=True)
class NamedWeights:
    """`file`: None where the model's own are drawn with."""

    file: ModelFile | None = None
    loras: tuple[LoraFile, ...] = ()
    checker: Path | None = None  # the folder of a safety checker

    @property
    def told(self) -> str:
        """For the maintainer; empty where there is nothing to tell."""
        return "" if self.file is None else f"it draws with the weights of {self.file.file.name}"

    def added_to(self, size: ModelSize, index: Mapping[str, Any], dtype: torch.dtype) -> ModelSize:
        """The size with these weights: those of LoRAs lie in the network that draws, for the most part."""
        parts = dict(size.parts)
        if self.file is not None and self.file.network_alone:
            parts[model_file.part_of(index)] = self.file.loaded_bytes(dtype)
        if network := next((name for name in parts if is_network(name)), None):
            parts[network] += loras.loaded_bytes(self.loras, dtype)
        if self.checker is not None:
            parts["safety_checker"] = CHECKER_BYTES
        return replace(size, parts=parts)

    def load_network(self, found: FoundModel, index: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
        """The file's network by the name of its part; empty where the model's own is meant. Raises: ModelLoadError."""
        if self.file is None or not self.file.network_alone:
            return {}
        network = model_file.load_network(self.file, found.folder, index, found.name, dtype)
        return {model_file.part_of(index): network}
