"""MODEL_FILE: a network in one file, drawn with in its pipeline's place, and files that are for another one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError
from inference_server.engines.diffusers import loading, model_file, planning
from inference_server.engines.diffusers.loading import LoadedPipeline
from inference_server.engines.diffusers.memory_plan import Memory, ModelSize
from inference_server.engines.diffusers.pipeline_calls import PipelineCalls
from inference_server.engines.model_folder import FoundModel
from tests.support import tiny_families, tiny_pipelines
from tests.support.diffusers_channel import ScriptedChannel, difference, order
from tests.support.gguf_files import save_gguf
from tests.support.single_files import save_single_file

pytestmark = pytest.mark.slow

GB = 10**9


def load(model_id: Path | None, file: Path | str) -> LoadedPipeline:
    config = EngineConfig(
        engine="diffusers", device="cpu", model_id=str(model_id) if model_id else None, model_file=str(file)
    )
    return loading.load(config, lambda stage: None)


def picture(loaded: LoadedPipeline) -> Any:
    channel = ScriptedChannel(order(1, scheduler=type(loaded.pipeline.scheduler).__name__, num_inference_steps=2))
    channel.close()
    PipelineCalls(loaded, 1).work(channel)
    return channel.picture_of(1)


@pytest.fixture(scope="module")
def flux() -> LoadedPipeline:
    torch.set_num_threads(1)  # such small tensors are not worth a second thread
    folder = str(tiny_families.folder("flux", "FLUX.1-dev"))
    return loading.load(EngineConfig(engine="diffusers", device="cpu", model_id=folder), lambda stage: None)


@pytest.fixture
def bare(flux: LoadedPipeline, tmp_path: Path) -> Path:
    """The small Flux's folder without the weights of its transformer."""
    folder = Path(shutil.copytree(flux.found.folder, tmp_path / "FLUX.1-dev"))
    for file in (folder / "transformer").glob("*.safetensors"):
        file.unlink()
    return folder


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_a_network_in_one_file_draws_the_same_picture(
    kind: str, flux: LoadedPipeline, bare: Path, tmp_path: Path
) -> None:
    """The same weights, not quantised, give the same pixels (GGUF: to the last bit but one); the folder needs none."""
    transformer = flux.pipeline.transformer
    if kind == "gguf":
        file = save_gguf(transformer, tmp_path / "a.gguf", "flux")
    else:
        file = tmp_path / "a.safetensors"
        save_file(transformer.state_dict(), file)
    loaded = load(bare, file)
    assert difference(picture(loaded), picture(flux)) <= (1 if kind == "gguf" else 0)
    assert any(file.name in notice for notice in loaded.notices)


def test_a_quantised_file_stays_small(flux: LoadedPipeline, bare: Path, tmp_path: Path) -> None:
    """Its matrices are kept as they are and counted so, and the picture is nearly the one of the whole weights."""
    file = save_gguf(flux.pipeline.transformer, tmp_path / "q8.gguf", "flux", quantised=True)
    loaded = load(bare, file)
    kinds = {type(weight).__name__ for weight in loaded.pipeline.transformer.parameters()}
    assert "GGUFParameter" in kinds
    assert loaded.size.parts["transformer"] == file.stat().st_size < flux.size.parts["transformer"]
    assert difference(picture(loaded), picture(flux)) <= 16


def test_a_gguf_is_not_quantised_again(tmp_path: Path) -> None:
    """A card that it does not fit is told so, or gets it in parts; fp8 and nf4 are not for it."""
    config = EngineConfig(engine="diffusers", model_id="a/b", model_file="a/b/q4.gguf")
    size = ModelSize({"transformer": 7 * GB, "text_encoder_2": 5 * GB, "vae": GB // 10}, 2, 1024 * 1024)
    memory = Memory(12 * GB, 11 * GB, 32 * GB)
    plan = planning.choose(
        config, FoundModel(tmp_path, "a/b"), {}, size, torch.device("cuda"), read=lambda device: memory
    )
    assert plan.quantisation == "none"


def test_a_file_of_another_architecture_is_refused_with_both_names(bare: Path, tmp_path: Path) -> None:
    """What the file says it is and what the model draws with stand in the reason."""
    config = EngineConfig(engine="diffusers", device="cpu", model_id=str(tiny_pipelines.folder("sd3")))
    other = loading.load(config, lambda stage: None).pipeline.transformer
    file = save_gguf(other, tmp_path / "sd3.gguf", "sd3")
    with pytest.raises(ModelLoadError) as raised:
        load(bare, file)
    assert raised.value.permanent
    for word in ("sd3.gguf", "architecture sd3", "FLUX.1-dev", "FluxTransformer2DModel"):
        assert word in str(raised.value)


def test_a_network_alone_needs_its_pipelines_name(tmp_path: Path) -> None:
    """Without MODEL_ID the reason says what to set; so it does for pickles and for what is no model at all."""
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match="MODEL_ID must name the pipeline"):
        load(None, tmp_path / "a.gguf")
    with pytest.raises(ModelLoadError, match="pickle"):
        load(None, "owner/repo/a.ckpt")
    (tmp_path / "a.txt").write_bytes(b"no model")
    with pytest.raises(ModelLoadError, match=r"takes a \.gguf or \.safetensors file, which a\.txt is not"):
        load(None, tmp_path / "a.txt")
    (tmp_path / "b.gguf").write_bytes(b"no GGUF at all")
    with pytest.raises(ModelLoadError, match=r"b\.gguf \(no readable GGUF"):
        load(tiny_pipelines.folder("sd3"), tmp_path / "b.gguf")


def test_a_whole_checkpoint_takes_its_configuration_from_model_id(tmp_path: Path) -> None:
    """A finetune in one file, with the folder of the model that it was made from: no hub is asked."""
    file = save_single_file(tiny_pipelines.folder("sd"), tmp_path / "finetune.safetensors")
    loaded = load(tiny_pipelines.folder("sd"), file)
    assert type(loaded.pipeline).__name__ == "StableDiffusionPipeline"
    assert not model_file.ModelFile(file, network_alone=False).is_gguf
