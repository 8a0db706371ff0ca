"""Packages: one UNet, compiled by PyTorch's AOTInductor for one size of picture; what a package is made from, and how.

A `PackageOrder` holds everything that decides the code and nothing else, never a weight's value. The same order always
means the same package, so its digest names the file in the cache; a new version of a library, another GPU or another
model means another file.

The compiling process has no weights. The compiler reads shapes and strides alone (`always_keep_tensor_constants`:
otherwise it would write small weights into the code), so views of one small buffer stand in for the weights: some tens
of MB instead of GB.
Source: torch/_inductor (2.15): config.py, graph.py `get_attr`, utils.py `is_same_tensor`
"""

import hashlib
import json
import platform
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from diffusers import UNet2DConditionModel
from pydantic import BaseModel, ConfigDict

from inference_server.engines.diffusers.unet import BatchShape, InputSizes, UNetInputs, call_unet

LEAST_MAX_ROWS = 4  # the exporter takes a range of 1 or 2 rows for a constant
FORMAT = 1  # of the packages; counted up when the way they are made changes
EXAMPLE_ROWS = 4  # the compiler tunes its kernels for so many
UNET = "unet"  # the name of the UNet in `UNetOverTensors`
ALIGN_BYTES = 64  # between the beginnings of two weights: none may look like another
COMPILER_SETTINGS: dict[str, Any] = {
    "always_keep_tensor_constants": True,
    "aot_inductor.package_constants_in_so": False,
    "aot_inductor.precompile_headers": False,  # they save time over many compilations, here there is one
}


class TensorLayout(BaseModel):
    """How a weight or an input (of one row) lies in memory."""

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
    """The UNet as a function of plain tensors: the form in which it is compiled, and in which packages are called."""

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
        weights=tuple(layout(name, weight) for name, weight in base_weights(unet).items()),
        inputs=tuple(layout(name, tensor) for name, tensor in one_row.tensors()),
        max_rows=max(LEAST_MAX_ROWS, max_rows),
        device=str(sizes.device),
        matmul_precision=torch.get_float32_matmul_precision(),
        made_with=_made_with(sizes.device),
    )


def base_weights(unet: Any) -> dict[str, torch.Tensor]:
    """The UNet's own weights by their own names, whatever LoRAs were loaded into it."""
    return {
        name.replace(".base_layer.", "."): weight for name, weight in unet.state_dict().items() if ".lora_" not in name
    }


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


def compile_package(order: PackageOrder, file: str) -> None:
    """Writes the package to `file` (must end in .pt2). Raises: whatever the compiler raises."""
    torch.set_float32_matmul_precision(order.matmul_precision)
    settings = COMPILER_SETTINGS | {"aot_inductor.metadata": {"digest": order.digest}}
    torch._inductor.aoti_compile_and_package(
        export(stand_in(order), order), package_path=file, inductor_configs=settings
    )


def export(network: UNetOverTensors, order: PackageOrder) -> torch.export.ExportedProgram:
    """The network's operations, for any number of rows from 1 to `max_rows`."""
    examples = tuple(_example(one, min(EXAMPLE_ROWS, order.max_rows), order.device) for one in order.inputs)
    rows = torch.export.Dim("rows", min=1, max=order.max_rows)
    dynamic_shapes = (tuple({0: rows} for _ in examples),)
    with torch.no_grad():
        return torch.export.export(network, examples, dynamic_shapes=dynamic_shapes, strict=False)


def stand_in(order: PackageOrder) -> UNetOverTensors:
    """The network with weights of the order's shapes and strides, all of them in the same memory."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(order.unet_config)
    size = max(_bytes(weight) for weight in order.weights) + ALIGN_BYTES * len(order.weights)
    size += -size % ALIGN_BYTES
    # Random, not zeros: the compiler may take a tensor of one value for a constant.
    buffer = torch.randn(size // 4, dtype=torch.float32, device=order.device).view(torch.uint8)
    weights = {
        weight.name: buffer.view(torch_dtype(weight)).as_strided(
            weight.shape, weight.stride, index * ALIGN_BYTES // torch_dtype(weight).itemsize
        )
        for index, weight in enumerate(order.weights)
    }
    unet.load_state_dict(weights, strict=True, assign=True)
    return UNetOverTensors(unet.eval().requires_grad_(False), [one.name for one in order.inputs])


def _bytes(weight: TensorLayout) -> int:
    """From its first to its last element."""
    reach = sum((size - 1) * step for size, step in zip(weight.shape, weight.stride, strict=True))
    return int(torch_dtype(weight).itemsize) * (reach + 1)


def _example(one: TensorLayout, rows: int, device: str) -> torch.Tensor:
    return torch.zeros(rows, *one.shape[1:], dtype=torch_dtype(one), device=device)
