"""Compiling the UNet beside the drawing, for real: a C++ compiler, a small model on the CPU, a cache folder.

Compiling takes a minute of a core; the tests that need a package share one.
"""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from inference_server.engine_config import EngineConfig
from inference_server.engines.diffusers import compiling
from inference_server.engines.diffusers.compile_child import (
    MODULE,
    NICENESS,
    CompileError,
    NoRoomError,
    compile_in_child,
)
from inference_server.engines.diffusers.compiling import Compile, CompilePlan, CompilingThread
from inference_server.engines.diffusers.encode import RequestEncoder
from inference_server.engines.diffusers.engine import DiffusersEngine
from inference_server.engines.diffusers.loaded_package import PackageRefusedError, load_package
from inference_server.engines.diffusers.unet import BatchShape, EagerUNet, InputSizes, Networks
from inference_server.engines.diffusers.unet_package import PackageOrder, UNetOverTensors, export, order_for
from inference_server.engines.package_cache import MAX_TRIALS, PackageCache, PackageCacheError
from inference_server.messages import ModelInfo
from tests.support import process_tree, tiny_pipelines
from tests.support.diffusers_channel import ScriptedChannel, difference, order
from tests.support.inference_process import is_alive, wait_until

CPU = torch.device("cpu")
SIDE_PX = 64
SIZE = (SIDE_PX, SIDE_PX)
SHAPE = BatchShape(bucket=1, guided=True, height_px=SIDE_PX, width_px=SIDE_PX)
MAX_ROWS = 32  # of 16 images with guidance
DEADLINE_S = 900.0  # on a machine that has other tests to run
COMPILED = "compiled 64x64 px in"
SWITCHED = "64x64 px are drawn by the compiled UNet from here on"
# One block of each kind: what compiles soon.
SMALL_UNET: dict[str, Any] = {
    "block_out_channels": (8,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 8,
}


pytestmark = [pytest.mark.slow, pytest.mark.timeout(DEADLINE_S + 60)]


class Serving:
    """An engine with a size to compile, from its start until that size is drawn compiled."""

    def __init__(self, model: Path, cache: Path) -> None:
        self.log, self.meanwhile = io.StringIO(), []
        config = EngineConfig(
            engine="diffusers",
            model_id=str(model),
            model_precision="fp32",
            device="cpu",
            compile_cache=str(cache),
            compile_sizes=(SIZE,),
        )
        torch.set_num_threads(1)
        with contextlib.redirect_stdout(self.log):
            engine = DiffusersEngine(config, lambda stage: None)
            engine.warm_up()
            deadline_s = time.monotonic() + DEADLINE_S
            while SWITCHED not in self.log.getvalue():
                assert time.monotonic() < deadline_s, f"not compiled in {DEADLINE_S:g} s: {self.log.getvalue()}"
                picture = self._draw(engine)
                if COMPILED not in self.log.getvalue():  # from there on a picture may be half the one, half the other
                    self.meanwhile.append(picture)
                time.sleep(2)  # the compiler wants the cores too
            self.compiled = self._draw(engine)

    def _draw(self, engine: DiffusersEngine) -> Any:
        channel = ScriptedChannel(order(1))
        channel.close()
        engine.work(channel)
        return channel.picture_of(1)


class Model:
    """A saved model, and a cache that an engine filled for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = tiny_pipelines.save_sd(folder / "model", **SMALL_UNET), folder / "cache"
        self.first = Serving(self.folder, self.cache)
        pipeline = StableDiffusionPipeline.from_pretrained(self.folder)
        params = order(1).params
        self.unet, self.sizes = pipeline.unet, RequestEncoder(pipeline, CPU).input_sizes(params)
        self.order = order_for(self.unet, self.sizes, *SIZE, MAX_ROWS)

    def copied_cache(self, folder: Path) -> Path:
        """For a test that spoils it."""
        return Path(shutil.copytree(self.cache, folder / "cache"))

    def package(self, cache: Path) -> Path:
        found = PackageCache(cache).find(self.order.digest)
        assert found is not None
        return found

    def start(self, cache: Path, compile_: Compile) -> Networks:
        """What an engine process has after a start with this cache."""
        return start(self.unet, self.sizes, cache, compile_)

    def put_good_package(self, order: PackageOrder, file: Path, scratch: Path) -> None:
        """In place of the compiler."""
        shutil.copy(self.package(self.cache), file)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    if shutil.which("g++") is None:
        pytest.skip("compiling a UNet takes a C++ compiler (g++)")
    return Model(tmp_path_factory.mktemp("compiling"))


def start(unet: Any, sizes: InputSizes, cache: Path, compile_: Compile) -> Networks:
    networks = Networks(unet)
    thread = CompilingThread(unet, sizes, CompilePlan((SIZE,), MAX_ROWS, cache), networks, compile_, retry_s=0.01)
    thread.start()
    assert thread.join(DEADLINE_S), "compiling took too long"
    return networks


def is_compiled(networks: Networks) -> bool:
    return networks.of(SHAPE) is not networks.eager


def small_unet(**options: Any) -> Any:
    torch.manual_seed(0)
    rest = {"sample_size": SIDE_PX // 8, "layers_per_block": 1, "cross_attention_dim": 16}
    return UNet2DConditionModel(**(SMALL_UNET | rest | options)).eval().requires_grad_(False)


def small_sizes(**conditioning: tuple[int, ...]) -> InputSizes:
    return InputSizes(
        CPU, torch.float32, 4, px_per_latent=8, conditioning={"encoder_hidden_states": (5, 16), **conditioning}
    )


def small_order(**options: Any) -> PackageOrder:
    return order_for(small_unet(**options), small_sizes(), *SIZE, MAX_ROWS)


def must_not_compile(order: PackageOrder, file: Path, scratch: Path) -> None:
    raise AssertionError("compiled, although the cache has it")


def test_the_engine_draws_while_it_compiles_and_then_switches(model: Model) -> None:
    """Pictures come all the while, the same to the last bit; the compiled UNet's is at most 2/255 away."""
    assert model.first.meanwhile
    for picture in model.first.meanwhile:
        assert difference(picture, model.first.meanwhile[0]) == 0
    assert difference(model.first.compiled, model.first.meanwhile[0]) <= 2


def test_the_next_start_compiles_nothing(model: Model) -> None:
    """An engine that finds its package in the cache draws the very picture of the one that made it."""
    second = Serving(model.folder, model.cache)
    assert COMPILED in model.first.log.getvalue()
    assert COMPILED not in second.log.getvalue()
    assert difference(second.compiled, model.first.compiled) == 0


def test_a_package_serves_every_number_of_rows(model: Model) -> None:
    """One package is good for all buckets: its answers are the UNet's own for 1 to 32 rows."""
    networks = model.start(model.cache, must_not_compile)
    assert is_compiled(networks)
    for rows in (1, 2, 4, 8, 16, 32):
        inputs = model.sizes.allocate(BatchShape(rows, guided=False, height_px=SIDE_PX, width_px=SIDE_PX))
        for _, tensor in inputs.tensors():
            tensor.normal_()
        with torch.inference_mode():
            compiled, eager = networks.of(SHAPE)(inputs), networks.eager(inputs)
        assert float((compiled - eager).abs().max()) < 1e-4


@pytest.mark.parametrize("damage", ["half", "empty", "flipped", "no package", "foreign"])
def test_a_package_that_is_not_what_it_should_be_is_made_anew(model: Model, damage: str, tmp_path: Path) -> None:
    """Half-written, damaged or another model's: it is thrown away unrun, and compiled again."""
    cache = model.copied_cache(tmp_path)
    package = model.package(cache)
    content = bytearray(package.read_bytes())
    if damage == "foreign":
        content = content.replace(model.order.digest.encode(), b"0" * len(model.order.digest))
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    else:
        content = {"half": content[: len(content) // 2], "empty": bytearray(), "no package": bytearray(b"x" * 999)}[
            damage
        ]
    package.write_bytes(content)
    made: list[PackageOrder] = []

    def compile_(order: PackageOrder, file: Path, scratch: Path) -> None:
        made.append(order)
        model.put_good_package(order, file, scratch)

    assert is_compiled(model.start(cache, compile_))
    assert made == [model.order]


def test_a_package_that_draws_something_else_is_refused(model: Model, tmp_path: Path) -> None:
    """Before the switch its answers are compared with the UNet's own; one that differs is thrown away."""
    cache = PackageCache(model.copied_cache(tmp_path))
    with pytest.raises(PackageRefusedError, match="away from the UNet's own"):
        load_package(model.order, cache, model.unet, eager=lambda inputs: inputs.sample + 1)
    assert cache.find(model.order.digest) is None


def test_a_package_that_took_a_process_down_is_not_tried_again(model: Model, tmp_path: Path) -> None:
    """What two processes began to try and never said to be good is made anew by the next."""
    folder = model.copied_cache(tmp_path)
    for _ in range(MAX_TRIALS):
        PackageCache(folder).begin_trial(model.order.digest)
    with pytest.raises(PackageRefusedError):
        load_package(model.order, PackageCache(folder), model.unet, Networks(model.unet).eager)
    assert is_compiled(model.start(folder, model.put_good_package))
    assert is_compiled(model.start(folder, must_not_compile))


def test_nothing_is_left_in_the_cache_but_packages(model: Model) -> None:
    """What the compiler and the loader needed meanwhile is gone."""
    assert [path.suffix for path in model.cache.iterdir()] == [".pt2"]


@pytest.mark.parametrize("kind", ["sdxl", "lcm"])
def test_the_other_families_inputs_are_exported_too(kind: str) -> None:
    """SDXL's sizes and pooled text, and a distilled model's guidance, are inputs of the compiled network."""
    if kind == "sdxl":
        unet, sizes = small_unet(**SDXL), small_sizes(text_embeds=(8,), time_ids=(6,))
    else:
        unet, sizes = small_unet(time_cond_proj_dim=8), small_sizes(timestep_cond=(8,))
    made = order_for(unet, sizes, *SIZE, MAX_ROWS)
    network = UNetOverTensors(unet, [one.name for one in made.inputs])
    program = export(network, made).module()
    for rows in (2, 5):
        tensors = [torch.randn(rows, *one.shape[1:]) for one in made.inputs]
        assert torch.allclose(program(*tensors), network(*tensors), atol=1e-5)


def test_the_compilers_word_on_a_failure_is_told(tmp_path: Path) -> None:
    """A compiling process that fails says why, in one line."""
    wrong = small_order().model_copy(update={"weights": small_order().weights[1:]})
    with pytest.raises(CompileError, match=r"the compiler ended with 1: .*Missing key"):
        compile_in_child(wrong, tmp_path / "it.pt2", tmp_path)


def compiling_process(engine_pid: int) -> int | None:
    """The engine's child that compiles; importing torch starts others, for a moment (ldconfig)."""
    children = process_tree.children(engine_pid)
    return next((pid for pid in children if MODULE in process_tree.argv(pid)), None)


def test_the_compiling_process_ends_with_the_engine_process(tmp_path: Path) -> None:
    """However the engine process ends, nothing of its compiling goes on: the GPU is free."""
    script = (
        "import sys; from pathlib import Path\n"
        "from inference_server.engines.diffusers import compile_child, unet_package\n"
        "order = unet_package.PackageOrder.model_validate_json(sys.stdin.read())\n"
        "compile_child.compile_in_child(order, Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "it.pt2"), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as engine:
        assert engine.stdin is not None
        engine.stdin.write(small_order().model_dump_json())
        engine.stdin.close()
        child = wait_until(lambda: compiling_process(engine.pid), "the compiling process", DEADLINE_S)
        wait_until(lambda: os.getpriority(os.PRIO_PROCESS, child) == min(19, os.nice(0) + NICENESS), "it to step back")
        engine.kill()
    wait_until(lambda: not is_alive(child), "its end")


def test_where_compiling_fails_drawing_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The size keeps the UNet as it is, and the log has one line on it."""

    def fail(order: PackageOrder, file: Path, scratch: Path) -> None:
        raise CompileError("there is no C++ compiler")

    assert not is_compiled(start(small_unet(), small_sizes(), tmp_path / "cache", fail))
    assert capsys.readouterr().out == (
        "compiling: 64x64 px are drawn without a compiled UNet: there is no C++ compiler\n"
    )


def test_too_little_memory_at_the_start_is_no_verdict_for_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The size waits and is tried again until there is room."""
    tries: list[int] = []

    def compile_(order: PackageOrder, file: Path, kept: Path) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise NoRoomError("less than 2 GB is free")
        raise CompileError("there is no C++ compiler")

    start(small_unet(), small_sizes(), tmp_path / "cache", compile_)
    assert len(tries) == 3
    assert capsys.readouterr().out.splitlines()[:2] == [
        "compiling: 64x64 px wait for memory: less than 2 GB is free",
        "compiling: it is tried again in 0.01 s",
    ]


@pytest.mark.parametrize("max_batch", [1, 2])
def test_an_engine_of_one_picture_at_once_exports_too(max_batch: int) -> None:
    """One guided picture has two rows: what is exported is good for one row as well."""
    unet, sizes = small_unet(), small_sizes()
    made = order_for(unet, sizes, *SIZE, max_rows=2 * max_batch)
    network = UNetOverTensors(unet, [one.name for one in made.inputs])
    program = export(network, made).module()
    for rows in (1, 2, 4):
        tensors = [torch.randn(rows, *one.shape[1:]) for one in made.inputs]
        assert torch.allclose(program(*tensors), network(*tensors), atol=1e-5)


def test_a_cache_that_others_can_write_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What lies in it is run as code: a folder that others write to is refused, and drawing goes on."""
    tmp_path.chmod(0o777)
    with pytest.raises(PackageCacheError, match="chmod 700"):
        PackageCache(tmp_path)
    assert not is_compiled(start(small_unet(), small_sizes(), tmp_path, must_not_compile))
    assert "nothing is compiled" in capsys.readouterr().out


def test_the_order_is_the_same_for_the_same_network_whatever_its_weights() -> None:
    """A package is found again by what decides its code alone: the weights' values do not."""
    unet = small_unet()
    before = order_for(unet, small_sizes(), *SIZE, MAX_ROWS)
    unet.conv_in.weight.data.fill_(1)
    assert order_for(unet, small_sizes(), *SIZE, MAX_ROWS).digest == before.digest


def test_whatever_changes_the_code_changes_the_order() -> None:
    """Another network, layout, size, device or version is another package."""
    first = small_order()
    last_channels = small_unet().to(memory_format=torch.channels_last)
    others = [
        small_order(norm_eps=1e-4),
        order_for(last_channels, small_sizes(), *SIZE, MAX_ROWS),
        order_for(small_unet(), small_sizes(), SIDE_PX, 2 * SIDE_PX, MAX_ROWS),
        order_for(small_unet().half(), small_sizes(), *SIZE, MAX_ROWS),
        first.model_copy(update={"device": "cuda:0"}),
        first.model_copy(update={"made_with": (*first.made_with, "another GPU")}),
    ]
    digests = {one.digest for one in (first, *others)}
    assert len(digests) == 1 + len(others)


def test_an_order_reaches_the_compiling_process_whole() -> None:
    """As JSON and back it is the same order, and names the same package."""
    first = small_order()
    assert PackageOrder.model_validate_json(first.model_dump_json()).digest == first.digest


def model_info(gpu: bool) -> ModelInfo:
    return ModelInfo("m", "StableDiffusionPipeline", 512, 768, 25, 7.5, "DDIMScheduler", (), 1024, 8, gpu, 4)


def test_a_gpu_compiles_the_models_own_size_and_a_cpu_nothing() -> None:
    """Unless sizes are named, which then are the only ones; `none` compiles nothing."""
    unsaid = EngineConfig()
    assert compiling.sizes_to_compile(unsaid, model_info(gpu=True)) == ((512, 768),)
    assert compiling.sizes_to_compile(unsaid, model_info(gpu=False)) == ()
    named = EngineConfig(compile_sizes=(SIZE,))
    assert compiling.sizes_to_compile(named, model_info(gpu=False)) == (SIZE,)
    assert compiling.sizes_to_compile(EngineConfig(compile_sizes=()), model_info(gpu=True)) == ()


def test_a_cpu_with_nothing_to_compile_calls_the_unet_as_it_is() -> None:
    """No thread and no cache folder come into being."""
    made = compiling.make_runner(small_unet(), small_sizes(), EngineConfig(), model_info(gpu=False))
    assert isinstance(made, EagerUNet)
