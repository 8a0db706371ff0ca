"""The UNet's runner for the step loop: eager at first, compiled and recorded where and when that is to be had."""

from pathlib import Path
from typing import Any

import torch

from inference_server.engine_config import EngineConfig
from inference_server.engines.diffusers.compiling import CompilePlan, CompilingThread
from inference_server.engines.diffusers.graphs import CudaRecorder, Graphs
from inference_server.engines.diffusers.networks import Networks, Size
from inference_server.engines.diffusers.unet import BatchShape, EagerUNet, InputSizes, UNetInputs, UNetRunner
from inference_server.messages import ModelInfo


class SwitchingUNet:
    """Looks before each step which network it is that draws this size now."""

    def __init__(self, unet: Any, sizes: InputSizes, plan: CompilePlan, graphs: Graphs | None) -> None:
        self._eager, self._graphs = EagerUNet(unet, sizes), graphs
        self._networks = Networks(unet)
        self._compiling = CompilingThread(unet, sizes, plan, self._networks)

    def inputs(self, shape: BatchShape) -> UNetInputs:
        return self._eager.inputs(shape)

    def run(self, shape: BatchShape, inputs: UNetInputs) -> torch.Tensor:
        self._compiling.start()  # with the first step, so that loading a model does not take longer
        network = self._networks.of(shape)
        return network(inputs) if self._graphs is None else self._graphs.run(shape, inputs, network)

    def forget(self, shape: BatchShape | None = None) -> None:
        self._eager.forget(shape)
        if self._graphs is not None:
            self._graphs.forget(shape)


def make_runner(unet: Any, sizes: InputSizes, order: EngineConfig, facts: ModelInfo) -> UNetRunner:
    """On the CPU the UNet as it is, unless sizes to compile were named (see `compiling` on what that costs there)."""
    cuda = sizes.device.type == "cuda"
    chosen = sizes_to_compile(order, facts)
    if not cuda and not chosen:
        return EagerUNet(unet, sizes)
    folder = None if order.compile_cache is None else Path(order.compile_cache)
    plan = CompilePlan(chosen, max_rows=2 * facts.images_at_once, folder=folder)
    return SwitchingUNet(unet, sizes, plan, Graphs(CudaRecorder(sizes.device)) if cuda else None)


def sizes_to_compile(order: EngineConfig, facts: ModelInfo) -> tuple[Size, ...]:
    """Those that were named; by default a GPU's compiles the model's own."""
    if order.compile_sizes is not None:
        return order.compile_sizes
    return ((facts.width_px, facts.height_px),) if facts.gpu else ()
