"""LoRAs: whose picture shows which, alone and in company, and which files are refused."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError
from inference_server.engines.diffusers import loading
from inference_server.engines.diffusers.adapters.drawer import AdapterDrawer
from inference_server.engines.diffusers.engine import DiffusersEngine
from inference_server.engines.diffusers.loading import LoadedPipeline
from inference_server.engines.diffusers.unet_package import base_weights
from inference_server.messages import GenerationParams
from tests.support import diffusers_channel, tiny_families, tiny_loras, tiny_pipelines
from tests.support.diffusers_channel import Rig, ScriptedChannel, difference, order

pytestmark = pytest.mark.slow

ONE, OTHER, BOTH = (("one", 0.8),), (("other", -1.5),), (("one", 0.3), ("other", 1.0))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`one` changes the UNet alone, `other` the text encoder too."""
    folder, pipeline = tmp_path_factory.mktemp("loras"), StableDiffusionPipeline.from_pretrained(folder_of("sd"))
    tiny_loras.save_lora(pipeline, folder / "one.safetensors", 1)
    tiny_loras.save_lora(pipeline, folder / "other.safetensors", 2, ("unet", "text_encoder"))
    return {name: str(folder / f"{name}.safetensors") for name in ("one", "other")}


def folder_of(kind: str) -> str:
    return str(tiny_pipelines.folder(kind))


def config(model: str, *loras: str) -> EngineConfig:
    told = {"engine": "diffusers", "model_id": model, "device": "cpu", "loras": ",".join(loras)}
    return EngineConfig.model_validate(told)


@pytest.fixture(scope="module")
def model(files: dict[str, str]) -> LoadedPipeline:
    torch.set_num_threads(1)  # such small tensors are not worth a second thread
    return loading.load(
        config(folder_of("sd"), *(f"{name}={file}" for name, file in files.items())), lambda stage: None
    )


@pytest.fixture
def rig(model: LoadedPipeline, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """A loop of the small Stable Diffusion with both LoRAs."""
    monkeypatch.setattr(diffusers_channel, "loaded", lambda kind, precision="fp32": model)
    return Rig("sd")


@pytest.fixture(scope="module")
def plain() -> Any:
    """diffusers' own, for comparison; once asked it has both LoRAs too."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder_of("sd"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def expected(pipeline: Any, files: dict[str, str], params: GenerationParams) -> Any:
    """What diffusers' own call makes of it with these LoRAs."""
    if files and not pipeline.get_list_adapters():
        with warnings.catch_warnings(action="ignore"):  # that there are several
            for name, file in files.items():
                pipeline.load_lora_weights(file, adapter_name=name)
    if params.loras:
        pipeline.enable_lora()
        pipeline.set_adapters([name for name, _ in params.loras], [weight for _, weight in params.loras])
    elif files:
        pipeline.disable_lora()
    result = pipeline(
        params.prompt,
        height=params.height_px,
        width=params.width_px,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(params.seeds[0]),
        output_type="np",
    )
    return (result.images[0] * 255).round().astype("uint8")


def test_without_a_lora_not_a_bit_changes(rig: Rig, plain: Any) -> None:
    """A model with LoRAs draws without them what it draws without having any, also after it drew with them."""
    rig.draw(order(1, loras=BOTH))
    assert (rig.draw(order(2)).picture_of(2) == expected(plain, {}, order(2).params)).all()
    weights = base_weights(diffusers_channel.loaded("sd").pipeline.unet)
    assert weights.keys() == plain.unet.state_dict().keys(), "a compiled UNet would want other weights"


def test_each_drawing_of_a_busy_loop_has_its_own_loras(rig: Rig, files: dict[str, str], plain: Any) -> None:
    """Drawings without, with one, the other and both, at once: each is what diffusers' own call draws with these."""
    orders = [order(number, loras=loras) for number, loras in enumerate(((), ONE, OTHER, BOTH, ONE), 1)]
    channel = rig.draw(*orders)
    pictures = {one.number: channel.picture_of(one.number) for one in orders}
    for one in orders:
        assert difference(pictures[one.number], expected(plain, files, one.params)) <= 2
    same_seed = [order(number, seeds=(1,), loras=loras) for number, loras in enumerate((ONE, OTHER, BOTH), 6)]
    channel = rig.draw(*same_seed)
    for one in same_seed:
        assert difference(channel.picture_of(one.number), pictures[1]) > 10, "the LoRA changed nothing"


def test_a_batch_is_split_by_loras(rig: Rig) -> None:
    """Those with the same LoRAs at the same strengths share steps, others do not."""
    channel = rig.draw(order(1, loras=ONE), order(2, loras=ONE), order(3), order(4, loras=(("one", 0.7),)))
    assert max(channel.batches()) == 2
    assert {shape.loras for shape in rig.unet.shapes} == {(), ONE, (("one", 0.7),)}


def test_a_pipelines_own_call_draws_with_them_too(tmp_path: Path) -> None:
    """A transformer's: drawings of different LoRAs have calls, or shared steps, of their own, and none stays behind."""
    folder = str(tiny_pipelines.folder("sd3"))
    pipeline = loading.load(config(folder), lambda stage: None).pipeline
    file = tiny_loras.save_lora(pipeline, tmp_path / "a.safetensors", 3, ("transformer",))
    engine = DiffusersEngine(config(folder, f"a={file}:0.5"), lambda stage: None)
    assert engine.model_info.loras == (("a", 0.5),)
    assert "loras" in engine.model_info.features
    drawer = engine._drawer
    assert isinstance(drawer, AdapterDrawer)
    common = {"prompt": "a cat", "scheduler": engine.model_info.scheduler, "seeds": (1,)}
    orders = [order(number, **common, loras=loras) for number, loras in ((1, ()), (2, (("a", 1.0),)), (3, ()))]
    own, shared = ScriptedChannel(*orders), ScriptedChannel(*orders)
    for channel, drawn_by in ((own, drawer.own_call), (shared, drawer.shared)):
        channel.close()
        drawn_by.work(channel)
        assert difference(channel.picture_of(2), channel.picture_of(1)) > 10
        assert difference(channel.picture_of(3), channel.picture_of(1)) <= 2
    assert own.batches().count(2) > 0, "the first and the third did not share a call"
    assert difference(shared.picture_of(2), own.picture_of(2)) <= 2


@pytest.mark.parametrize("kind", ["sdxl", "flux"])
def test_a_lora_for_another_model_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    """One whose layers have other shapes, and one none of whose layers exist: file, LoRA and model are named."""
    if kind == "sdxl":
        pipeline, part = StableDiffusionXLPipeline.from_pretrained(folder_of("sdxl")), "unet"
    else:
        pipeline, part = DiffusionPipeline.from_pretrained(tiny_families.folder("flux", "FLUX.1-dev")), "transformer"
    tiny_loras.save_lora(pipeline, tmp_path / "theirs.safetensors", 1, (part,))
    with pytest.raises(ModelLoadError) as raised:
        loading.load(config(folder_of("sd"), f"pixel={tmp_path / 'theirs.safetensors'}"), lambda stage: None)
    assert raised.value.permanent
    assert all(word in str(raised.value) for word in ("pixel", "theirs.safetensors", folder_of("sd")))


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.ckpt", "a.safetensors"])
def test_files_that_are_no_loras_are_refused(name: str, tmp_path: Path) -> None:
    """A pickle is not even opened; a file of something else is named."""
    (tmp_path / name).write_bytes(b"no LoRA")
    with pytest.raises(ModelLoadError, match="pickle file" if "safe" not in name else name) as raised:
        loading.load(config(folder_of("sd"), f"a={tmp_path / name}"), lambda stage: None)
    assert raised.value.permanent
