"""Memory that is short: what is lowered, freed and remembered; every picture is still of its own prompt."""

import threading
from collections.abc import Sequence
from queue import SimpleQueue

import pytest
import torch

from inference_server.engines.diffusers import continuous_batching
from inference_server.engines.diffusers.active_request import ActiveRequest
from inference_server.engines.diffusers.encode import ActiveImage, RequestEncoder
from inference_server.engines.diffusers.stage_threads import MemoryShort, StageEvent
from inference_server.engines.diffusers.unet import BatchShape
from inference_server.messages import Capacity, Draw, Drawn, Step
from tests.support.diffusers_channel import DEADLINE_S, Rig, ScriptedChannel, difference, loaded, order, own_picture

pytestmark = pytest.mark.slow

WISHES = ("a pear", "fog at sea", "the moon", "zebra", "QUICK", "?!", "on a hill", "0123")


def draw_with_memory_for(most: int, first: Draw, *others: Draw, late: Sequence[Draw] = ()) -> ScriptedChannel:
    """Memory for `most` images side by side; the others join at the second step, which fails, `late` at the fourth."""
    rig, channel = Rig(), ScriptedChannel(first)

    def before_call(call: int) -> None:
        if rig.unet.shapes[-1].bucket > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if call == 1:
            channel.join(*others)
        if call == 4:
            channel.join(*late)
            channel.close()

    rig.unet.before_call = before_call
    rig.steps.work(channel)
    return channel


def test_short_memory_lowers_the_limit_and_ends_nobodys_drawing() -> None:
    """Four images do not fit, two do: all are drawn two at a time, and so are later ones."""
    channel = draw_with_memory_for(2, *(order(number, num_inference_steps=9) for number in (1, 2, 3, 4)))
    assert [message.images for message in channel.told if isinstance(message, Capacity)] == [2]
    for number in (1, 2, 3, 4):
        own = own_picture("sd", order(number, num_inference_steps=9).params)
        assert difference(channel.picture_of(number), own) <= 2


def test_what_memory_sufficed_for_is_known_when_the_model_is_loaded_again() -> None:
    """The limit is kept with the model: the next process begins within it and runs out of memory no more."""
    rig = Rig()
    store = rig.steps.store
    store.learn(max_area_px=2 * 64 * 64)
    channel = rig.draw(*(order(number) for number in (1, 2, 3, 4)))
    assert max(channel.batches()) == 2
    assert all(isinstance(channel.end_of(number), Drawn) for number in (1, 2, 3, 4))


def test_batches_of_one_shape_keep_their_own_prompts() -> None:
    """Two that cannot share a batch use the same tensors in turn; who outlives the other gets its own picture."""
    orders = (order(1, num_inference_steps=8, prompt="a pear"), order(2, num_inference_steps=3, prompt="fog at sea"))
    channel = Rig(buckets=(1,), capacity=2).draw(*orders)
    assert set(channel.batches()) == {1}
    for one in orders:
        assert difference(channel.picture_of(one.number), own_picture("sd", one.params)) == 0


def test_after_short_memory_every_picture_is_of_its_own_prompt() -> None:
    """Eight go on in two batches of four, in the same tensors; the one outlives the other."""
    orders = [
        order(number, num_inference_steps=4 if number < 5 else 9, prompt=WISHES[number - 1]) for number in range(1, 9)
    ]
    channel = draw_with_memory_for(4, *orders)
    for one in orders:
        assert difference(channel.picture_of(one.number), own_picture("sd", one.params)) <= 2


def test_a_lowered_limit_is_kept_to() -> None:
    """Once two at a time is what memory allows, no newcomer has a step before fewer than two are left."""
    early = [order(number, num_inference_steps=9) for number in (1, 2, 3)]
    channel = draw_with_memory_for(2, *early, late=[order(number, num_inference_steps=3) for number in range(4, 9)])
    running = set[int]()
    for step in (message for message in channel.told if isinstance(message, Step)):
        assert step.number in running or step.number <= 3 or len(running) < 2, step
        running.add(step.number)
        if step.step == step.num_steps:
            running.remove(step.number)
    assert all(isinstance(channel.end_of(number), Drawn) for number in range(1, 9))


def test_a_size_that_is_full_holds_up_no_other() -> None:
    """After memory was short for two large pictures, a small one is drawn beside the large one, not after the next."""
    rig, channel = Rig(), ScriptedChannel(order(1, width_px=128, num_inference_steps=9))

    def before_call(call: int) -> None:
        if call == 1:
            channel.join(order(2, width_px=128, num_inference_steps=1))
        if rig.unet.shapes[-1].bucket * rig.unet.shapes[-1].width_px > 128:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if call == 5:
            channel.join(order(3, width_px=128, num_inference_steps=3), order(4, num_inference_steps=3))
            channel.close()

    rig.unet.before_call = before_call
    rig.steps.work(channel)
    assert [message.number for message in channel.told if isinstance(message, Drawn)] == [2, 4, 1, 3]


def test_short_memory_for_a_single_picture_lowers_nothing() -> None:
    """One picture that is too large fails alone; small ones are drawn as many at once as before."""
    rig, channel = Rig(), ScriptedChannel(order(1, width_px=128))

    def before_call(call: int) -> None:
        if call == 1:
            channel.join(order(2), order(3))
            channel.close()
        if rig.unet.shapes[-1].width_px > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")

    rig.unet.before_call = before_call
    rig.steps.work(channel)
    assert "128x64" in channel.reason_of(1)
    assert not [message for message in channel.told if isinstance(message, Capacity)]
    assert channel.batches() == [2] * 4
    assert isinstance(channel.end_of(2), Drawn)
    assert isinstance(channel.end_of(3), Drawn)
    assert rig.unet.forgotten == [BatchShape(1, guided=True, height_px=64, width_px=128)]


def test_short_memory_of_large_pictures_leaves_small_ones_their_company() -> None:
    """The limit is one of pixels: two of sixteen times the size do not fit at once, eight small ones do."""
    rig = Rig()

    def before_call(call: int) -> None:
        shape = rig.unet.shapes[-1]
        if shape.bucket * shape.width_px * shape.height_px > 256 * 256:
            raise torch.OutOfMemoryError("CUDA out of memory")

    rig.unet.before_call = before_call
    channel = ScriptedChannel(order(1, width_px=256, height_px=256, seeds=(1, 2)))
    channel.give(order(2, seeds=tuple(range(8))))
    rig.work(channel)
    assert isinstance(channel.end_of(1), Drawn)
    assert isinstance(channel.end_of(2), Drawn)
    assert max(channel.batches()) == 8


def test_a_picture_too_large_to_be_decoded_at_once_is_decoded_in_tiles() -> None:
    """The autoencoder is what takes most memory of a large picture; a smaller one is decoded as before."""
    decoder = loaded("sd").pipeline.vae.decoder

    def before_forward(module: object, arguments: tuple[torch.Tensor, ...]) -> None:
        if arguments[0].shape[-1] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = decoder.register_forward_pre_hook(before_forward)
    try:
        channel = Rig().draw(order(1, width_px=640, num_inference_steps=1), order(2))
    finally:
        handle.remove()
    assert channel.picture_of(1).shape == (64, 640, 3)
    assert difference(channel.picture_of(2), own_picture("sd", order(2).params)) <= 2


class DecoderShortOfMemory:
    """The autoencoder finds no memory until the loop has been asked `times` times to make room."""

    def __init__(self, rig: Rig, times: int) -> None:
        self._rig, self._times = rig, times

    def __enter__(self) -> None:
        decoder = loaded("sd").pipeline.vae.decoder
        self._handle = decoder.register_forward_pre_hook(self._before_forward)

    def __exit__(self, *exc: object) -> None:
        self._handle.remove()

    def _before_forward(self, module: object, arguments: object) -> None:
        if len(self._rig.unet.forgotten) < self._times:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_picture_that_cannot_be_decoded_for_want_of_memory_is_given_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop frees CUDA graphs and lowers its limit, and the picture is decoded then, whatever else is drawn."""
    rig, asked = Rig(), threading.Event()
    first, rest = order(1, num_inference_steps=2), [order(number, num_inference_steps=6) for number in (2, 3)]
    channel = ScriptedChannel(first)

    class Telling(SimpleQueue[StageEvent]):
        """What the loop is told; the decode thread tells it nothing but that memory is short."""

        def put(self, event: StageEvent, block: bool = True, timeout: float | None = None) -> None:
            super().put(event)
            if isinstance(event, MemoryShort):
                asked.set()

    def before_call(call: int) -> None:
        if call == 1:
            channel.join(*rest)
            channel.close()
        if call == 4:  # the first has had its two steps; the others shall not be done before room was asked for
            assert asked.wait(DEADLINE_S)

    monkeypatch.setattr(continuous_batching, "SimpleQueue", Telling)
    rig.unet.before_call = before_call
    with DecoderShortOfMemory(rig, times=1):
        rig.steps.work(channel)
    assert difference(channel.picture_of(1), own_picture("sd", first.params)) <= 2
    assert [message.images for message in channel.told if isinstance(message, Capacity)] == [1]
    assert rig.unet.forgotten == [None]
    for one in rest:
        assert difference(channel.picture_of(one.number), own_picture("sd", one.params)) <= 2


def test_the_last_picture_is_given_room_too() -> None:
    """Also when there are no more steps to make: the loop waits for the decode thread."""
    rig = Rig()
    with DecoderShortOfMemory(rig, times=1):
        channel = rig.draw(order(1))
    assert difference(channel.picture_of(1), own_picture("sd", order(1).params)) == 0
    assert not [message for message in channel.told if isinstance(message, Capacity)]


def test_a_picture_that_still_cannot_be_decoded_fails_alone() -> None:
    """Once only is room made for it; its reason says what was short."""
    rig = Rig()
    with DecoderShortOfMemory(rig, times=2):
        channel = rig.draw(order(1))
    assert "memory" in channel.reason_of(1)
    assert rig.unet.forgotten == [None]


class EncodesAtTheSecondTry(RequestEncoder):
    """The text encoders find no memory the first time."""

    tries = 0

    def encode(self, request: ActiveRequest) -> list[ActiveImage]:
        EncodesAtTheSecondTry.tries += 1
        if EncodesAtTheSecondTry.tries == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().encode(request)


def test_a_prompt_that_cannot_be_encoded_for_want_of_memory_is_given_room() -> None:
    """The loop, with nothing to do, wakes up for it; the picture is drawn."""
    rig = Rig(encoder=EncodesAtTheSecondTry)
    channel = rig.draw(order(1))
    assert difference(channel.picture_of(1), own_picture("sd", order(1).params)) == 0
    assert rig.unet.forgotten == [None]
