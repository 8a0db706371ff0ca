"""A memory plan is carried out: here on the CPU, where every way of laying weights out draws the same pictures."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError
from inference_server.engines.diffusers import gpu_memory, placing, planning
from inference_server.engines.diffusers.engine import DiffusersEngine
from inference_server.engines.diffusers.gpu_memory import GpuBusyError
from inference_server.engines.diffusers.loading import load
from inference_server.engines.diffusers.memory_plan import EVERYTHING, Memory, ModelSize
from inference_server.engines.model_folder import FoundModel
from inference_server.messages import Draw
from tests.support import tiny_pipelines
from tests.support.diffusers_channel import ScriptedChannel, difference, order, own_picture
from tests.support.model_hub import running_model_hub
from tests.support.processes import REPOSITORY
from tests.support.single_files import save_single_file

pytestmark = [pytest.mark.slow]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    """Such small tensors are not worth a second one."""
    torch.set_num_threads(1)


CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SCHEDULER = "FlowMatchEulerDiscreteScheduler"
MEGA = 10**6
DOWNLOAD = (sys.executable, "-m", "inference_server.download")


def _config(kind: str, **options: Any) -> EngineConfig:
    return EngineConfig(
        engine="diffusers", model_id=str(tiny_pipelines.folder(kind)), device="cpu", **{"max_batch": 2, **options}
    )


def _draw(engine: DiffusersEngine, one: Draw) -> Any:
    channel = ScriptedChannel(one)
    channel.close()
    engine.work(channel)
    return channel.picture_of(one.number)


@pytest.mark.parametrize("kind", ["sdxl", "sd3_t5"])
def test_weights_in_fp8_draw_almost_the_same(kind: str) -> None:
    """A byte a weight in network and text encoders; shared steps and whole calls take them alike."""
    engine = DiffusersEngine(_config(kind, memory_plan="fp8"), lambda stage: None)
    pipeline = engine._loaded.pipeline
    for part in (getattr(pipeline, "unet", None) or pipeline.transformer, pipeline.text_encoder):
        assert any(weight.dtype == placing.FP8 for weight in part.parameters())
    assert all(weight.dtype == torch.float32 for weight in pipeline.vae.parameters())
    one = order(1, scheduler=engine.model_info.scheduler)
    assert 0 < difference(_draw(engine, one), own_picture(kind, one.params)) < 60


@pytest.mark.parametrize("placement", ["encoders", "blocks"])
def test_parts_that_are_brought_when_they_are_needed_draw_the_same(placement: Any) -> None:
    """Layer by layer and block by block: the picture of the seed, to the last bit."""
    loaded = load(_config("sd3_t5"), lambda stage: None)
    placing.place(loaded.pipeline, CPU, replace(EVERYTHING, placement=placement), torch.float32)
    picture = loaded.pipeline(
        "a pear",
        width=64,
        height=64,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images[0]
    params = order(1, scheduler=SCHEDULER, prompt="a pear", num_inference_steps=2, guidance_scale=7.0).params
    assert difference((picture * 255).round(), own_picture("sd3_t5", params)) == 0


def test_nf4_is_what_the_pipeline_is_loaded_in() -> None:
    """bitsandbytes' 4 bits for the network, and for text encoders that stay on the card; not for those that do not."""
    parts = {"transformer": 1, "text_encoder": 1, "text_encoder_2": 1, "vae": 1}
    plan = replace(EVERYTHING, quantisation="nf4")
    config = placing.load_options(plan, parts, torch.bfloat16)["quantization_config"]
    assert isinstance(config, diffusers.PipelineQuantizationConfig)
    assert config.quant_backend == "bitsandbytes_4bit"
    assert config.quant_kwargs["bnb_4bit_quant_type"] == "nf4"
    assert config.quant_kwargs["bnb_4bit_compute_dtype"] == torch.bfloat16
    assert config.components_to_quantize == ["transformer", "text_encoder", "text_encoder_2"]
    assert placing.quantised_parts(replace(plan, placement="encoders"), parts) == ["transformer"]
    assert placing.load_options(EVERYTHING, parts, torch.bfloat16) == {}


def _choose(memory: Memory, plan: str = "auto") -> Any:
    folder = tiny_pipelines.folder("sd")
    size = ModelSize({"transformer": 6000 * MEGA, "text_encoder": 4000 * MEGA, "vae": 160 * MEGA})
    config = EngineConfig(engine="diffusers", memory_plan=plan)  # type: ignore[arg-type]
    return planning.choose(config, FoundModel(folder, "a/model"), {}, size, GPU, read=lambda device: memory)


def test_a_model_that_is_too_large_is_refused_with_one_that_fits() -> None:
    """What it needs, what the card has and what to take instead; it is not tried again."""
    with pytest.raises(
        planning.UnfitModelError, match=r"a/model does not fit.*11\.7 GB.*On this card \S+ fits"
    ) as unfit:
        _choose(Memory(6_000 * MEGA, 5_500 * MEGA), "full")
    assert unfit.value.permanent


def test_a_card_that_others_use_is_busy_and_not_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leanest plan would fit if they were gone: that is tried again."""

    def require_free(device: torch.device, needed_bytes: int) -> None:
        raise GpuBusyError(f"gpu-busy: {needed_bytes}")

    monkeypatch.setattr(gpu_memory, "require_free", require_free)
    with pytest.raises(GpuBusyError):
        _choose(Memory(24_000 * MEGA, 1_000 * MEGA), "full")


def test_a_model_without_a_card_has_no_plan() -> None:
    """On a CPU all of it is in the machine's memory, and nothing is said of it."""
    engine = DiffusersEngine(_config("sd"), lambda stage: None)
    assert engine.model_info.memory_plan == ""


def test_pickle_files_are_refused(tmp_path: Path) -> None:
    """As a file, and as the weights of a folder's part: loading one would run its code."""
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"code")
    with pytest.raises(ModelLoadError, match=r"model\.ckpt is a pickle file.*only \.safetensors") as refused:
        load(EngineConfig(engine="diffusers", model_id=str(file)), lambda stage: None)
    assert refused.value.permanent
    folder = tiny_pipelines.save_sd(tmp_path / "sd")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"weights of unet.*diffusion_pytorch_model\.bin alone"):
        load(EngineConfig(engine="diffusers", model_id=str(folder)), lambda stage: None)


def test_a_model_of_modular_blocks_alone_is_refused_by_name(tmp_path: Path) -> None:
    """With one that is drawn with instead; whatever its blocks are, no code of theirs is run."""
    (tmp_path / "modular_model_index.json").write_text('{"_class_name": "Flux3DistilledModularPipeline"}')
    with pytest.raises(ModelLoadError, match=r"Flux3DistilledModularPipeline.*FLUX\.2-klein-4B") as refused:
        load(EngineConfig(engine="diffusers", model_id=str(tmp_path)), lambda stage: None)
    assert refused.value.permanent


def test_modular_blocks_on_the_hub_are_refused_too(tmp_path: Path) -> None:
    """Before anything large is fetched."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "modular_model_index.json").write_text('{"_class_name": "Flux3DistilledModularPipeline"}')
    with running_model_hub("owner/model", tmp_path / "model", None) as hub:
        done = subprocess.run(
            [*DOWNLOAD, "--engine", "diffusers", "--model-id", "owner/model", str(tmp_path / "into")],
            cwd=REPOSITORY,
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=150,
        )
    assert done.returncode == 1
    assert "owner/model holds Flux3DistilledModularPipeline" in done.stderr
    assert "FLUX.2-klein-4B" in done.stderr


def test_a_checkpoint_in_one_file_draws_as_its_folder_does(tmp_path: Path) -> None:
    """In the layout in which finetunes are published; configuration and tokenizer come from the folder it lies in."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipelines.folder("sd"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    file = save_single_file(tiny_pipelines.folder("sd"), folder / "dreamy.safetensors")
    config = EngineConfig(engine="diffusers", model_id=str(file), device="cpu", max_batch=2)
    engine = DiffusersEngine(config, lambda stage: None)
    info, one = engine.model_info, order(1)
    assert (info.pipeline, info.width_px, info.num_inference_steps) == ("StableDiffusionPipeline", 64, 25)
    assert difference(_draw(engine, one), own_picture("sd", one.params)) <= 2


@pytest.mark.parametrize(
    ("weights", "reason"),
    [({"some.weight": 1}, "no model that diffusers knows"), (None, "cannot be read")],
)
def test_a_file_that_is_no_model_is_told(tmp_path: Path, weights: dict[str, int] | None, reason: str) -> None:
    """A .safetensors file of something else, and one that is none."""
    file = tmp_path / "model.safetensors"
    if weights is None:
        file.write_bytes(b"none")
    else:
        save_file({name: torch.zeros(size) for name, size in weights.items()}, file)
    with pytest.raises(ModelLoadError, match=reason):
        load(EngineConfig(engine="diffusers", model_id=str(file)), lambda stage: None)
