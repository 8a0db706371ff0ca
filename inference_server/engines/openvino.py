"""The OpenVINO GenAI engine: Stable Diffusion, LCM, SDXL, SD3 and Flux from OpenVINO IR folders, on the CPU.

One pipeline, used by one thread at a time (it cannot be cloned from Python); a change of scheduler is part of a
drawing and undone after it. The callback runs on a thread of the library's and must never raise: an exception there
ends the whole process.
Source: https://docs.openvino.ai/2026/openvino-workflow-generative/inference-with-genai.html
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino_genai

from inference_server.engine_config import EngineConfig
from inference_server.engines import WorkChannel, one_at_a_time, safety_checker, spoilt
from inference_server.engines.compiled_openvino import CompiledModel
from inference_server.engines.model_folder import FoundModel, find, read_json, read_model_info, read_scheduler_config
from inference_server.engines.one_at_a_time import DrawingStoppedError, OnStep
from inference_server.engines.previews import DdimLevels, PreviewMap
from inference_server.engines.prompt_window import unused_words
from inference_server.engines.scheduler_names import KNOWN, class_of
from inference_server.messages import Draw, Drawn, GenerationParams, ModelInfo, RawImage

# The library takes LMS_DISCRETE too, and draws with DDIM (2026.4): LMS is not offered.
SCHEDULERS = {
    "DDIMScheduler": "DDIM",
    "EulerDiscreteScheduler": "EULER_DISCRETE",
    "EulerAncestralDiscreteScheduler": "EULER_ANCESTRAL_DISCRETE",
    "PNDMScheduler": "PNDM",
    "LCMScheduler": "LCM",
    "FlowMatchEulerDiscreteScheduler": "FLOW_MATCH_EULER_DISCRETE",
}
PREVIEW_EVERY_S = 0.3
BOS_AND_EOS = 2  # tokens of a window that hold no word
# Some CPUs would take bf16 by themselves. Source: OpenVINO, inference_precision (CPU plugin)
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
WARM_UP_PROMPTS = ("a red apple", "a blue bird")


class SpoiltPictureError(Exception):
    """What was drawn is no picture; the text says what it is and what to do."""


def offered_schedulers(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The schedulers that give good pictures with a model whose own scheduler has this config."""
    own = config.get("_class_name")
    if own in ("FlowMatchEulerDiscreteScheduler", "LCMScheduler"):
        return (str(own),)  # trained for this one alone
    # LCM with a model that was not distilled for it draws noise or ends the process. PNDM washes the colours out and
    # breaks below some 15 steps where the last noise level has no signal at all (zero terminal SNR).
    unfit = {"LCMScheduler", "FlowMatchEulerDiscreteScheduler"}
    if config.get("rescale_betas_zero_snr"):
        unfit.add("PNDMScheduler")
    classes = [name for name in SCHEDULERS if name not in unfit]
    return (*classes, *(known for known, (kind, settings) in KNOWN.items() if kind in classes and not settings))


def read_own_model_info(found: FoundModel) -> ModelInfo:
    """What the library makes of the model: with DDIM it draws those too whose own scheduler is LMS.

    Raises: ModelLoadError
    """
    model_info = read_model_info(found, offered_schedulers)
    if model_info.scheduler != "LMSDiscreteScheduler":
        return model_info
    known = tuple(name for name in model_info.schedulers if name in SCHEDULERS)
    return dataclasses.replace(model_info, scheduler="DDIMScheduler", schedulers=known)


class OpenVinoEngine:
    """A `Text2ImagePipeline` on the CPU, loaded from a folder."""

    def __init__(self, config: EngineConfig, report: Callable[[str], None]) -> None:
        found = find(config, report)
        report("loading the model")
        self.model_info = read_own_model_info(found)
        self._encoder_prompt = found.encoder_prompt
        self._scheduler_config = read_scheduler_config(found.folder)
        self._compiled = CompiledModel(config.compile_cache, found.folder)
        self._load = partial(openvino_genai.Text2ImagePipeline, str(found.folder), "CPU")
        self._pipeline, self._is_exact = self._compiled.load(self._load), False
        self._own = self._scheduler = (self.model_info.scheduler, self._scheduler_config.get("timestep_spacing"))
        self._previews = PreviewMap()
        self._window = _PromptWindow(found)
        index = read_json(found.folder / "model_index.json")
        self._checker, notice = safety_checker.load_for(config, found.folder, index, report)
        if notice:
            self.model_info = dataclasses.replace(self.model_info, notices=(*self.model_info.notices, notice))

    def warm_up(self) -> None:
        """Two small pictures of one step each: memory is laid out, and the previews learn their first colours."""
        model_info = self.model_info
        for seed, prompt in enumerate(WARM_UP_PROMPTS):
            self.draw(
                Draw(
                    0,
                    GenerationParams(
                        prompt=prompt,
                        negative_prompt="",
                        width_px=model_info.width_px,
                        height_px=model_info.height_px,
                        num_inference_steps=1,
                        guidance_scale=model_info.guidance_scale,
                        scheduler=model_info.scheduler,
                        seeds=(seed,),
                    ),
                ),
                lambda step, num_steps, preview: False,
            )
        self._compiled.works()

    def work(self, channel: WorkChannel) -> None:
        one_at_a_time.work(channel, self.draw)

    def draw(self, order: Draw, on_step: OnStep) -> Drawn:
        """One picture after the other, each from its own seed, so that a seed alone gives the same picture.

        Raises: SpoiltPictureError, DrawingStoppedError, what the library raises.
        """
        drawn = self._draw(order, on_step)
        wrong = _what_is_wrong(drawn)
        if wrong is None:
            return self._checked(drawn, order)
        if not self._is_exact:
            print(f"a picture is {wrong}: the model is loaded again, in fp32", flush=True)
            self._pipeline = self._load(**EXACT)
            self._is_exact, self._scheduler = True, self._own
            drawn = self._draw(order, on_step)
            wrong = _what_is_wrong(drawn)
        if wrong is not None:
            raise SpoiltPictureError(spoilt.reason(wrong, "fp32"))
        return self._checked(drawn, order)

    def _checked(self, drawn: Drawn, order: Draw) -> Drawn:
        return safety_checker.checked(drawn, self._checker, wanted=order.params.safety_checker)

    def _draw(self, order: Draw, on_step: OnStep) -> Drawn:
        started_s, params = time.monotonic(), order.params
        self._use_scheduler(class_of(params.scheduler)[0], self._spacing(params.num_inference_steps))
        try:
            images = tuple(self._draw_one(params, image, on_step) for image in range(len(params.seeds)))
        finally:
            self._use_scheduler(*self._own)
        return Drawn(
            order.number,
            images,
            time.monotonic() - started_s,
            unused_words=self._window.unused_words(params.prompt),
            unused_negative_words=self._window.unused_words(params.negative_prompt) if _is_guided(params) else (),
        )

    def _draw_one(self, params: GenerationParams, image: int, on_step: OnStep) -> RawImage:
        watch = _StepWatch(params, image, on_step, self._previews, self._levels(params))
        # Below 1 the library draws without guidance and refuses a negative prompt.
        negative_prompt = self._encoder_prompt(params.negative_prompt, negative=True)
        negative = {"negative_prompt": negative_prompt} if _is_guided(params) else {}
        result = self._pipeline.generate(
            self._encoder_prompt(params.prompt),
            width=params.width_px,
            height=params.height_px,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            num_images_per_prompt=1,
            generator=openvino_genai.CppStdGenerator(params.seeds[image]),
            callback=watch.on_callback,
            **negative,
        )
        if watch.error is not None:
            raise watch.error
        if watch.stopped:
            raise DrawingStoppedError
        picture = np.ascontiguousarray(result.data[0])  # (H, W, 3) uint8
        if watch.latents is not None:
            self._previews.learn(watch.latents, picture)
        return RawImage(picture.shape[1], picture.shape[0], picture.tobytes())

    def _levels(self, params: GenerationParams) -> DdimLevels | None:
        """For previews without noise; the library's other schedulers hand out denoised latents or cannot tell."""
        if class_of(params.scheduler)[0] != "DDIMScheduler":
            return None
        try:
            config = {**self._scheduler_config, "timestep_spacing": self._spacing(params.num_inference_steps)}
            return DdimLevels(config, params.num_inference_steps)
        except ValueError:
            return None

    def _spacing(self, num_inference_steps: int) -> str | None:
        """The model's own timestep spacing, unless the library miscounts it for this number of steps."""
        own: str | None = self._scheduler_config.get("timestep_spacing")
        if own == "trailing" and trailing_is_miscounted(self._scheduler_config, num_inference_steps):
            return "linspace"  # it begins at the same, noisiest timestep
        return own

    def _use_scheduler(self, name: str, spacing: str | None) -> None:
        if (name, spacing) == self._scheduler:
            return
        config = {**self._scheduler_config, "timestep_spacing": spacing}
        config["skip_prk_steps"] = True  # the library's PNDM knows no other; the rest ignore it
        if spacing is None:
            del config["timestep_spacing"]
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(config, file)
            file.flush()
            kind = getattr(openvino_genai.Scheduler.Type, SCHEDULERS[name])
            self._pipeline.set_scheduler(openvino_genai.Scheduler.from_config(file.name, kind))
        self._scheduler = (name, spacing)


def _what_is_wrong(drawn: Drawn) -> str | None:
    """With the first picture that is none; None with all of the warm-up's."""
    if drawn.number == spoilt.WARM_UP_NUMBER:
        return None
    found = (spoilt.what_is_wrong(np.frombuffer(image.rgb, np.uint8)) for image in drawn.images)
    return next(filter(None, found), None)


class _PromptWindow:
    """The windows of the model's text encoders, counted with its own tokenizers.

    A tokenizer takes 0.2 s to load: it is loaded with the first text that may be too long for a window. An encoder
    whose configuration names no window (T5) sees far more words: then none is told as unused.
    """

    def __init__(self, found: FoundModel) -> None:
        folder, self._encoder_prompt = found.folder, found.encoder_prompt
        self._windows: list[tuple[Path, int]] = []  # tokenizer's folder, tokens with BOS and EOS
        for encoder in sorted(folder.glob("text_encoder*")):
            tokenizer = folder / encoder.name.replace("text_encoder", "tokenizer")
            self._windows.append((tokenizer, read_json(encoder / "config.json").get("max_position_embeddings", 0)))

    def unused_words(self, text: str) -> tuple[str, ...]:
        """Those that no encoder sees."""
        shortest = min((window for _, window in self._windows), default=0)
        if not shortest or len(text.encode()) + BOS_AND_EOS <= shortest:  # a token is at least a byte
            return ()
        unused = [unused_words(text, partial(self._count_tokens, tokenizer), size) for tokenizer, size in self._windows]
        return min(unused, key=len)

    def _count_tokens(self, tokenizer: Path, text: str) -> int:
        """Of what the text encoder is given for `text`, with BOS and EOS."""
        encoded = _tokenizer(tokenizer).encode(self._encoder_prompt(text, negative=True))
        return int(encoded.attention_mask.data.sum())


@cache
def _tokenizer(folder: Path) -> Any:
    return openvino_genai.Tokenizer(folder)


def _is_guided(params: GenerationParams) -> bool:
    """Up to 1 the library draws without guidance and refuses a negative prompt."""
    return params.guidance_scale > 1


def trailing_is_miscounted(config: Mapping[str, Any], num_inference_steps: int) -> bool:
    """Whether the library (2026.4) would take one step too many, at timestep -1, which leaves noise of the picture.

    It counts down from the number of training timesteps in float32, and for some numbers (9, 11, 12, 18, 30 ...) the
    rounding leaves a rest above 0.
    """
    left = np.float32(config.get("num_train_timesteps", 1000))
    stride = np.float32(left / np.float32(num_inference_steps))
    for _ in range(num_inference_steps):
        left = np.float32(left - stride)
    return bool(left > 0)


class _StepWatch:
    """The callback of one picture: tells steps and previews, asks whether to stop, keeps the last latents."""

    def __init__(
        self, params: GenerationParams, image: int, on_step: OnStep, previews: PreviewMap, levels: DdimLevels | None
    ) -> None:
        self._levels = levels
        self._before: Any = None  # latents after the step before
        self._done_before = image * params.num_inference_steps
        self._all_steps = len(params.seeds) * params.num_inference_steps
        self._last_step = params.num_inference_steps - 1
        self._on_step = on_step
        self._previews = previews
        self._preview_at_s = time.monotonic() + PREVIEW_EVERY_S
        self.latents: Any = None  # (C, h, w) float32 after the last step
        self.stopped = False
        self.error: Exception | None = None

    def on_callback(self, step: int, num_steps: int, latent: Any) -> bool:
        """Called by the library after each step, `step` from 0; True stops the drawing."""
        try:
            self.stopped = self._tell(step, latent)
        except Exception as exc:  # raised here it would end the process
            self.error, self.stopped = exc, True
        return self.stopped

    def _tell(self, step: int, latent: Any) -> bool:
        preview, now, latents = None, time.monotonic(), _first(latent)
        if step >= self._last_step:
            self.latents = latents
        elif now >= self._preview_at_s and latents is not None:
            self._preview_at_s = now + PREVIEW_EVERY_S
            preview = self._preview(step, latents)
        self._before = latents
        return self._on_step(self._done_before + min(step, self._last_step) + 1, self._all_steps, preview)

    def _preview(self, step: int, latents: Any) -> RawImage | None:
        if self._levels is not None and self._before is not None:
            latents = self._levels.denoised(step, self._before, latents)
        return self._previews.draw(latents)


def _first(latent: Any) -> Any:
    """The first picture's latents (C, h, w) as float32, copied; None for packed ones, which have no places."""
    data = np.array(latent.data, dtype=np.float32)
    return data[0] if data.ndim == 4 else None
