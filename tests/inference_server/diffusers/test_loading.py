"""What is loaded: device, precision, files, and what is said when it cannot be."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError
from inference_server.engines.diffusers import cuda_errors, devices, loading, weights
from inference_server.engines.diffusers.engine import DiffusersEngine, WarmUpChannel, shares_steps
from inference_server.messages import DrawFailed
from tests.support import tiny_pipelines
from tests.support.diffusers_channel import loaded, model_info, order

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def _load(model_id: str | None, **options: str) -> DiffusersEngine:
    values = {"engine": "diffusers", "model_id": model_id, "device": "cpu"} | options
    return DiffusersEngine(EngineConfig.model_validate(values), lambda stage: None)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with the small Stable Diffusion, to be spoilt."""
    return Path(shutil.copytree(tiny_pipelines.folder("sd"), tmp_path / "model"))


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        (None, torch.float32),
        ("", torch.float32),
        ("fp16", torch.float16),
        ("torch.bfloat16", torch.bfloat16),
        ("FP32", torch.float32),
    ],
)
def test_precision_goes_by_the_names_that_people_use(precision: str | None, dtype: torch.dtype) -> None:
    """Without one the CPU draws in fp32."""
    assert loading.choose_dtype(precision, CPU) == dtype


def test_half_precision_is_what_is_fetched_for_a_gpu() -> None:
    """Before it is known which model it is, and without a word on precision."""
    assert loading.choose_dtype(None, torch.device("cuda")) == torch.float16


def test_an_unknown_precision_or_device_is_refused_by_name() -> None:
    """With what there is."""
    with pytest.raises(ModelLoadError, match=r"'fp8'.*fp16, bf16 and fp32"):
        loading.choose_dtype("fp8", CPU)
    with pytest.raises(ModelLoadError, match=r"'tpu'.*cuda and cpu"):
        devices.choose_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_that_is_not_there_is_told() -> None:
    """Asked for, it is an error that says what to do; not asked for, the CPU draws."""
    with pytest.raises(ModelLoadError, match="CUDA is asked for, and there is none here"):
        devices.choose_device("cuda")
    assert devices.choose_device(None) == CPU


def test_the_demo_model_is_not_this_engines() -> None:
    """Without a model id the maintainer is told which engine draws it."""
    with pytest.raises(ModelLoadError, match=r"MODEL_ID.*openvino"):
        _load(None)


@pytest.mark.parametrize("spoilt", ["index", "unet", "class"])
def test_a_broken_folder_is_told_in_one_line(copy: Path, spoilt: str) -> None:
    """No index, weights that are none, a pipeline class that does not exist."""
    if spoilt == "index":
        (copy / "model_index.json").unlink()
    elif spoilt == "unet":
        (copy / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"none")
    else:
        index = json.loads((copy / "model_index.json").read_text())
        (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "NoSuchPipeline"}))
    with pytest.raises(ModelLoadError) as raised:
        _load(str(copy))
    assert "\n" not in str(raised.value)
    assert str(copy) in str(raised.value)


def test_a_models_own_code_is_not_run(copy: Path) -> None:
    """A folder that names a class in a file of its own is refused, and the file is not imported."""
    (copy / "unet" / "own_unet.py").write_text("raise SystemExit('it was run')\n")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"unet": ["own_unet", "OwnUNet"]}))
    with pytest.raises(ModelLoadError):
        _load(str(copy))


def test_the_half_precision_variant_is_taken_where_it_is_wanted_or_all_there_is(tmp_path: Path) -> None:
    """By the file names of the hub."""
    pipeline = loaded("sd").pipeline
    pipeline.save_pretrained(tmp_path, variant="fp16")
    assert weights.choose_variant(tmp_path, torch.float32) == "fp16"
    assert _load(str(tmp_path)).model_info.pipeline == "StableDiffusionPipeline"
    pipeline.save_pretrained(tmp_path)
    assert weights.choose_variant(tmp_path, torch.float32) is None
    assert weights.choose_variant(tmp_path, torch.float16) == "fp16"


@pytest.mark.parametrize(("has_fp16", "asked"), [(True, ["fp16"]), (False, ["fp16", None])])
def test_a_model_of_the_hub_comes_in_half_precision_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, has_fp16: bool, asked: list[str | None]
) -> None:
    """The smaller files are asked for first; a model without them is fetched as it is, in the revision named."""
    fetched: list[str | None] = []

    def download(model_id: str, revision: str | None, use_safetensors: bool, variant: str | None = None) -> Path:
        assert (model_id, revision, use_safetensors) == ("owner/name", "v2", True)
        fetched.append(variant)
        if variant is not None and not has_fp16:
            raise ValueError("You are trying to load model files of the `variant=fp16`, but no such modeling files ...")
        return tiny_pipelines.folder("sd")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    engine = _load("owner/name", model_revision="v2", model_precision="fp16")
    assert engine.model_info.name == "owner/name"
    assert fetched == asked


def _count(folder: Path, dtype: torch.dtype) -> int:
    return sum(weights.part_bytes(folder, loading.read_index(folder), dtype, None).values())


def test_weights_are_counted_in_the_precision_they_are_loaded_in() -> None:
    """Within some percent of the parameters' own bytes, which leaves out file headers."""
    model, folder = loaded("sd"), tiny_pipelines.folder("sd")
    parts = (model.pipeline.unet, model.pipeline.vae, model.pipeline.text_encoder)
    parameters = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert _count(folder, torch.float32) == pytest.approx(4 * parameters, rel=0.1)
    assert _count(folder, torch.float16) == pytest.approx(2 * parameters, rel=0.1)


def test_only_the_weights_that_the_model_is_made_of_are_counted(copy: Path) -> None:
    """A clone of a repository may hold much else; counted too, it would make a GPU look too small that is not."""
    counted = _count(copy, torch.float32)
    shutil.copytree(copy / "unet", copy / "unet_for_training")
    assert _count(copy, torch.float32) == counted


def test_model_info_says_what_can_be_drawn() -> None:
    """Any size in steps of 8 px up to 1024, for a model of small pictures; the model's own scheduler first."""
    info = model_info("sd")
    assert (info.width_px, info.height_px, info.side_multiple_px, info.max_side_px) == (64, 64, 8, 1024)
    assert info.scheduler == info.schedulers[0] == "DDIMScheduler"
    assert "DEISMultistepScheduler" in info.schedulers
    assert not info.gpu


def test_a_file_of_defaults_has_the_last_word(copy: Path) -> None:
    """`defaults.json` beside the index, as with the other engine."""
    (copy / "defaults.json").write_text(json.dumps({"num_inference_steps": 7, "max_side_px": 256}))
    info = _load(str(copy)).model_info
    assert (info.num_inference_steps, info.max_side_px) == (7, 256)


def test_distilled_and_transformer_models_have_defaults_of_their_own() -> None:
    """Four steps for a latent consistency model; what the pipeline's own call has for Stable Diffusion 3."""
    lcm, sd3 = model_info("lcm"), model_info("sd3")
    assert (lcm.num_inference_steps, lcm.guidance_scale) == (4, 8.5)
    assert (sd3.num_inference_steps, sd3.guidance_scale) == (28, 7.0)
    assert sd3.side_multiple_px == 16
    assert sd3.schedulers == ("FlowMatchEulerDiscreteScheduler",)


@pytest.mark.parametrize(("kind", "shares"), [("sd", True), ("sdxl", True), ("lcm", True), ("sd3", False)])
def test_unet_pipelines_share_the_steps_of_a_unet(kind: str, shares: bool) -> None:
    """Every other pipeline goes by an adapter or by its own call."""
    assert shares_steps(loaded(kind).pipeline) is shares


def test_the_engine_is_ready_once_it_has_drawn() -> None:
    """The warm-up draws by the way of all pictures, with either loop."""
    for kind, at_once in (("sd_mild", 16), ("sd3", 4)):
        engine = _load(str(tiny_pipelines.folder(kind)))
        engine.warm_up()
        assert engine.model_info.images_at_once == at_once


@pytest.mark.parametrize(("max_batch", "at_once", "ahead"), [(1, 1, 0), (2, 2, 2)])
def test_the_maintainers_bound_holds_for_what_is_drawn_side_by_side(max_batch: int, at_once: int, ahead: int) -> None:
    """`max_batch` bounds what the engine says of itself, and with it what it is given ahead of time."""
    folder = str(tiny_pipelines.folder("sd"))
    config = EngineConfig(engine="diffusers", model_id=folder, device="cpu", max_batch=max_batch)
    info = DiffusersEngine(config, lambda stage: None).model_info
    assert (info.images_at_once, info.images_ahead) == (at_once, ahead)


def test_a_first_picture_that_fails_is_a_model_that_does_not_load(copy: Path) -> None:
    """Weights of not-a-number load without complaint; the warm-up tells."""
    engine = _load(str(copy))
    torch.nn.init.constant_(engine._drawer._decoder._vae.decoder.conv_out.bias, float("nan"))  # type: ignore[union-attr]
    with pytest.raises(ModelLoadError, match="first picture failed"):
        engine.warm_up()


def test_a_first_picture_that_memory_is_too_short_for_says_so() -> None:
    """The warm-up's failure has its cause with it, so that a GPU in use is told from one that is too small."""
    channel = WarmUpChannel(order(0).params)
    channel.tell(DrawFailed(0, cuda_errors.out_of_memory_reason(64, 64)))
    with pytest.raises(ModelLoadError, match="first picture failed") as caught:
        channel.check()
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
