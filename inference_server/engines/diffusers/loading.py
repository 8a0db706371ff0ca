"""Loads a pipeline: from which files, in what precision, by which memory plan, and prepares it for a GPU."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
import transformers
from diffusers.pipelines import pipeline_utils
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError, model_folder, safety_checker, short_reason
from inference_server.engines.diffusers import (
    families,
    image_tasks,
    loras,
    model_file,
    placing,
    planning,
    precision,
    single_file,
    weights,
)
from inference_server.engines.diffusers.cuda_errors import SaferPrecisionError
from inference_server.engines.diffusers.devices import Card, choose_device, read_card
from inference_server.engines.diffusers.family import Family
from inference_server.engines.diffusers.gpu_memory import others_may_be_to_blame
from inference_server.engines.diffusers.learnt import LearntStore
from inference_server.engines.diffusers.loras import LoadedLoras
from inference_server.engines.diffusers.memory_plan import EVERYTHING, MemoryPlan, ModelSize
from inference_server.engines.diffusers.model_file import ModelFile
from inference_server.engines.diffusers.named_weights import NamedWeights
from inference_server.engines.diffusers.precision import Precision
from inference_server.engines.hub_download import HubDownloader
from inference_server.engines.model_folder import FoundModel
from inference_server.engines.safety_checker import SafetyChecker

USUAL = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline")
INDEX, MODULAR_INDEX = "model_index.json", "modular_model_index.json"


class ModularOnlyError(ModelLoadError):
    """The model has no pipeline, only blocks to make one of."""

    permanent = True


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline of diffusers on its device."""

    found: FoundModel
    pipeline: Any
    device: torch.device
    dtype: torch.dtype
    family: Family | None = None
    card: Card | None = None
    plan: MemoryPlan = EVERYTHING
    size: ModelSize = field(default_factory=lambda: ModelSize({}))
    notices: tuple[str, ...] = ()
    store: LearntStore = field(default_factory=lambda: LearntStore(None, ""))
    loras: LoadedLoras = field(default_factory=LoadedLoras)
    checker: SafetyChecker | None = None  # of a model without one of its own

    @property
    def precision(self) -> str:
        return precision.NAMES[self.dtype]

    def on_spoilt(self, wrong: str) -> None:
        """What to do about a picture that is none. Raises: SaferPrecisionError, if another precision may help."""
        if name := self.try_safer_precision():
            told = f"a picture is {wrong} in {self.precision}: the model is loaded again, in {name}"
            print(told, flush=True)
            raise SaferPrecisionError(told)

    def try_safer_precision(self) -> str | None:
        """Notes that pictures are spoilt in this precision: the next process loads another, whose name it returns.

        None where there is none, or it would not fit, or no next process would know.
        """
        name = precision.safer(self.dtype, self.family, self.card)
        if name is None or not planning.fits(self.size, precision.DTYPES[name], self.device):
            return None
        return name if self.store.learn(precision=name) else None


def load(config: EngineConfig, report: Callable[[str], None]) -> LoadedPipeline:
    """Raises: ModelLoadError, GpuBusyError."""
    device = choose_device(config.device)
    fetched_dtype = choose_dtype(config.model_precision, device)
    _be_silent()
    named = model_file.find(config, report)
    if not (config.model_id or named):
        raise ModelLoadError(
            "INFERENCE_ENGINE=diffusers needs a MODEL_ID (a folder or an id of the hub): the demo model, which serves "
            "without one, is made for INFERENCE_ENGINE=openvino"
        )
    if named is None:
        found = model_folder.find(config, report, fetch=partial(from_hub, fetched_dtype))
    else:
        found = _find_for(named, config, report, fetched_dtype)
    index = single_file.read_index(found.folder) if found.folder.is_file() else read_index(found.folder)
    lora_files = loras.find_files(config, report)
    checker, notice = safety_checker.fetch_for(config, found.folder, index, report)
    report("loading the model")
    loaded = _load(config, found, index, device, NamedWeights(named, lora_files, checker))
    return replace(loaded, notices=(*loaded.notices, notice)) if notice else loaded


def _find_for(
    named: ModelFile, config: EngineConfig, report: Callable[[str], None], fetched_dtype: torch.dtype
) -> FoundModel:
    """The pipeline's folder without what the file replaces; the file itself where it is a whole checkpoint.

    Raises: ModelLoadError.
    """
    if not config.model_id:
        return FoundModel(named.file, str(config.model_file))
    fetch = partial(from_hub, fetched_dtype, skipped=named.skipped())
    found = model_folder.find(config, report, fetch=fetch)
    return found if named.network_alone else FoundModel(named.file, found.name, configuration=found.folder)


def _load(
    config: EngineConfig,
    found: FoundModel,
    index: dict[str, Any],
    device: torch.device,
    files: NamedWeights,
) -> LoadedPipeline:
    card = read_card(device) if device.type == "cuda" else None
    family = families.find(index, found.name)
    folder = None if config.compile_cache is None else Path(config.compile_cache)
    store = LearntStore(folder, f"{card.name if card else 'cpu'} {found.name} {config.model_revision or ''}")
    chosen = _precision(config, family, card, store)
    size, variant = _size(found.folder, index, family, chosen.dtype)
    size = files.added_to(size, index, chosen.dtype)
    plan = planning.choose(config, found, index, size, device)
    print(f"{found.name}: {chosen.name}. {plan.sentence if card else ''}", flush=True)
    _set_tf32(device, chosen.dtype)
    with others_may_be_to_blame(device, plan.needed_bytes):
        if found.folder.is_file():
            pipeline = single_file.load(found.folder, index, chosen.dtype, found.configuration)
        else:
            network = files.load_network(found, index, chosen.dtype)
            pipeline = _pipeline(found.folder, index, chosen.dtype, variant, plan, size, network)
        loaded_loras = loras.load(pipeline, files.loras, found.name, chosen.dtype)
        checker = safety_checker.load(files.checker, config, device.type) if files.checker else None
        _place(pipeline, device, plan, chosen.dtype, found.name)
    notices = (chosen.told, files.told, family.licence.sentence if family else "")
    return LoadedPipeline(
        found,
        pipeline,
        device,
        chosen.dtype,
        family,
        card,
        plan,
        size,
        tuple(filter(None, notices)),
        store,
        loaded_loras,
        checker,
    )


def _precision(config: EngineConfig, family: Family | None, card: Card | None, store: LearntStore) -> Precision:
    """What suits model and card, unless it was learnt that its pictures are spoilt."""
    chosen, learnt = precision.choose(config.model_precision, family, card), store.known.precision
    if learnt not in precision.DTYPES or precision.DTYPES[learnt] == chosen.dtype:
        return chosen
    return Precision(
        precision.DTYPES[learnt], f"it draws in {learnt}, because a picture in another precision came out spoilt"
    )


def _size(
    folder: Path, index: dict[str, Any], family: Family | None, dtype: torch.dtype
) -> tuple[ModelSize, str | None]:
    """Its size in memory, and the variant of its files."""
    side_px = (family.side_px if family else None) or _side_px(folder, index)
    variant = None if folder.is_file() else weights.choose_variant(folder, dtype)
    if folder.is_file():
        parts = single_file.part_bytes(folder, dtype)
    else:
        weights.require_safe(folder, index)
        parts = weights.part_bytes(folder, index, dtype, variant)
    vae_fp32 = family is not None and precision.NAMES[dtype] in family.vae_fp32_in
    return ModelSize(parts, int(dtype.itemsize), side_px * side_px, vae_fp32), variant


def _side_px(folder: Path, index: dict[str, Any]) -> int:
    """Of the default picture, before anything is loaded."""
    if folder.is_file():
        return 1024 if "XL" in index["_class_name"] else 512
    return model_folder.native_side_px(folder)


def _place(pipeline: Any, device: torch.device, plan: MemoryPlan, dtype: torch.dtype, name: str) -> None:
    try:
        placing.place(pipeline, device, plan, dtype)
        if device.type == "cuda" and plan.compiles:
            _use_channels_last(pipeline)
    except Exception as exc:
        raise ModelLoadError(f"{name} does not fit on {device}: {short_reason(exc)}") from exc


def choose_dtype(asked: str | None, device: torch.device) -> torch.dtype:
    """What to fetch files for, before it is known which model they are of. Raises: ModelLoadError."""
    if not asked:
        return torch.float16 if device.type == "cuda" else torch.float32
    return precision.read(asked)


def _be_silent() -> None:
    """Stops the libraries' progress bars, and their warnings: those on long prompts quote the prompt."""
    warnings.filterwarnings("ignore", module="torchsde")  # warns of a rounding at every first step
    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def from_hub(
    dtype: torch.dtype, config: EngineConfig, report: Callable[[str], None], skipped: Sequence[str] = ()
) -> Path:
    """Downloads the files that this pipeline needs and no others; the fp16 variant if it is wanted and exists.

    `skipped`: patterns of files that are not needed either.

    Raises: PickleError, ModularOnlyError, or what huggingface_hub raises.
    """
    name, revision = str(config.model_id), config.model_revision or None
    download = partial(diffusers.DiffusionPipeline.download, name, revision=revision, use_safetensors=True)
    # diffusers knows which files these are. It has no parameter for what brings them.
    with mock.patch.object(pipeline_utils, "snapshot_download", HubDownloader(report, skipped=tuple(skipped)).snapshot):
        try:
            if dtype == torch.float16:
                try:
                    return Path(download(variant="fp16"))
                except ValueError as exc:
                    if "variant" not in str(exc):
                        raise
            return Path(download())
        except EntryNotFoundError as exc:  # of its index
            try:
                file = hf_hub_download(name, MODULAR_INDEX, revision=revision)
            except Exception:
                raise exc from None
            raise modular_only(name, model_folder.read_json(Path(file))) from exc
        except OSError as exc:
            if "Could not find the necessary `safetensors` weights" in str(exc):
                raise weights.PickleError(f"{name} has no {weights.SAFE} files") from exc
            raise


def _pipeline(
    folder: Path,
    index: dict[str, Any],
    dtype: torch.dtype,
    variant: str | None,
    plan: MemoryPlan,
    size: ModelSize,
    network: dict[str, Any],
) -> Any:
    """Loads from the folder alone: it fetches nothing, and runs no code of the model's."""
    options: dict[str, Any] = dict(network) if variant is None else {**network, "variant": variant}
    try:
        options |= placing.load_options(plan, size.parts, dtype)
        pipeline = _class_of(index).from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, **_absent_parts(index), **options
        )
    except Exception as exc:
        raise ModelLoadError(f"the model in {folder} cannot be loaded: {short_reason(exc)}") from exc
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def read_index(folder: Path) -> dict[str, Any]:
    """The folder's model_index.json: its pipeline class and parts. Raises: ModelLoadError."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = None
    if isinstance(index, dict):
        return index
    if (folder / MODULAR_INDEX).is_file():
        raise modular_only(folder, model_folder.read_json(folder / MODULAR_INDEX))
    raise ModelLoadError(f"{folder} holds no readable {INDEX}: it is no diffusers model folder")


def modular_only(model: Path | str, index: dict[str, Any]) -> ModularOnlyError:
    """The refusal of a model that is published as modular blocks alone."""
    kind = index.get("_class_name") or index.get("_blocks_class_name") or "modular blocks"
    return ModularOnlyError(
        f"{model} holds {kind} ({MODULAR_INDEX}) and no whole pipeline ({INDEX}): such models are not drawn with "
        "here. Take one with a pipeline instead, such as black-forest-labs/FLUX.2-klein-4B for FLUX.3 klein"
    )


def _class_of(index: dict[str, Any]) -> Any:
    """What `AutoPipelineForText2Image` would find; the model's own class where it draws from images alone.

    The usual ones without it, because it imports all pipelines.
    """
    name = str(index.get("_class_name"))
    if name in USUAL or image_tasks.is_for_images_alone(name):
        return getattr(diffusers, name)
    return diffusers.AutoPipelineForText2Image


def _absent_parts(index: dict[str, Any]) -> dict[str, None]:
    """Parts to load as None: Stable Diffusion 3 is often saved without its largest text encoder."""
    if not str(index.get("_class_name")).startswith("StableDiffusion3"):
        return {}
    entries = {name: index.get(name) or [None] for name in ("text_encoder_3", "tokenizer_3")}
    return {name: None for name, entry in entries.items() if entry[0] is None}


def _set_tf32(device: torch.device, dtype: torch.dtype) -> None:
    """Allows TF32 for half precision alone: it rounds to 10 bits, which is too rough for fp32."""
    if device.type == "cuda":
        rough = dtype != torch.float32
        torch.backends.cudnn.allow_tf32 = rough
        torch.set_float32_matmul_precision("high" if rough else "highest")


def _use_channels_last(pipeline: Any) -> None:
    """Convolutions in half precision are fastest with channels last."""
    for name in ("unet", "vae"):
        part = getattr(pipeline, name, None)
        if part is not None:
            part.to(memory_format=torch.channels_last)
