"""What a compiled UNet is made from: everything that decides its code and nothing else, never a weight's value.

The same order always means the same package, so its digest names the file in the cache; a new version of a library,
another GPU or another model means another file.
"""

import hashlib
import json
import platform
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from pydantic import BaseModel, ConfigDict

from inference_server.engines.diffusers.unet import BatchShape, InputSizes, UNetInputs, call_unet

LEAST_MAX_ROWS = 4  # the exporter takes a range of 1 or 2 rows for a constant
FORMAT = 1  # of the packages; counted up when the way they are made changes


class TensorLayout(BaseModel):
    """A weight, or (with rows left out) an input."""

    model_config = ConfigDict(frozen=True)

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str  # torch's name, "float16"


class PackageOrder(BaseModel):
    """One size of one UNet on one kind of device, for 1 to `max_rows` rows."""

    model_config = ConfigDict(frozen=True)

    unet_config: dict[str, Any]  # diffusers' own, as in its config.json
    weights: tuple[TensorLayout, ...]
    inputs: tuple[TensorLayout, ...]  # in the order of UNetInputs, of one row each
    max_rows: int  # at least LEAST_MAX_ROWS
    device: str  # "cuda:0"
    matmul_precision: str  # torch.set_float32_matmul_precision
    made_with: tuple[str, ...]  # versions and hardware

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:40]


class UNetOverTensors(torch.nn.Module):
    """The UNet as a function of plain tensors: the form that is compiled, and that packages are called in."""

    def __init__(self, unet: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.unet = unet
        self._names = tuple(names)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return call_unet(self.unet, UNetInputs(**dict(zip(self._names, tensors, strict=True))))


def order_for(unet: Any, sizes: InputSizes, width_px: int, height_px: int, max_rows: int) -> PackageOrder:
    """What to compile so that this UNet, with its weights where they are, draws this size."""
    one_row = sizes.allocate(BatchShape(bucket=1, guided=False, height_px=height_px, width_px=width_px))
    config = {name: value for name, value in json.loads(unet.to_json_string()).items() if not name.startswith("_")}
    return PackageOrder(
        unet_config=config,
        weights=tuple(layout(name, weight) for name, weight in unet.state_dict().items()),
        inputs=tuple(layout(name, tensor) for name, tensor in one_row.tensors()),
        max_rows=max(LEAST_MAX_ROWS, max_rows),
        device=str(sizes.device),
        matmul_precision=torch.get_float32_matmul_precision(),
        made_with=_made_with(sizes.device),
    )


def layout(name: str, tensor: torch.Tensor) -> TensorLayout:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorLayout(name=name, shape=tuple(tensor.shape), stride=tensor.stride(), dtype=dtype)


def torch_dtype(one: TensorLayout) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, one.dtype)
    return dtype


def _made_with(device: torch.device) -> tuple[str, ...]:
    versions = (f"format {FORMAT}", f"torch {torch.__version__}", f"diffusers {diffusers.__version__}")
    if device.type == "cuda":
        capability = ".".join(str(part) for part in torch.cuda.get_device_capability(device))
        return (*versions, torch.cuda.get_device_name(device), capability)
    return (*versions, platform.machine(), torch.backends.cpu.get_cpu_capability())
