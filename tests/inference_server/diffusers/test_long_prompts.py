"""Prompts beyond CLIP's window, and weighted ones: the text encoders of these models read 14 letters at a time."""

from typing import Any

import pytest
import torch

from inference_server.engines import prompt_weights
from inference_server.engines.diffusers.long_prompts import MAX_WINDOWS, LongPromptEncoder
from inference_server.engines.diffusers.unet import BatchShape
from inference_server.messages import Draw, Drawn
from tests.support.diffusers_channel import Rig, difference, loaded, order, own_picture

pytestmark = pytest.mark.slow

LONG = "a cat with a small hat and a long tail"  # 30 letters: three windows, parted between words
KINDS = pytest.mark.parametrize("kind", ["sd", "sdxl"])


def own_embeds(kind: str, text: str) -> Any:
    """What diffusers makes of one window."""
    return loaded(kind).pipeline.encode_prompt(
        text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )[0]


def draw(kind: str, *orders: Draw) -> tuple[Any, Rig]:
    rig = Rig(kind)
    return rig.draw(*orders), rig


@KINDS
def test_a_long_prompt_is_read_window_by_window(kind: str) -> None:
    """Each window is encoded as diffusers encodes its words, and the UNet reads all of them in one row."""
    encoder = LongPromptEncoder(loaded(kind).pipeline, torch.device("cpu"))
    embeds = encoder.encode(prompt_weights.plain(LONG), torch.float32)
    parts = [own_embeds(kind, text) for text in ("a cat with a small", "hat and a long", "tail")]
    assert embeds.shape == (1, 48, parts[0].shape[2])
    assert torch.allclose(embeds, torch.cat(parts, dim=1), atol=1e-5)


@KINDS
@pytest.mark.parametrize("negative", ["", "fog", f"{LONG} {LONG}"])
def test_the_picture_is_the_one_of_these_embeddings(kind: str, negative: str) -> None:
    """It is what diffusers' own call draws with the same rows, whichever of the prompts is the longer one."""
    one = order(prompt=LONG, negative_prompt=negative)
    channel, rig = draw(kind, one)
    pipeline, encoder = loaded(kind).pipeline, LongPromptEncoder(loaded(kind).pipeline, torch.device("cpu"))
    embeds = encoder.encode(prompt_weights.plain(LONG), torch.float32)
    own = pipeline.encode_prompt(
        LONG, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True, negative_prompt=negative or None
    )
    rows = encoder.encode(prompt_weights.plain(negative), torch.float32) if len(negative) > 20 else own[1]
    zeros, tokens = kind == "sdxl" and not negative, max(embeds.shape[1], rows.shape[1])
    given = {
        "prompt_embeds": encoder.fill(embeds, tokens, zeros=False),
        "negative_prompt_embeds": encoder.fill(rows, tokens, zeros=zeros),
    }
    if kind == "sdxl":
        given |= {"pooled_prompt_embeds": own[2], "negative_pooled_prompt_embeds": own[3]}
        assert not zeros or not given["negative_prompt_embeds"].any()
    assert difference(channel.picture_of(1), own_picture(kind, one.params, with_prompts=False, **given)) == 0
    assert {shape.windows for shape in rig.unet.shapes} == {tokens // 16}


@KINDS
def test_words_beyond_the_window_change_the_picture(kind: str) -> None:
    """Until here they did not; and none is told as unused."""
    cut = order(prompt="a cat with a small")
    channel, _ = draw(kind, order(prompt=LONG))
    assert difference(channel.picture_of(1), own_picture(kind, cut.params)) > 2
    end = channel.end_of(1)
    assert isinstance(end, Drawn)
    assert end.unused_words == ()


@KINDS
def test_a_prompt_within_the_window_is_drawn_as_ever(kind: str) -> None:
    """Bit for bit, brackets and all where weighting was not asked for, and where it was but nothing weighs."""
    prompt = "a (cat:2) in b"
    channel, rig = draw(kind, order(prompt=prompt))
    assert (channel.picture_of(1) == own_picture(kind, order(prompt=prompt).params)).all()
    channel, _ = draw(kind, order(prompt="a cat", prompt_weighting=True))
    assert (channel.picture_of(1) == own_picture(kind, order(prompt="a cat").params)).all()
    assert {shape.windows for shape in rig.unet.shapes} == {1}


def test_weights_weigh_where_they_are_asked_for() -> None:
    """Stronger, weaker and plain are three pictures, of one window each; brackets are no words then."""
    pictures = []
    for prompt in ("a (red:1.5) cat", "a [red] cat", "a red cat"):
        channel, rig = draw("sd", order(prompt=prompt, prompt_weighting=True))
        pictures.append(channel.picture_of(1))
        assert {shape.windows for shape in rig.unet.shapes} == {1}
    assert min(difference(pictures[one], pictures[other]) for one, other in ((0, 1), (0, 2), (1, 2))) > 2
    assert (pictures[2] == own_picture("sd", order(prompt="a red cat").params)).all()


def test_prompts_of_other_lengths_share_no_step_and_change_no_picture() -> None:
    """A long and a short one at once: batches of their own, each its own picture."""
    orders = (order(1, prompt=LONG), order(2, prompt="a cat"), order(3, prompt=LONG))
    channel, rig = draw("sd", *orders)
    alone = draw("sd", order(1, prompt=LONG))[0].picture_of(1)
    assert difference(channel.picture_of(1), alone) <= 2
    assert difference(channel.picture_of(2), own_picture("sd", orders[1].params)) <= 2
    assert {(shape.bucket, shape.windows) for shape in rig.unet.shapes} >= {(2, 3), (1, 1)}


def test_what_nobody_reads_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """Words beyond all windows, and what other programs understand: named, without influence, and never logged."""
    words = [f"word{number:03}" for number in range(30)]  # 7 letters each, two a window
    read, beyond = words[: 2 * MAX_WINDOWS], words[2 * MAX_WINDOWS :]
    one = order(prompt=f"{' '.join(words)} <lora:x:1>", prompt_weighting=True)
    channel, rig = draw("sd", one, order(2, seeds=one.params.seeds, prompt=" ".join(read)))
    end = channel.end_of(1)
    assert isinstance(end, Drawn)
    assert end.unused_words == ("<lora:x:1>", *beyond)
    assert difference(channel.picture_of(1), channel.picture_of(2)) <= 2
    assert max(shape.windows for shape in rig.unet.shapes) == MAX_WINDOWS
    logged = "".join(capfd.readouterr())
    assert not [word for word in (*words, "longer than", "truncated") if word in logged]


def test_inputs_are_as_long_as_the_prompts() -> None:
    """The UNet's inputs of three windows hold three times the tokens, and nothing else of another size."""
    sizes = Rig("sdxl").unet._sizes
    one, three = (
        sizes.allocate(BatchShape(2, guided=True, height_px=64, width_px=64, windows=windows)) for windows in (1, 3)
    )
    assert three.encoder_hidden_states.shape[1] == 3 * one.encoder_hidden_states.shape[1]
    shapes = [{name: tensor.shape for name, tensor in inputs.tensors()} for inputs in (one, three)]
    assert {name for name in shapes[0] if shapes[0][name] != shapes[1][name]} == {"encoder_hidden_states"}
