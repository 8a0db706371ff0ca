"""A compiled package that fails: what the UNet itself says of it is what counts. The packages are stand-ins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inference_server.engines.diffusers.loaded_package import (
    MAX_FAILURES,
    PackagedNetwork,
    PackageRefusedError,
    load_package,
)
from inference_server.engines.diffusers.unet import BatchShape, InputSizes, Network, UNetInputs
from inference_server.engines.diffusers.unet_package import PackageOrder, layout
from inference_server.engines.package_cache import PackageCache

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SIZES = InputSizes(CPU, torch.float32, channels=4, px_per_latent=8, conditioning={"encoder_hidden_states": (2, 4)})
INPUTS = SIZES.allocate(BatchShape(1, guided=False, height_px=64, width_px=64))
# What PyTorch 2.15 makes of any error inside of a package.
NO_CAUSE = "run_func_( container_handle_, ...) API call failed at /pytorch/torch/csrc/inductor/runner.cpp, line 145"


def add_one(inputs: UNetInputs) -> torch.Tensor:
    return inputs.sample + 1


def fails_without_a_cause(inputs: UNetInputs) -> torch.Tensor:
    raise RuntimeError(NO_CAUSE)


def short_of_memory(inputs: UNetInputs) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _order() -> PackageOrder:
    return PackageOrder(
        unet_config={},
        weights=(),
        inputs=tuple(layout(name, tensor) for name, tensor in INPUTS.tensors()),
        max_rows=4,
        device="cpu",
        matmul_precision="highest",
        made_with=(),
    )


class Cached:
    """A cache with one package, which `package` stands in for."""

    def __init__(self, folder: Path) -> None:
        self.order, self.cache = _order(), PackageCache(folder / "cache")
        made = folder / "made.pt2"
        made.write_bytes(b"a package")
        self.cache.put(self.order.digest, made)

    def load(self, package: Network, eager: Network = add_one, short: bool = False) -> Network:
        def open_(file: Path, folder: Path, order: PackageOrder, unet: Any) -> Network:
            return package

        return load_package(self.order, self.cache, None, eager, open_, is_short=lambda device: short)

    @property
    def is_kept(self) -> bool:
        return self.cache.find(self.order.digest) is not None


@pytest.fixture
def cached(tmp_path: Path) -> Cached:
    return Cached(tmp_path)


def test_where_a_package_fails_the_unet_itself_draws() -> None:
    """The step is made all the same, and nothing of the package's words reaches anybody."""
    assert torch.equal(PackagedNetwork(fails_without_a_cause, add_one, CPU)(INPUTS), add_one(INPUTS))


def test_short_memory_within_a_package_is_told_as_such() -> None:
    """The UNet, asked in its place, says that memory is short: an error that lowers the limit."""
    with pytest.raises(torch.OutOfMemoryError):
        PackagedNetwork(fails_without_a_cause, short_of_memory, CPU)(INPUTS)


def test_a_package_that_keeps_failing_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    """After some failures where the UNet does not fail it is not called any more, and the log says so."""
    calls: list[int] = []

    def package(inputs: UNetInputs) -> torch.Tensor:
        calls.append(1)
        raise RuntimeError(NO_CAUSE)

    network = PackagedNetwork(package, add_one, CPU)
    for _ in range(MAX_FAILURES + 3):
        network(INPUTS)
    assert len(calls) == MAX_FAILURES
    assert "without a compiled UNet from here on" in capsys.readouterr().out


def test_a_good_package_is_kept(cached: Cached) -> None:
    """One that answers as the UNet does is called from then on."""
    assert torch.equal(cached.load(add_one)(INPUTS), add_one(INPUTS))
    assert cached.is_kept


@pytest.mark.parametrize("eager", [add_one, short_of_memory])
def test_short_memory_during_the_check_keeps_the_package(cached: Cached, eager: Network) -> None:
    """Whether the package met it (it does not say) or the UNet beside it: nothing is wrong with the package."""
    with pytest.raises(torch.OutOfMemoryError):
        cached.load(fails_without_a_cause, eager, short=True)
    assert cached.is_kept


def _wrong(inputs: UNetInputs) -> torch.Tensor:
    return inputs.sample + 2


@pytest.mark.parametrize("package", [fails_without_a_cause, _wrong])
def test_a_package_that_fails_with_memory_left_is_thrown_away(
    cached: Cached, package: Callable[[UNetInputs], torch.Tensor]
) -> None:
    """So is one whose answers differ."""
    with pytest.raises(PackageRefusedError):
        cached.load(package)
    assert not cached.is_kept
