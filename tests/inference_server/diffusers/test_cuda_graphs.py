"""When a batch shape is captured and when its graph is used. What captures is a stand-in: there is no GPU here."""

from collections.abc import Callable

import torch

from inference_server.engines.diffusers import cuda_graphs
from inference_server.engines.diffusers.cuda_graphs import PAUSE_S, STEPS_BETWEEN, USES_BEFORE, CudaGraphs
from inference_server.engines.diffusers.unet import BatchShape, InputSizes, Network, Networks, UNetInputs

SIZES = InputSizes(
    torch.device("cpu"), torch.float32, channels=4, px_per_latent=8, conditioning={"encoder_hidden_states": (2, 4)}
)
ONE, TWO = (BatchShape(bucket, guided=False, height_px=64, width_px=64) for bucket in (1, 2))


def add_one(inputs: UNetInputs) -> torch.Tensor:
    return inputs.sample + 1


def add_two(inputs: UNetInputs) -> torch.Tensor:
    return inputs.sample + 2


class StandIn:
    """Captures by remembering the call."""

    def __init__(self) -> None:
        self.captured = self.replays = self.closed = 0

    def __call__(self, network: Network, inputs: UNetInputs) -> "StandInGraph":
        self.captured += 1
        return StandInGraph(self, lambda: network(inputs))


class StandInGraph:
    def __init__(self, owner: StandIn, call: Callable[[], torch.Tensor]) -> None:
        self._owner, self._call = owner, call

    def replay(self) -> torch.Tensor:
        self._owner.replays += 1
        return self._call()

    def close(self) -> None:
        self._owner.closed += 1


def run(runner: CudaGraphs, shape: BatchShape, inputs: UNetInputs, times: int, network: Network = add_one) -> None:
    for _ in range(times):
        assert torch.equal(runner.run(shape, inputs, network), network(inputs))


def test_a_shape_is_captured_once_it_was_used_and_replayed_from_then_on() -> None:
    """The first uses run the network itself; then it is captured once, and each use replays that."""
    capture, inputs = StandIn(), SIZES.allocate(ONE)
    runner = CudaGraphs(capture)
    run(runner, ONE, inputs, USES_BEFORE)
    assert capture.captured == 0
    run(runner, ONE, inputs, 10)
    assert (capture.captured, capture.replays) == (1, 10)


def test_a_replay_sees_what_was_written_into_the_inputs() -> None:
    """The answer is that of the inputs as they are now, not as they were when it was captured."""
    inputs, runner = SIZES.allocate(ONE), CudaGraphs(StandIn())
    run(runner, ONE, inputs, USES_BEFORE + 1)
    inputs.sample.fill_(5)
    assert float(runner.run(ONE, inputs, add_one).max()) == 6


def test_graphs_are_spread_over_the_steps() -> None:
    """Two shapes that become ready together are not captured one right after the other."""
    capture, one, two = StandIn(), SIZES.allocate(ONE), SIZES.allocate(TWO)
    runner = CudaGraphs(capture)
    for _ in range(USES_BEFORE):
        run(runner, ONE, one, 1)
        run(runner, TWO, two, 1)
    run(runner, ONE, one, 1)
    run(runner, TWO, two, 1)
    assert capture.captured == 1
    run(runner, TWO, two, STEPS_BETWEEN)
    assert capture.captured == 2


def test_another_network_is_captured_anew() -> None:
    """Once the compiled UNet has taken over, the graph of the old one is closed and never replayed again."""
    capture, inputs = StandIn(), SIZES.allocate(ONE)
    runner = CudaGraphs(capture)
    run(runner, ONE, inputs, USES_BEFORE + 1)
    run(runner, ONE, inputs, 3 * STEPS_BETWEEN, network=add_two)
    assert (capture.captured, capture.closed) == (2, 1)


def test_other_inputs_are_captured_anew() -> None:
    """A graph reads its own tensors; for others it would answer wrongly."""
    capture = StandIn()
    runner = CudaGraphs(capture)
    run(runner, ONE, SIZES.allocate(ONE), USES_BEFORE + 1)
    other = SIZES.allocate(ONE)
    other.sample.fill_(7)
    run(runner, ONE, other, 1)
    assert (capture.captured, capture.closed) == (1, 1)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_where_capturing_fails_the_network_goes_on_and_it_is_tried_ever_more_rarely() -> None:
    """A failure turns capturing off for a while that doubles; every step is drawn all the same."""
    tried = []

    def fail(network: Network, inputs: UNetInputs) -> StandInGraph:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing")

    clock, inputs = Clock(), SIZES.allocate(ONE)
    runner = CudaGraphs(fail, clock)
    for tries, pause_s in ((1, PAUSE_S), (2, 2 * PAUSE_S), (3, 4 * PAUSE_S)):
        run(runner, ONE, inputs, 5 * STEPS_BETWEEN)
        clock.now_s += pause_s - 1
        run(runner, ONE, inputs, 5 * STEPS_BETWEEN)
        assert len(tried) == tries
        clock.now_s += 1


def test_memory_that_is_asked_back_is_given_and_not_taken_again_for_a_while() -> None:
    """After `forget` all graphs are closed and none is made before the pause is over; drawing goes on."""
    capture, inputs, clock = StandIn(), SIZES.allocate(ONE), Clock()
    runner = CudaGraphs(capture, clock)
    run(runner, ONE, inputs, USES_BEFORE + 1)
    runner.forget()
    run(runner, ONE, inputs, 5 * STEPS_BETWEEN)
    assert (capture.captured, capture.closed) == (1, 1)
    clock.now_s += PAUSE_S
    run(runner, ONE, inputs, 1)
    assert capture.captured == 2


def test_one_shape_that_is_forgotten_leaves_the_others_their_graphs() -> None:
    """One picture that is too large is no reason for the others to be drawn more slowly."""
    capture, one, two = StandIn(), SIZES.allocate(ONE), SIZES.allocate(TWO)
    runner = CudaGraphs(capture)
    run(runner, ONE, one, USES_BEFORE + 1)
    runner.forget(TWO)
    run(runner, ONE, one, 1)
    assert (capture.captured, capture.closed, capture.replays) == (1, 0, 2)
    runner.forget(ONE)
    assert capture.closed == 1
    run(runner, TWO, two, USES_BEFORE + STEPS_BETWEEN)
    assert capture.captured == 2


def test_graphs_are_bounded() -> None:
    """With ever new sizes the one that was not used for the longest time is closed."""
    capture = StandIn()
    runner = CudaGraphs(capture)
    for side in range(cuda_graphs.MAX_SHAPES + 1):
        shape = BatchShape(1, guided=False, height_px=64, width_px=64 + 8 * side)
        run(runner, shape, SIZES.allocate(shape), USES_BEFORE + STEPS_BETWEEN)
    assert (capture.captured, capture.closed) == (cuda_graphs.MAX_SHAPES + 1, 1)


def test_a_size_that_nothing_was_compiled_for_keeps_its_network() -> None:
    """The network of a shape is the same object at every step, and changes only for the size that was adopted."""
    networks = Networks(unet=None)
    before = networks.of(ONE)
    assert networks.of(TWO) is before
    networks.adopt((128, 64), add_one)
    assert networks.of(ONE) is before
    networks.adopt((64, 64), add_one)
    assert networks.of(ONE) is networks.of(TWO) is add_one
