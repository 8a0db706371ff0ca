"""Exports the trained parts to a model folder for OpenVINO GenAI.

`python -m demo_model.training.export FOLDER`: a minute.

Weights become int8, one scale a row; sums stay in floating point. The latents get one more channel, the pose's. The
folder also gets `words.txt`, the names that the model knows. Then: `python -m demo_model.training.pack FOLDER`.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nncf
import openvino as ov
import openvino_tokenizers
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from demo_model.training import networks, pose
from demo_model.training.batches import tokenizer_folder
from demo_model.training.colours import COLOURS, OWN_COLOURS
from demo_model.training.concepts import concepts
from demo_model.training.run_folder import DEFAULT, RunFolder
from demo_model.training.vocabulary import PLACE_NAMES
from demo_model.words import WORDS_NAME

# Between these values (-1 to 1) of its darkest channel a pixel goes over into pure white: 224 to 234 of 255. The
# autoencoder's white is not quite white, and the eye sees it beside a page that is; 236 was the darkest corner of 268
# pictures on white.
_WHITE_FROM, _WHITE_AT = 0.757, 0.835


class _TextEncoder(torch.nn.Module):
    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        output = self.encoder(input_ids.long())
        return output.last_hidden_state, output.pooler_output


class _UNet(torch.nn.Module):
    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        drawn, posing = sample.split((networks.LATENT_CHANNELS, pose.CHANNELS), dim=1)
        predicted = self.unet(drawn, timestep, encoder_hidden_states, return_dict=False)[0]
        return torch.cat([predicted, torch.zeros_like(posing)], dim=1)


class _Decoder(torch.nn.Module):
    def __init__(self, autoencoder: networks.Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latent_sample: Tensor) -> Tensor:
        drawn, posing = latent_sample.split((networks.LATENT_CHANNELS, pose.CHANNELS), dim=1)
        pictures = self.autoencoder.pictures(drawn).clamp(-1, 1)
        lift = (pictures.amin(1, keepdim=True) - _WHITE_FROM) / (_WHITE_AT - _WHITE_FROM)
        return pose.posed(pictures + lift.clamp(0, 1) * (1 - pictures), posing)


@dataclass(frozen=True)
class _Part:
    """One network, an example of its inputs, and the shapes (-1: any) and names that GenAI expects."""

    name: str
    module: torch.nn.Module
    example: dict[str, Tensor]
    shapes: dict[str, list[int]]
    outputs: Sequence[str]
    config: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo_model.training.export", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write the model")
    parser.add_argument("--run", type=Path, default=DEFAULT, help="the training run's folder (default: %(default)s)")
    arguments = parser.parse_args()
    export(RunFolder(arguments.run), arguments.folder)
    size = sum(file.stat().st_size for file in arguments.folder.rglob("*") if file.is_file())
    print(f"{arguments.folder}: {size / 1e6:.1f} MB")


def export(run: RunFolder, folder: Path) -> None:
    """Writes the model with the run's averaged weights to `folder`."""
    for part in _parts(run):
        _convert(part, folder / part.name)
    scheduler = folder / "scheduler"
    scheduler.mkdir(exist_ok=True)
    _write_json(scheduler / "scheduler_config.json", networks.SCHEDULER)
    _write_json(folder / "model_index.json", _MODEL_INDEX)
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder())
    tokenizer.save_pretrained(folder / "tokenizer")
    to_tokens, to_text = openvino_tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True)
    ov.save_model(to_tokens, folder / "tokenizer" / "openvino_tokenizer.xml")
    ov.save_model(to_text, folder / "tokenizer" / "openvino_detokenizer.xml")
    names = {name for concept in concepts() for name in concept.names} | {*COLOURS, *OWN_COLOURS, *PLACE_NAMES}
    (folder / WORDS_NAME).write_text("\n".join(sorted(names)) + "\n")


_MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def _parts(run: RunFolder) -> list[_Part]:
    weights = load_file(run.checkpoint)
    unet, text = networks.make_unet(), networks.make_text_encoder()
    for name, module in (("unet", unet), ("text", text)):
        prefix = f"ema.{name}."
        module.load_state_dict(
            {key.removeprefix(prefix): value.float() for key, value in weights.items() if key.startswith(prefix)}
        )
    autoencoder = networks.make_autoencoder()
    autoencoder.load_state_dict({name: value.float() for name, value in load_file(run.autoencoder).items()})
    tokens, side = networks.MAX_TOKENS, networks.GRID
    channels = networks.LATENT_CHANNELS + pose.CHANNELS
    width = networks.TEXT_WIDTH
    return [
        _Part(
            "text_encoder",
            _TextEncoder(text),
            {"input_ids": torch.zeros(1, tokens, dtype=torch.long)},
            {"input_ids": [-1, tokens]},
            ("last_hidden_state", "pooler_output"),
            text.config.to_dict(),
        ),
        _Part(
            "unet",
            _UNet(unet),
            {
                "sample": torch.zeros(2, channels, side, side),
                "timestep": torch.ones(1, dtype=torch.long),
                "encoder_hidden_states": torch.zeros(2, tokens, width),
            },
            {"sample": [-1, channels, -1, -1], "timestep": [1], "encoder_hidden_states": [-1, tokens, width]},
            ("out_sample",),
            {**unet.config, "in_channels": channels, "out_channels": channels},
        ),
        _Part(
            "vae_decoder",
            _Decoder(autoencoder),
            {"latent_sample": torch.zeros(1, channels, side, side)},
            {"latent_sample": [-1, channels, -1, -1]},
            ("sample",),
            {**autoencoder.config, "_class_name": "AutoencoderKL", "latent_channels": channels},
        ),
    ]


def _convert(part: _Part, folder: Path) -> None:
    part.module.eval()
    with torch.no_grad():
        model = ov.convert_model(part.module, example_input=part.example)
    model.reshape({name: ov.PartialShape(shape) for name, shape in part.shapes.items()})
    for port, name in zip(model.outputs, part.outputs, strict=True):
        port.get_tensor().set_names({name})
    model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    folder.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, folder / "openvino_model.xml", compress_to_fp16=True)
    _write_json(folder / "config.json", {key: value for key, value in part.config.items() if key != "_name_or_path"})


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
