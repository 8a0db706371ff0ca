"""A compiled package made callable: over the UNet's own weights, and only if it answers as the UNet does."""

from pathlib import Path
from typing import Any

import torch

from inference_server.engine_errors import short_reason
from inference_server.engines.diffusers import faults
from inference_server.engines.diffusers.device_work import Lane
from inference_server.engines.diffusers.networks import Network
from inference_server.engines.diffusers.package_cache import PackageCache, unpack
from inference_server.engines.diffusers.unet import UNetInputs
from inference_server.engines.diffusers.unet_package import PackageOrder, UNetOverTensors, torch_dtype

# The largest difference as a share of the largest value. Kernels that sum in another order differ by a few of the last
# bits in each of some hundred layers; a wrong kernel differs by much more.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
CHECKED_ROWS = (1, 2, 3)


class PackageRefusedError(Exception):
    """The package is damaged, of something else, or draws something else; the text says which."""


def load_package(order: PackageOrder, cache: PackageCache, unet: Any, eager: Network) -> Network:
    """What the cache holds for this order, found to be good; a package that is not is thrown away.

    Raises: PackageRefusedError; torch.OutOfMemoryError when there was no room to compare, the package then stays.
    """
    package = cache.find(order.digest)
    if package is None:
        raise PackageRefusedError("it is gone")
    try:
        with cache.scratch() as folder:  # the code stays in memory; the check loads all of it
            unpack(package, Path(folder))
            _check_digest(package, order)
            cache.begin_trial(order.digest)
            network = _call(Path(folder), order, unet)
            _check_answers(network, eager, order)
    except PackageRefusedError:
        cache.discard(order.digest)
        raise
    except Exception as exc:
        if faults.is_out_of_memory(exc):
            cache.end_trial(order.digest)
            raise
        cache.discard(order.digest)
        raise PackageRefusedError(f"it cannot be loaded or run ({short_reason(exc)})") from exc
    cache.end_trial(order.digest)
    return network


def _check_digest(package: Path, order: PackageOrder) -> None:
    """Before any of its code is loaded. Raises: PackageRefusedError."""
    metadata = torch._C._aoti.AOTIModelPackageLoader.load_metadata_from_package(str(package), "model")
    if metadata.get("digest") != order.digest:
        raise PackageRefusedError("it was made for something else")


def _call(folder: Path, order: PackageOrder, unet: Any) -> Network:
    # Single-threaded: one thread at a time calls it, and the other way cannot be recorded as a CUDA graph.
    package = torch._inductor.aoti_load_package(str(folder), run_single_threaded=True)
    weights = UNetOverTensors(unet, [one.name for one in order.inputs]).state_dict()
    wanted = package.get_constant_fqns()
    if unknown := set(wanted) - set(weights):
        raise PackageRefusedError(f"it wants weights that the UNet has not, such as {min(unknown)}")
    # Not copied: the package reads the UNet's own.
    package.load_constants({name: weights[name] for name in wanted}, check_full_update=True, user_managed=True)
    return lambda inputs: package(*(tensor for _, tensor in inputs.tensors()))


def _check_answers(network: Network, eager: Network, order: PackageOrder) -> None:
    """Raises: PackageRefusedError, and whatever the device raises."""
    with Lane(torch.device(order.device)).entered():
        for rows in CHECKED_ROWS:
            if rows > order.max_rows:
                break
            inputs = _some_inputs(order, rows)
            ours, theirs = network(inputs).float(), eager(inputs).float()
            difference = float((ours - theirs).abs().max() / theirs.abs().max())
            if not difference <= TOLERANCES[torch_dtype(order.inputs[0])]:  # so that "not a number" is refused too
                raise PackageRefusedError(f"its answer for {rows} rows is {difference:.1%} away from the UNet's own")


def _some_inputs(order: PackageOrder, rows: int) -> UNetInputs:
    generator = torch.Generator().manual_seed(rows)
    tensors = {}
    for one in order.inputs:
        values = torch.randn(rows, *one.shape[1:], generator=generator)
        if one.name == "timestep":
            values = values.abs() * 300
        tensors[one.name] = values.to(order.device, torch_dtype(one))
    return UNetInputs(**tensors)
