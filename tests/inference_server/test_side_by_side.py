"""Several drawings at once: what the server gives the engine process, and what becomes of it in trouble."""

import dataclasses
import json

import pytest

from inference_server.errors import Refusal
from inference_server.messages import BatchStats, Cancelled, Capacity, DrawFailed, Step
from inference_server.supervisor import STEP_DEADLINE_S, Phase
from inference_server.tickets import Progress, Queued
from tests.support.inference_engine import EngineBench, code, metric, run
from tests.support.scripted_engine import MODEL_INFO

ONE_AT_A_TIME = dataclasses.replace(MODEL_INFO, images_at_once=1)


def test_as_many_are_drawn_as_fit_and_the_rest_waits_in_order() -> None:
    """Images under way stay within what the engine draws at once; a place that is free goes to the first in line."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        tickets = [bench.post(prompt, images) for prompt, images in (("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 1))]
        assert bench.orders == ["a", "b", "c"]
        assert [ticket.event for ticket in tickets[3:]] == [Queued(1), Queued(2)]
        await bench.draw("c")
        assert bench.orders == ["a", "b", "c", "d"]
        assert tickets[4].event == Queued(1)
        await bench.draw("b")
        assert bench.orders[-1] == "e"
        assert (metric(bench, "inference_drawing_requests"), metric(bench, "inference_waiting_requests")) == (3, 0)

    run(story())


def test_nothing_overtakes_one_that_does_not_fit_yet() -> None:
    """A drawing of many images waits for room, and those behind it wait with it."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        for prompt, images in (("a", 1), ("b", 4), ("c", 1)):
            bench.post(prompt, images)
        assert bench.orders == ["a"]
        await bench.draw("a")
        assert bench.orders == ["a", "b"]
        await bench.draw("b")
        assert bench.orders == ["a", "b", "c"]

    run(story())


def test_more_images_than_fit_are_drawn_alone() -> None:
    """A drawing beyond the engine's bound is begun when nothing else is under way, and nothing beside it."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        for prompt, images in (("a", 1), ("b", 7), ("c", 1)):
            bench.post(prompt, images)
        assert bench.orders == ["a"]
        await bench.draw("a")
        assert bench.orders == ["a", "b"]
        await bench.draw("b")
        assert bench.orders == ["a", "b", "c"]

    run(story())


def test_one_at_a_time_where_the_engine_says_so() -> None:
    """An engine that draws one image at once gets one drawing at once."""

    async def story() -> None:
        bench = EngineBench(ONE_AT_A_TIME)
        await bench.ready()
        bench.post("a")
        bench.post("b", 2)
        assert bench.orders == ["a"]
        await bench.draw("a")
        assert bench.orders == ["a", "b"]

    run(story())


def test_a_lowered_capacity_holds_until_the_process_is_another() -> None:
    """What the engine says of its memory counts from then on, is never raised, and ends with the process."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        await bench.say(Capacity(2), Capacity(3))
        for prompt in "abc":
            bench.post(prompt)
        assert bench.orders == ["a", "b"]
        for prompt in "abc":
            await bench.draw(prompt)
        await bench.die()
        await bench.ready()
        for prompt in "defgh":
            bench.post(prompt)
        assert bench.orders == ["d", "e", "f", "g"]

    run(story())


def test_some_are_handed_over_ahead_of_time() -> None:
    """An engine that asks for it has the next ones prepared; to visitors and to the bound they wait like all others."""

    async def story() -> None:
        model_info = dataclasses.replace(MODEL_INFO, images_at_once=2, images_ahead=2)
        bench = EngineBench(model_info, waiting_requests={"max": 3})
        await bench.ready()
        tickets = [bench.post(prompt) for prompt in "abcde"]
        assert bench.orders == ["a", "b", "c", "d"]
        assert [type(ticket.event) for ticket in tickets[:2]] == [Progress, Progress]
        assert [ticket.event for ticket in tickets[2:]] == [Queued(1), Queued(2), Queued(3)]
        assert (metric(bench, "inference_drawing_requests"), metric(bench, "inference_waiting_requests")) == (2, 3)
        with pytest.raises(Refusal, match="3 requests wait"):
            bench.post("f")
        await bench.draw("a")
        assert bench.orders[-1] == "e"
        assert [ticket.event for ticket in tickets[3:]] == [Queued(1), Queued(2)]
        await bench.say(Step(3, 1, 5, None))
        assert tickets[2].event == Progress(1, 5, 5, None, 0)

    run(story())


def test_a_lowered_capacity_bounds_what_is_handed_over_ahead_too() -> None:
    """What waits in the engine holds memory as well: no more of it than is drawn side by side."""

    async def story() -> None:
        bench = EngineBench(dataclasses.replace(MODEL_INFO, images_at_once=8, images_ahead=8))
        await bench.ready()
        await bench.say(Capacity(2))
        for prompt in "abcdefgh":
            bench.post(prompt)
        assert bench.orders == ["a", "b", "c", "d"]

    run(story())


def test_after_a_crash_each_is_drawn_once_more_and_alone() -> None:
    """What was under way comes first again, in its order, one by one; those that only waited share as ever."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        tickets = [bench.post(prompt) for prompt in "abcdefg"]
        await bench.draw("b")
        assert bench.orders == ["a", "b", "c", "d", "e"]
        await bench.die()
        assert [code(ticket) for ticket in tickets] == [None] * 7
        await bench.ready()
        for begun in ("a", "ac", "acd", "acde"):
            assert bench.orders == list(begun)
            await bench.draw(begun[-1])
        assert bench.orders == ["a", "c", "d", "e", "f", "g"]

    run(story())


def test_only_the_one_that_ends_the_process_twice_is_refused() -> None:
    """A drawing that ends the engine again while it is alone is given up; its company is drawn."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        innocent, poison = bench.post("innocent"), bench.post("poison")
        await bench.die()
        await bench.ready()
        await bench.draw("innocent")
        assert bench.orders == ["innocent", "poison"]
        late = bench.post("late")
        assert bench.orders == ["innocent", "poison"]  # nothing beside one that is drawn alone
        await bench.die()
        assert code(poison) == "ENGINE_CRASHED"
        await bench.ready()
        assert bench.orders == ["late"]
        await bench.draw("late")
        for ticket in (innocent, late):
            assert "image_base64" in json.loads((await ticket.done()).body)

    run(story())


def test_a_cancelled_one_leaves_the_others_alone() -> None:
    """The engine is told its number; its room is free once the engine has let go of it."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        tickets = [bench.post(prompt) for prompt in "abcde"]
        bench.dispatcher.cancel(tickets[1])
        assert bench.cancels == [bench.number("b")]
        assert code(tickets[1]) == "REQUEST_CANCELLED"
        assert bench.orders == ["a", "b", "c", "d"]
        await bench.say(Cancelled(bench.number("b")))
        assert bench.orders[-1] == "e"
        assert [code(ticket) for ticket in tickets] == [None, "REQUEST_CANCELLED", None, None, None]
        await bench.die()
        assert [code(ticket) for ticket in tickets] == [None, "REQUEST_CANCELLED", None, None, None]

    run(story())


def test_a_cancelled_first_in_line_makes_way() -> None:
    """Those behind a large one that was cancelled while it waited begin at once."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        bench.post("a")
        large = bench.post("b", 4)
        bench.post("c")
        bench.dispatcher.cancel(large)
        assert bench.orders == ["a", "c"]

    run(story())


def test_each_gets_its_own_steps_and_its_own_end() -> None:
    """What the engine says of one drawing reaches that one; a number that is none is nobody's."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        one, two = bench.post("a"), bench.post("b")
        await bench.say(Step(bench.number("b"), 3, 5, None), Step(999, 4, 5, None), Cancelled(999))
        assert one.event == Progress(0, 5, 5, None, 0)
        assert two.event == Progress(3, 5, 5, None, 0)
        await bench.say(DrawFailed(bench.number("a"), "out of memory"))
        assert code(one) == "PIPELINE_ERROR"
        assert code(two) is None

    run(story())


def test_any_word_is_a_sign_of_life_and_silence_ends_the_process() -> None:
    """While anything is under way the engine must say something now and then; with nothing it may be silent."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        bench.post("a")
        bench.post("b")
        for message in (Step(bench.number("a"), 1, 5, None), BatchStats(0.1, 2, None), BatchStats(0.1, 2, None)):
            await bench.after(STEP_DEADLINE_S - 10)
            await bench.say(message)
        await bench.draw("a")
        await bench.after(STEP_DEADLINE_S - 10)
        assert not bench.child.killed
        await bench.after(20)
        assert bench.child.killed
        await bench.die()
        await bench.ready()
        await bench.draw("b")
        silent = bench.child
        await bench.after(90)
        assert not silent.killed

    run(story())


def test_an_engine_with_nothing_left_to_draw_falls_asleep() -> None:
    """The idle time begins with the last of several, and a new request stops it."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        bench.post("a")
        bench.post("b")
        await bench.draw("a")
        await bench.after(150)
        assert bench.phase() is Phase.READY
        await bench.draw("b")
        await bench.after(90)
        bench.post("c")
        await bench.draw("c")
        await bench.after(90)
        assert bench.phase() is Phase.READY
        await bench.after(20)
        assert bench.phase() is Phase.ASLEEP
        assert bench.child.killed

    run(story())


def test_the_bound_counts_those_who_wait() -> None:
    """What is drawn does not count; whoever can begin at once is never refused; beyond the bound it is busy."""

    async def story() -> None:
        bench = EngineBench(waiting_requests={"max": 2})
        await bench.ready()
        for prompt in "abcdef":
            bench.post(prompt)
        with pytest.raises(Refusal) as refused:
            bench.post("g")
        assert refused.value.code == "BUSY"
        assert bench.dispatcher.busy
        nobody_waits = EngineBench(waiting_requests={"max": 0})
        await nobody_waits.ready()
        for prompt in "abcd":
            nobody_waits.post(prompt)
        with pytest.raises(Refusal):
            nobody_waits.post("e")

    run(story())


def test_an_engine_asleep_is_woken_also_where_nobody_may_wait() -> None:
    """The request that wakes the engine is taken whatever the bound: refused as busy, it would never be drawn."""

    async def story() -> None:
        bench = EngineBench(waiting_requests={"max": 0})
        await bench.ready()
        await bench.after(101)
        assert bench.phase() is Phase.ASLEEP
        bench.post("a")
        with pytest.raises(Refusal):
            bench.post("b")
        await bench.ready()
        assert bench.orders == ["a"]

    run(story())


def test_the_end_of_the_server_is_told_to_all() -> None:
    """Drawn or waiting, everybody learns that the server is shutting down."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        tickets = [bench.post(prompt) for prompt in "abcdef"]
        bench.dispatcher.close()
        assert {code(ticket) for ticket in tickets} == {"SHUTTING_DOWN"}
        assert bench.child.killed
        assert not bench.dispatcher.busy

    run(story())


def test_batches_become_metrics() -> None:
    """Step time, images a step, images drawn and the GPU's memory are counted, the memory until the engine is gone."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        bench.post("a", 3)
        await bench.say(Step(bench.number("a"), 1, 15, None), BatchStats(0.03, 3, 5_000_000), BatchStats(0.02, 1, None))
        await bench.draw("a")
        assert metric(bench, "inference_step_seconds_count") == 2
        assert metric(bench, "inference_step_seconds_sum") == pytest.approx(0.05)
        assert metric(bench, "inference_batch_size_bucket", le="2.0") == 1
        assert metric(bench, "inference_batch_size_bucket", le="4.0") == 2
        assert metric(bench, "inference_images_total") == 3
        assert metric(bench, "inference_gpu_memory_bytes") == 5_000_000
        await bench.after(101)
        assert bench.phase() is Phase.ASLEEP
        assert metric(bench, "inference_gpu_memory_bytes") == 0

    run(story())


def test_what_the_safety_checker_found_is_in_the_answer() -> None:
    """`nsfw_content_detected`, one for each image, where somebody looked; the request decides whether to look."""

    async def story() -> None:
        bench = EngineBench()
        await bench.ready()
        looked, unlooked = bench.post("a", 2), bench.post("b", safety_checker=False)
        drawings = [message.params.safety_checker for message in bench.child.sent]  # type: ignore[union-attr]
        assert drawings == [True, False]
        await bench.draw("a", nsfw=(False, True))
        await bench.draw("b")
        assert json.loads((await looked.done()).body)["nsfw_content_detected"] == [False, True]
        answer = json.loads((await unlooked.done()).body)
        assert "nsfw_content_detected" not in answer
        assert "ignored" not in answer["$meta"]

    run(story())


def test_the_encoding_of_many_ends_in_many_answers() -> None:
    """Sixteen that come back at once are all answered."""

    async def story() -> None:
        bench = EngineBench(dataclasses.replace(MODEL_INFO, images_at_once=16))
        await bench.ready()
        prompts = "abcdefghijklmnop"
        tickets = [bench.post(prompt) for prompt in prompts]
        assert bench.orders == list(prompts)
        for prompt in prompts:
            await bench.draw(prompt)
        outcomes = [await ticket.done() for ticket in tickets]
        assert all(outcome.refusal is None for outcome in outcomes)

    run(story())
