"""LoRAs: loaded with the model, chosen by a drawing by name, several at once, each with its strength.

**A shared batch is split by them.** Drawings with the same LoRAs at the same strengths share steps; others take turns,
as sizes do. PEFT can give each row of a batch a LoRA of its own, but one alone, at one strength for all rows, and the
layers of diffusers' UNet do not hand that on; merged into the weights they would be another network for each drawing.
So a turn may begin with a change of the network's LoRAs, which costs a walk over its LoRA layers and no memory.
Drawings without a LoRA run the base weights to the last bit, compiled where the model is.
Source: https://huggingface.co/docs/diffusers/tutorials/using_peft_for_inference
"""

import importlib.util
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError, short_reason
from inference_server.engines.diffusers import weights
from inference_server.engines.named_files import NamedFile
from inference_server.loras import Lora, Selection

USUAL_FILE = "pytorch_lora_weights.safetensors"  # as diffusers saves them
_ADAPTER_WEIGHT = re.compile(r"[._]lo(?:ra|kr|ha)[._]")
FITTING_SHARE = 0.5  # of a LoRA's layers that must exist in the model; some carry layers that no pipeline reads


class UnfitLoraError(ModelLoadError):
    """A LoRA is for another model, or none at all."""

    permanent = True


@dataclass(frozen=True)
class LoraFile:
    """One that is offered, and its weights on this machine."""

    offer: Lora
    adapter: str  # its name in the model's layers, where not every name may stand
    file: Path


def find_files(config: EngineConfig, report: Callable[[str], None]) -> tuple[LoraFile, ...]:
    """The files of all LoRAs, downloaded if need be. Raises: ModelLoadError, PickleError."""
    found = []
    for number, offer in enumerate(config.loras):
        if offer.source.lower().endswith(weights.PICKLES):
            raise weights.PickleError(f"the LoRA {offer.name} ({offer.source}) is a pickle file")
        file = NamedFile("LORAS", offer.source, (weights.SAFE,), USUAL_FILE).find(report)
        if file.suffix.lower() != weights.SAFE:
            raise UnfitLoraError(f"the LoRA {offer.name} ({file.name}) is no {weights.SAFE} file")
        found.append(LoraFile(offer, f"offered_{number}", file))
    return tuple(found)


def loaded_bytes(files: Sequence[LoraFile], dtype: torch.dtype) -> int:
    """What they take in memory beside the model."""
    return sum(weights.loaded_bytes(one.file, dtype) for one in files)


class AdapterSwitch:
    """The LoRAs of one network. `use` and the call after it belong together: hold `lock` around both."""

    def __init__(self, network: Any, adapters: dict[str, str]) -> None:
        """`adapters`: name -> adapter of those with layers in this network."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.lock = threading.Lock()
        self._adapters = adapters
        self._layers = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
        self._used: Selection | None = None

    def use(self, selection: Selection) -> None:
        """From the next call on the network draws with these and no others."""
        if selection == self._used:
            return
        here = [(self._adapters[name], strength) for name, strength in selection if name in self._adapters]
        for layer in self._layers:
            # Not by PEFT's `set_adapter`, which looks at each weight whether it is to be trained: 20 times as long.
            layer._active_adapter, layer._disable_adapters = [adapter for adapter, _ in here], not here
            for adapter, strength in here:
                layer.set_scale(adapter, strength)
        self._used = selection


@dataclass(frozen=True)
class LoadedLoras:
    """Those of one pipeline. `switches`: by the pipeline's part, of the parts that any of them changes."""

    offers: tuple[Lora, ...] = ()
    switches: dict[str, AdapterSwitch] = field(default_factory=dict)

    @property
    def offered(self) -> Selection:
        """Names and default strengths, in the order in which they were named."""
        return tuple((one.name, one.weight) for one in self.offers)

    def use(self, selection: Selection, parts: Callable[[str], bool] = lambda part: True) -> None:
        """From their next calls on these parts of the pipeline draw with these LoRAs and no others."""
        for name, switch in self.switches.items():
            if parts(name):
                switch.use(selection)

    def use_for_text(self, selection: Selection) -> None:
        self.use(selection, lambda part: part.startswith("text_encoder"))


def load(pipeline: Any, files: Sequence[LoraFile], model: str, dtype: torch.dtype) -> LoadedLoras:
    """Loads them into the pipeline's parts, before those are moved to the device; none is in use.

    Raises: UnfitLoraError naming file and model; ModelLoadError without PEFT.
    """
    if not files:
        return LoadedLoras()
    if importlib.util.find_spec("peft") is None:
        raise ModelLoadError("LORAS needs the package peft, which is not installed: pip install -r requirements.txt")
    kind = type(pipeline).__name__
    if not hasattr(pipeline, "load_lora_weights"):
        raise UnfitLoraError(f"LORAS: diffusers loads no LoRA into {model} ({kind})")
    for one in files:
        try:
            _load_one(pipeline, one)
        except Exception as exc:
            reason = str(exc) if isinstance(exc, UnfitLoraError) else short_reason(exc)
            raise UnfitLoraError(
                f"the LoRA {one.offer.name} ({one.file.name}) is not for {model} ({kind}): {reason}"
            ) from exc
    parts = {name: getattr(pipeline, name, None) for name in pipeline._lora_loadable_modules}
    switches = {}
    for name, part in parts.items():
        adapters = {one.offer.name: one.adapter for one in files if one.adapter in getattr(part, "peft_config", {})}
        if adapters:
            _cast(part, dtype)
            switches[name] = AdapterSwitch(part, adapters)
            switches[name].use(())
    return LoadedLoras(tuple(one.offer for one in files), switches)


def _load_one(pipeline: Any, one: LoraFile) -> None:
    """Raises: UnfitLoraError, or what diffusers and PEFT raise (layers of another shape, a layout nobody knows)."""
    where = {"weight_name": one.file.name, "local_files_only": True, "use_safetensors": True}
    state = pipeline.lora_state_dict(str(one.file.parent), **where)
    names = state[0] if isinstance(state, tuple) else state
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
        pipeline.load_lora_weights(str(one.file.parent), adapter_name=one.adapter, **where)
    # What has no place in the model is left out without a word.
    wanted = {_ADAPTER_WEIGHT.split(name)[0] for name in names if _ADAPTER_WEIGHT.search(name)}
    placed = sum(
        any(one.adapter in getattr(layer, name, ()) for name in layer.adapter_layer_names)
        for part in pipeline._lora_loadable_modules
        for layer in getattr(getattr(pipeline, part, None), "modules", list)()
        if hasattr(layer, "adapter_layer_names")
    )
    if not wanted:
        raise UnfitLoraError("it holds no LoRA weights")
    if placed < FITTING_SHARE * len(wanted):
        raise UnfitLoraError(f"{placed} of its {len(wanted)} layers exist there")


def _cast(part: Any, dtype: torch.dtype) -> None:
    """To the model's precision: a file keeps its own, and the layers compute in that."""
    for name, weight in part.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.to(dtype)
            weight.requires_grad_(False)
