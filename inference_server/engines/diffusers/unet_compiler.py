"""Compiles the UNet for one size: in the compiling process, and without any weights.

The compiler reads shapes and strides alone (`always_keep_tensor_constants`: otherwise it would write small weights into
the code), so views of one small buffer stand in for the weights: some tens of MB instead of GB.
Source: torch/_inductor (2.15): config.py, graph.py `get_attr`, utils.py `is_same_tensor`.
"""

from typing import Any

import torch
from diffusers import UNet2DConditionModel

from inference_server.engines.diffusers.unet_package import (
    PackageOrder,
    TensorLayout,
    UNetOverTensors,
    torch_dtype,
)

EXAMPLE_ROWS = 4  # the compiler tunes its kernels for so many
ALIGN_BYTES = 64  # between the beginnings of two weights: none may look like another
COMPILER_SETTINGS: dict[str, Any] = {
    "always_keep_tensor_constants": True,
    "aot_inductor.package_constants_in_so": False,
    "aot_inductor.precompile_headers": False,  # they pay for many compilations, here there is one
}


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
    """The network with the order's weights by shape and stride, all of them in the same memory."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(order.unet_config)
    size = max(_bytes(weight) for weight in order.weights) + ALIGN_BYTES * len(order.weights)
    size += -size % ALIGN_BYTES
    # Random, not zeros: the compiler may take what is all one value for a constant.
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
