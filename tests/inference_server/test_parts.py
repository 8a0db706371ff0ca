"""The inference server's parts that need no process: reading requests, limits, model folders, previews."""

import asyncio
import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import openvino_genai
import pytest
from starlette.types import Message

from inference_server import errors
from inference_server import limits as limits_module
from inference_server.config import ConfigError, InferenceConfig, from_command_line, is_loopback, read_config
from inference_server.engines import short_reason
from inference_server.engines.model_folder import FoundModel, read_model_info
from inference_server.engines.openvino import SCHEDULERS, read_own_model_info, trailing_is_miscounted
from inference_server.engines.previews import DdimLevels, PreviewMap
from inference_server.errors import Refusal, busy
from inference_server.limits import Limits, LimitsOverride, defaults_of_model, of_model
from inference_server.messages import ModelInfo, Ready, Stage, Step
from inference_server.resolve import Offer, check, resolve
from inference_server.responses import StreamResponse
from inference_server.wire import PictureRequest, read_request
from tests.support.inference_engine import EngineBench, MovedClockLoop, run

MODEL_INFO = ModelInfo(
    name="a-model",
    pipeline="StableDiffusionXLPipeline",
    width_px=512,
    height_px=512,
    num_inference_steps=25,
    guidance_scale=7.5,
    scheduler="EulerDiscreteScheduler",
    schedulers=("EulerDiscreteScheduler", "DDIMScheduler"),
    max_side_px=512,
    side_multiple_px=64,
)


def request(model_inputs: dict[str, Any] | None = None, **call_inputs: Any) -> PictureRequest:
    inputs = {"prompt": "a cat", **(model_inputs or {})}
    return read_request(json.dumps({"modelInputs": inputs, "callInputs": call_inputs}).encode())


def offer(lenient: bool = False, override: LimitsOverride | None = None) -> Offer:
    limits = (override or LimitsOverride()).over(of_model(MODEL_INFO))
    return Offer(MODEL_INFO.name, limits, MODEL_INFO, defaults_of_model(MODEL_INFO, limits), lenient)


def test_a_request_without_more_gets_the_models_defaults() -> None:
    """Only the prompt is needed; the rest is what the model draws best."""
    params = resolve(request(), offer()).params
    assert (params.width_px, params.height_px) == (512, 512)
    assert (params.num_inference_steps, params.guidance_scale) == (25, 7.5)
    assert params.scheduler == "EulerDiscreteScheduler"
    assert len(params.seeds) == 1


@pytest.mark.parametrize(
    ("asked", "told"),
    [("lossless WebP", "WEBP_LOSSLESS"), ("webp-lossless", "WEBP_LOSSLESS"), ("jpg", "JPEG"), ("GIF", "GIF"), ("", "")],
)
def test_formats_go_by_their_usual_spellings_too(asked: str, told: str) -> None:
    """A picture's format is known by what people call it; a name that is none passes on, to be refused as it came."""
    body = json.dumps({"modelInputs": {"prompt": "a cat"}, "callInputs": {"image_format": asked}}).encode()
    assert read_request(body).call.image_format == told


def test_whole_floats_count_as_integers() -> None:
    """Clients whose language has one kind of number may send 20.0 steps."""
    assert resolve(request({"num_inference_steps": 20.0, "seed": 7.0}), offer()).params.seeds == (7,)


def test_the_digest_tells_bodies_apart_but_not_how_they_are_streamed() -> None:
    """The same picture asked for twice is the same request, streamed or not."""
    plain, streamed = request(startRequestId="x"), request(startRequestId="x", streamEvents=1)
    assert plain.digest == streamed.digest
    assert plain.digest != request({"seed": 1}, startRequestId="x").digest
    assert plain.digest != request(SCHEDULER="DDIMScheduler", startRequestId="x").digest


def test_before_the_model_is_known_only_static_limits_refuse() -> None:
    """A size that some model could draw passes until the model is known; what none could does not."""
    unknown = Offer("a-model", Limits(), None, None, False)
    check(request({"width": 1024}), unknown)
    check(request(PIPELINE="StableDiffusionXLPipeline"), unknown)
    for inputs in ({"width": 10_000}, {"num_inference_steps": 251}, {"width": 65}):
        with pytest.raises(Refusal, match="modelInputs"):
            check(request(inputs), unknown)
    with pytest.raises(Refusal) as refused:
        check(request(MODEL_ID="another"), unknown)
    assert refused.value.code == "MODEL_MISMATCH"


def test_a_scheduler_is_judged_once_the_model_is_known() -> None:
    """What some model of diffusers' could offer passes until then; a name that no scheduler has does not."""
    unknown = Offer("a-model", Limits(), None, None, False)
    for name in ("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "LCMScheduler"):
        check(request(SCHEDULER=name), unknown)
        with pytest.raises(Refusal, match="DDIMScheduler"):
            check(request(SCHEDULER=name), offer())
    with pytest.raises(Refusal) as refused:
        check(request(SCHEDULER="NoScheduler"), unknown)
    assert refused.value.code == "INVALID_SCHEDULER"


@pytest.mark.slow
def test_all_of_diffusers_schedulers_for_one_kind_of_model_are_known() -> None:
    """The static list holds whatever `pipe.scheduler.compatibles` may hold."""
    from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

    assert {scheduler.name for scheduler in KarrasDiffusionSchedulers} <= set(limits_module.ALL_SCHEDULERS)


def test_a_models_own_pipeline_and_the_general_one_are_served() -> None:
    """Text to image goes by two names (the tutorial's client takes the general one); any other is refused with them."""
    for name in ("AutoPipelineForText2Image", "StableDiffusionXLPipeline"):
        check(request(PIPELINE=name), offer())
    for name in ("FluxPipeline", "StableDiffusionPipeline"):
        with pytest.raises(Refusal, match="AutoPipelineForText2Image, StableDiffusionXLPipeline") as refused:
            check(request(PIPELINE=name), offer())
        assert refused.value.code == "NO_SUCH_PIPELINE"


def test_what_is_quoted_in_a_refusal_is_short_and_ascii() -> None:
    """A refusal repeats no more of a request than is safe to show."""
    with pytest.raises(Refusal) as refused:
        check(request(SCHEDULER="\n\u202e" + "x" * 5000), offer())
    assert len(refused.value.message) < 400
    assert refused.value.message.isascii()
    assert "\n" not in refused.value.message
    with pytest.raises(Refusal) as refused:
        check(request({"num_inference_steps": 10**4000}), offer())
    assert len(refused.value.message) < 200


def test_a_refusal_has_the_wires_shape() -> None:
    """Code, an exception's name, a message; and when to come back."""
    refusal = busy(32)
    assert json.loads(refusal.body()) == {
        "$error": {
            "code": "BUSY",
            "name": "BusyError",
            "message": "Busy: 32 requests wait already. Try again in a moment.",
        }
    }
    assert refusal.retry_after_s


@pytest.mark.parametrize("refusal", [errors.cannot_draw("no"), errors.failed(), errors.engine_crashed("SIGKILL")])
def test_a_fault_on_this_side_is_a_503(refusal: Refusal) -> None:
    """What is not the client's fault is always a 503: the contract knows no other status beside the 4xx."""
    assert refusal.status == 503
    assert json.loads(refusal.body())["$error"]["message"]


def test_narrower_limits_move_the_defaults() -> None:
    """Defaults lie within the limits of the configuration."""
    override = LimitsOverride(width={"max": 300}, num_inference_steps={"max": 10}, schedulers=("DDIMScheduler",))
    moved = defaults_of_model(MODEL_INFO, override.over(of_model(MODEL_INFO)))
    assert (moved.width, moved.height, moved.num_inference_steps) == (256, 512, 10)
    assert moved.scheduler == "DDIMScheduler"


@pytest.mark.parametrize(
    "override",
    [
        {"width": {"min": 300, "max": 200}},
        {"width": {"min": 65, "max": 127}},
        {"height": {"multiple": 0}},
        {"prompt_chars": {"max": -1}},
        {"schedulers": ("NoScheduler",)},
    ],
)
def test_impossible_limits_are_named(override: dict[str, Any]) -> None:
    """Limits between which nothing lies are refused by name."""
    with pytest.raises(ValueError, match=rf"limits\.{next(iter(override))}"):
        LimitsOverride.model_validate(override).over(of_model(MODEL_INFO))


def write_model(folder: Path, files: dict[str, Any]) -> FoundModel:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return FoundModel(folder, folder.name)


VAE = {"block_out_channels": [128, 256, 512, 512]}


@pytest.mark.parametrize(
    ("name", "scheduler", "sample_size", "expected"),
    [
        ("stable-diffusion-v1-5", "PNDMScheduler", 64, (512, 25, 7.5)),
        ("sdxl-base", "EulerDiscreteScheduler", 128, (1024, 25, 7.5)),
        ("dreamshaper-lcm", "LCMScheduler", 64, (512, 4, 1.0)),
        ("sdxl-turbo", "EulerAncestralDiscreteScheduler", 64, (512, 4, 0.0)),
    ],
)
def test_limits_and_defaults_follow_from_a_models_folder(
    tmp_path: Path, name: str, scheduler: str, sample_size: int, expected: tuple[int, int, float]
) -> None:
    """Size from latents times the autoencoder's scale; distilled models want few steps and no guidance."""
    found = write_model(
        tmp_path / name,
        {
            "model_index.json": {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", scheduler]},
            "unet/config.json": {"sample_size": sample_size},
            "vae_decoder/config.json": VAE,
            "scheduler/scheduler_config.json": {"_class_name": scheduler},
        },
    )
    model_info = read_model_info(found, lambda config: ("DDIMScheduler",))
    assert (model_info.max_side_px, model_info.num_inference_steps, model_info.guidance_scale) == expected
    assert model_info.schedulers == (scheduler, "DDIMScheduler")
    assert model_info.side_multiple_px == 64


def test_every_scheduler_is_one_of_its_own() -> None:
    """No two names stand for the same scheduler of the library: the answer tells which one drew."""
    kinds = [int(getattr(openvino_genai.Scheduler.Type, kind)) for kind in SCHEDULERS.values()]
    assert len(set(kinds)) == len(kinds)


def test_a_model_made_for_lms_is_drawn_with_what_is_told(tmp_path: Path) -> None:
    """Where the library takes another scheduler than the model's own, that other one is the default."""
    files = {
        "model_index.json": {"_class_name": "StableDiffusionPipeline"},
        "scheduler/scheduler_config.json": {"_class_name": "LMSDiscreteScheduler"},
    }
    model_info = read_own_model_info(write_model(tmp_path, files))
    assert model_info.scheduler == "DDIMScheduler"
    assert "LMSDiscreteScheduler" not in model_info.schedulers


def test_defaults_json_wins_and_may_leave_out_or_garble_any_key(tmp_path: Path) -> None:
    """Each good key counts, each bad one is as good as left out."""
    files = {
        "model_index.json": {"_class_name": "X"},
        "unet/config.json": {"sample_size": 64},
        "vae/config.json": VAE,
        "defaults.json": {"height": 256, "width": "wide", "num_inference_steps": 0, "guidance_scale": 2, "more": 1},
    }
    model_info = read_model_info(write_model(tmp_path, files), lambda config: ())
    assert (model_info.height_px, model_info.width_px, model_info.num_inference_steps) == (256, 512, 25)
    assert model_info.guidance_scale == 2.0


def test_a_preview_learns_colours_from_a_finished_picture() -> None:
    """After one picture whose colours are linear in its latents, previews show colours right."""
    random = np.random.default_rng(1)
    mix = random.normal(size=(3, 4))
    latents = random.normal(size=(4, 16, 16)).astype(np.float32)

    def true_picture(x: Any) -> Any:
        return np.clip(128 + 20 * np.einsum("kc,chw->hwk", mix, x), 0, 255).astype(np.uint8)

    previews = PreviewMap()
    assert previews.draw(latents) is None
    previews.learn(latents, np.repeat(np.repeat(true_picture(latents), 8, 0), 8, 1))
    other = random.normal(size=(4, 8, 24)).astype(np.float32)
    drawn = previews.draw(other)
    assert drawn is not None
    assert (drawn.width_px, drawn.height_px) == (24, 8)
    error = np.frombuffer(drawn.rgb, np.uint8).reshape(8, 24, 3).astype(int) - true_picture(other)
    assert np.abs(error).mean() < 8
    assert previews.draw(np.zeros((5, 8, 8), np.float32)) is None


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("zero_snr", [True, False])
def test_two_latents_in_a_row_give_the_denoised_one(spacing: str, zero_snr: bool) -> None:
    """What was mixed with noise by DDIM's rule is found again, at every step."""
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": zero_snr,
    }
    levels = DdimLevels(config, 20)
    random = np.random.default_rng(2)
    picture, noise = (random.normal(size=(4, 8, 8)).astype(np.float32) for _ in range(2))
    for step in range(19):
        before, after = (
            (np.sqrt(alpha) * picture + np.sqrt(1 - alpha) * noise).astype(np.float32)
            for alpha in (levels._from[step], levels._to[step])
        )
        assert np.abs(levels.denoised(step, before, after) - picture).max() < 1e-3


def test_a_stream_has_a_line_every_second() -> None:
    """While a model loads, and while a step takes its time, never more than a second passes without a line."""

    async def story() -> None:
        bench, loop, told_s = EngineBench(), asyncio.get_running_loop(), [0.0]
        assert isinstance(loop, MovedClockLoop)

        async def send(message: Message) -> None:
            told_s.append(loop.moved_s)

        async def nobody_hangs_up() -> Message:
            return await loop.create_future()  # type: ignore[no-any-return]

        stream = StreamResponse(bench.post("a"), lambda ticket, answered: None)
        answer = asyncio.create_task(stream({}, nobody_hangs_up, send))
        for message in (Stage("loading the model"), Ready(MODEL_INFO), Step(1, 1, 5, None)):
            await bench.say(message)
            for _ in range(50):
                await bench.after(0.1)
        answer.cancel()
        assert told_s[-1] > 13
        assert max(after - before for before, after in pairwise(told_s)) < 1.05

    run(story())


def test_a_librarys_error_becomes_one_short_line_without_the_prompt() -> None:
    """Build paths and arguments, the prompt among them, do not reach the wire."""
    told = short_reason(RuntimeError("Exception from /home/x/src/cpp/a.cpp:1:\nshape is wrong\n"))
    assert told == "shape is wrong"
    told = short_reason(RuntimeError("run_() API call failed at /pytorch/torch/csrc/a_b/c.cpp, line 145"))
    assert told == "run_() API call failed"
    told = short_reason(RuntimeError("Expected x == y. (function f at ../aten/src/native/x.cu:84) Try again"))
    assert "aten" not in told
    assert short_reason(OSError("no such file: /models/sd/unet")) == "no such file: /models/sd/unet"
    assert "private" not in short_reason(TypeError("wrong arguments. Invoked with: 'a private wish'"))
    assert len(short_reason(RuntimeError("x" * 5000))) <= 500


def test_secrets_are_in_no_repr(tmp_path: Path) -> None:
    """Bearer and key do not print."""
    path = tmp_path / "endpoint.json"
    path.write_text(json.dumps({"bearer": "secret-bearer", "tls_key": "secret-key", "tls_certificate": "cert"}))
    config = read_config(path)
    assert config.bearer is not None
    assert config.bearer.get_secret_value() == "secret-bearer"
    assert "secret" not in repr(config) + str(config.model_dump())


def test_only_loopback_may_be_open_unless_meant() -> None:
    """Without a bearer the server refuses other addresses, unless --open says that this is meant."""
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert is_loopback(host)
        from_command_line(["--host", host])
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        assert not is_loopback(host)
        with pytest.raises(ConfigError, match="--open"):
            from_command_line(["--host", host])
        from_command_line(["--host", host, "--open"])


def test_the_file_overrides_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model and engine of the environment hold only where the file names none."""
    path = tmp_path / "endpoint.json"
    path.write_text(json.dumps({"model_id": "of-the-file", "lenient": True}))
    assert from_command_line([]).config.model_name == "demo_model"
    monkeypatch.setenv("MODEL_ID", "of-the-environment")
    monkeypatch.setenv("MODEL_REVISION", "r1")
    config = from_command_line(["--config", str(path)]).config
    assert (config.model_id, config.model_revision, config.lenient) == ("of-the-file", "r1", True)
    assert from_command_line([]).config.model_name == "of-the-environment"
    assert InferenceConfig().idle_exit_s == 0


def test_the_limits_on_the_wire_have_the_agreed_shape() -> None:
    """Names and nesting of `limits`, on which clients rely."""
    told = of_model(dataclasses.replace(MODEL_INFO, max_side_px=256)).model_dump(mode="json")
    assert told["width"] == {"min": 64, "max": 256, "multiple": 64}
    assert told["guidance_scale"] == {"min": 0, "max": 30}
    assert told["prompt_chars"] == {"max": 2000}
    assert told["image_formats"] == ["PNG", "WEBP_LOSSLESS", "WEBP", "JPEG"]
    assert set(told) == set(limits_module.Limits.model_fields)


def test_numbers_of_steps_that_the_library_miscounts_are_known() -> None:
    """Those at which OpenVINO GenAI 2026.4 was seen to take one step too many with trailing timesteps."""
    miscounted = [steps for steps in range(1, 41) if trailing_is_miscounted({}, steps)]
    assert miscounted == [9, 11, 12, 18, 21, 22, 30, 31, 34, 35, 36]
