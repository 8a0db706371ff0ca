"""Loads a compiled package: it runs over the UNet's own weights, and only if it answers as the UNet does.

An error inside of a package reaches Python without its cause ("run_func_(...) API call failed at ..."), whether memory
was short, the device is broken or the code is wrong. So the UNet itself is called then, and its error tells the cause.
Source: torch/csrc/inductor/aoti_runtime/interface.cpp (CONVERT_EXCEPTION_TO_ERROR_CODE)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from inference_server.engines import short_reason
from inference_server.engines.diffusers import cuda_errors
from inference_server.engines.diffusers.gpu_memory import is_free
from inference_server.engines.diffusers.streams import ThreadStream, is_capturing, synchronize
from inference_server.engines.diffusers.unet import Network, UNetInputs
from inference_server.engines.diffusers.unet_package import UNET, PackageOrder, base_weights, torch_dtype
from inference_server.engines.package_cache import PackageCache, unpack

# The largest difference as a share of the largest value. Kernels that sum in another order differ by a few of the last
# bits in each of some hundred layers; a wrong kernel differs by much more.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
CHECKED_ROWS = (1, 2, 3)
NEEDED_FREE_BYTES = 1_000_000_000  # a package that fails with less left may have wanted just that
MAX_FAILURES = 3  # of a package where the UNet itself does not fail

Open = Callable[[Path, Path, PackageOrder, Any], Network]  # package, empty folder, order, UNet -> the package's call


class PackageRefusedError(Exception):
    """The package is damaged, made for something else, or draws something else; the text says which."""


class PackagedNetwork:
    """Calls the package, and the UNet itself where the package fails. For the step loop's thread alone."""

    def __init__(self, package: Network, eager: Network, device: torch.device) -> None:
        self._package, self._eager, self._device = package, eager, device
        self._failures = 0

    def __call__(self, inputs: UNetInputs) -> torch.Tensor:
        """Raises: what the UNet raises; what the device raises when it is broken for good."""
        if self._failures >= MAX_FAILURES:
            return self._eager(inputs)
        try:
            return self._package(inputs)
        except RuntimeError as exc:
            if is_capturing(self._device):  # nothing else can be called then, and steps go on without a graph
                raise
            cuda_errors.log_without_text(exc)
        synchronize(self._device)  # raises what is broken for good
        answer = self._eager(inputs)
        self._failures += 1
        if self._failures == MAX_FAILURES:
            print("compiling: the package failed again: drawn without a compiled UNet from here on", flush=True)
        return answer


def open_package(file: Path, folder: Path, order: PackageOrder, unet: Any) -> Network:
    """The package as a network over the UNet's own weights. Its code stays in memory.

    Raises: PackageRefusedError, whatever the library raises.
    """
    unpack(file, folder)
    _check_digest(file, order)
    # Single-threaded: one thread at a time calls it, and the other way cannot be captured as a CUDA graph.
    package = torch._inductor.aoti_load_package(str(folder), run_single_threaded=True)
    weights = {f"{UNET}.{name}": weight for name, weight in base_weights(unet).items()}
    wanted = package.get_constant_fqns()
    if unknown := set(wanted) - set(weights):
        raise PackageRefusedError(f"it wants weights that the UNet has not, such as {min(unknown)}")
    # Not copied: the package reads the UNet's own.
    package.load_constants({name: weights[name] for name in wanted}, check_full_update=True, user_managed=True)
    return lambda inputs: package(*(tensor for _, tensor in inputs.tensors()))


def _is_short(device: torch.device) -> bool:
    return device.type == "cuda" and not is_free(device, NEEDED_FREE_BYTES)


def load_package(
    order: PackageOrder,
    cache: PackageCache,
    unet: Any,
    eager: Network,
    open_: Open = open_package,
    is_short: Callable[[torch.device], bool] = _is_short,
) -> Network:
    """The cache's package for this order, checked; one that fails the check is thrown away.

    `is_short`: whether the device has so little memory left that this may be why a package failed.

    Raises: PackageRefusedError; torch.OutOfMemoryError when there was no room to compare, the package then stays.
    """
    file = cache.find(order.digest)
    if file is None:
        raise PackageRefusedError("it is gone")
    try:
        with cache.scratch() as folder:
            cache.begin_trial(order.digest)
            package = open_(file, Path(folder), order, unet)
            _check_answers(package, eager, order)
    except PackageRefusedError:
        cache.discard(order.digest)
        raise
    except Exception as exc:
        if _was_short(exc, torch.device(order.device), is_short):
            cache.end_trial(order.digest)
            raise torch.OutOfMemoryError(f"out of memory while a package was compared ({short_reason(exc)})") from exc
        cache.discard(order.digest)
        raise PackageRefusedError(f"it cannot be loaded or run ({short_reason(exc)})") from exc
    cache.end_trial(order.digest)
    return PackagedNetwork(package, eager, torch.device(order.device))


def _was_short(exc: Exception, device: torch.device, is_short: Callable[[torch.device], bool]) -> bool:
    """Whether memory was too short for the check, as far as can be told; never of a package that broke the device."""
    if cuda_errors.is_out_of_memory(exc):
        return True
    if not isinstance(exc, RuntimeError):
        return False
    try:
        synchronize(device)
    except Exception:
        return False
    return is_short(device)


def _check_digest(package: Path, order: PackageOrder) -> None:
    """Before any of its code is loaded. Raises: PackageRefusedError."""
    metadata = torch._C._aoti.AOTIModelPackageLoader.load_metadata_from_package(str(package), "model")
    if metadata.get("digest") != order.digest:
        raise PackageRefusedError("it was made for something else")


def _check_answers(package: Network, eager: Network, order: PackageOrder) -> None:
    """Raises: PackageRefusedError, and whatever the device raises."""
    with ThreadStream(torch.device(order.device)).entered():
        for rows in CHECKED_ROWS:
            if rows > order.max_rows:
                break
            inputs = _some_inputs(order, rows)
            theirs = eager(inputs).float()  # first: where memory is short, this call says so
            ours = package(inputs).float()
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
