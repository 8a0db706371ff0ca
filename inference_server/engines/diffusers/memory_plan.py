"""Decides before loading how a model lies in a card's memory, from its files' sizes and what is free. Without torch.

From what draws fastest to what fits anywhere: all on the card; text encoders brought for a prompt and taken away again;
weights kept in fp8, then in nf4; and blocks brought in turn from the machine's own memory. A plan that is asked for is
taken as it is.
Sources: diffusers 0.42, docs/source/en/optimization/memory.md (offloading, layerwise casting) and quantization/
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Quantisation = Literal["none", "fp8", "nf4"]
Placement = Literal["card", "encoders", "parts", "blocks"]

CONTEXT_BYTES = 500_000_000  # CUDA's context and libraries
ACTIVATION_BYTES = 1_000_000_000  # of one picture of the model's default size
# The autoencoder's peak in 16 bits for each pixel of a picture: 128 channels at full size, several at a time.
DECODE_BYTES_PER_PX = 2600
TILE_PX = 512  # side of a tile where a picture is decoded in tiles
# Of the size in 16 bits. In fp8 norms and first layers stay; in nf4 so do embeddings, and each 64 weights have a scale.
FP8_SHARE, NF4_SHARE = 0.53, 0.32
STREAMED_SHARE = 0.10  # of a part whose layers are brought one after the other: its largest (an embedding)
BLOCK_SHARE = 0.08  # of a network whose blocks are: the running one and the next

_PLACED = {
    "card": "everything is on the card",
    "encoders": "text encoders are brought for each prompt, the rest is on the card",
    "parts": "one part at a time is on the card",
    "blocks": "weights lie in the machine's memory and are brought block by block",
}
_QUANTISED = {"none": "", "fp8": "weights are kept in fp8 (8 bits)", "nf4": "weights are kept in nf4 (4 bits)"}


class NoPlanError(Exception):
    """The model does not fit. `needed_bytes`: of the leanest plan that was allowed."""

    def __init__(self, reason: str, needed_bytes: int) -> None:
        super().__init__(reason)
        self.needed_bytes = needed_bytes


@dataclass(frozen=True)
class ModelSize:
    """What a model's parts take in memory, by their names in model_index.json, loaded in `itemsize` bytes a weight."""

    parts: Mapping[str, int]
    itemsize: int = 2
    area_px: int = 1024 * 1024  # of its default picture
    vae_fp32: bool = False  # its autoencoder is loaded in fp32 whatever the rest is

    @property
    def weights_bytes(self) -> int:
        return self._bytes("none", self.parts)

    def _bytes(self, quantisation: Quantisation, names: Sequence[str] | Mapping[str, int]) -> int:
        return sum(self.part_bytes(name, quantisation) for name in names)

    def part_bytes(self, name: str, quantisation: Quantisation) -> int:
        """`quantisation`: of those parts that suffer it."""
        size = self.parts[name]
        if name == "vae" and self.vae_fp32:
            return size * 4 // self.itemsize
        if quantisation == "none" or not is_quantised(name):
            return size
        return int(size * 2 / self.itemsize * (FP8_SHARE if quantisation == "fp8" else NF4_SHARE))

    def decode_bytes(self, area_px: int) -> int:
        itemsize = 4 if self.vae_fp32 else self.itemsize
        return area_px * DECODE_BYTES_PER_PX * itemsize // 2

    def resident_bytes(self, quantisation: Quantisation, placement: Placement) -> int:
        """What lies on the card at the worst moment, without what drawing takes."""
        encoders = [name for name in self.parts if name.startswith("text_encoder")]
        rest = [name for name in self.parts if name not in encoders]
        largest_encoder = max((self.part_bytes(name, "none") for name in encoders), default=0)
        if placement == "card":
            return self._bytes(quantisation, self.parts)
        if placement == "encoders":
            return self._bytes(quantisation, rest) + int(STREAMED_SHARE * largest_encoder)
        if placement == "parts":
            return max((self.part_bytes(name, quantisation) for name in self.parts), default=0)
        networks = [self.part_bytes(name, quantisation) for name in rest if is_network(name)]
        others = sum(self.part_bytes(name, quantisation) for name in rest if not is_network(name))
        return others + max(int(BLOCK_SHARE * max(networks, default=0)), int(STREAMED_SHARE * largest_encoder))


def is_network(part: str) -> bool:
    """Whether it is what is called at every step."""
    return part.startswith(("transformer", "unet", "prior"))


def is_quantised(part: str) -> bool:
    """Autoencoders suffer from few bits and are small; so are safety checkers."""
    return is_network(part) or part.startswith("text_encoder")


@dataclass(frozen=True)
class Memory:
    """What a machine has. `free_bytes` None: the card cannot tell, and its whole memory is taken for free."""

    total_bytes: int
    free_bytes: int | None
    host_bytes: int | None = None  # the machine's own memory that is available; None: unknown

    @property
    def usable_bytes(self) -> int:
        return self.total_bytes if self.free_bytes is None else self.free_bytes


@dataclass(frozen=True)
class MemoryPlan:
    """How a model lies in memory."""

    quantisation: Quantisation  # of the network, and of the text encoders where they lie on the card
    placement: Placement
    tiling: bool  # pictures of the default size are decoded in tiles
    needed_bytes: int  # of the card
    reason: str = ""

    @property
    def name(self) -> str:
        """As MEMORY_PLAN has it."""
        if self.quantisation != "none":
            return self.quantisation
        return "full" if self.placement in ("card", "encoders") else "offload"

    @property
    def compiles(self) -> bool:
        """Whether the network's weights lie still, as they are, so that compiled code can read them."""
        return self.quantisation == "none" and self.placement in ("card", "encoders")

    @property
    def sentence(self) -> str:
        """For the log, the healthcheck and the doctor."""
        parts = [_QUANTISED[self.quantisation], _PLACED[self.placement]]
        parts += ["pictures are decoded in tiles"] if self.tiling else []
        return f"Memory plan {self.name}: {', '.join(filter(None, parts))} ({self.reason})."


EVERYTHING = MemoryPlan("none", "card", tiling=False, needed_bytes=0, reason="there is no card to fit")
_Choice = tuple[Quantisation, Placement]
CHOICES: dict[str, tuple[_Choice, ...]] = {
    "full": (("none", "card"), ("none", "encoders")),
    "fp8": (("fp8", "card"), ("fp8", "encoders"), ("fp8", "blocks")),
    "nf4": (("nf4", "card"), ("nf4", "encoders")),
    "offload": (("none", "parts"), ("none", "blocks")),
}
CHOICES["auto"] = (*CHOICES["full"], *CHOICES["fp8"][:2], *CHOICES["nf4"], ("none", "blocks"), ("fp8", "blocks"))


def choose(
    size: ModelSize, memory: Memory, asked: str = "auto", quantisations: Sequence[Quantisation] = ("none", "fp8", "nf4")
) -> MemoryPlan:
    """The first plan of those allowed that fits. `quantisations`: those that can be had here.

    Raises: NoPlanError.
    """
    plans = [_plan(size, *choice, memory) for choice in CHOICES[asked] if choice[0] in quantisations]
    for plan in plans:
        if plan.needed_bytes <= memory.usable_bytes and _host_suffices(size, plan, memory):
            return replace(plan, reason=_reason(size, plan, memory, asked))
    if not plans:
        raise NoPlanError(f"the package that {asked} takes is not installed here", 0)
    least = min(plan.needed_bytes for plan in plans)
    raise NoPlanError(
        f"it needs about {gb(plans[0].needed_bytes)} of the GPU, {gb(least)} with MEMORY_PLAN={asked} at its leanest, "
        f"and {gb(memory.usable_bytes)} of the GPU's {gb(memory.total_bytes)} can be had",
        least,
    )


def _plan(size: ModelSize, quantisation: Quantisation, placement: Placement, memory: Memory) -> MemoryPlan:
    resident = size.resident_bytes(quantisation, placement) + CONTEXT_BYTES
    whole = resident + max(ACTIVATION_BYTES, size.decode_bytes(size.area_px))
    if whole <= memory.usable_bytes:
        return MemoryPlan(quantisation, placement, tiling=False, needed_bytes=whole)
    tile_px = min(size.area_px, TILE_PX * TILE_PX)
    return MemoryPlan(
        quantisation,
        placement,
        tiling=tile_px < size.area_px,
        needed_bytes=resident + max(ACTIVATION_BYTES, size.decode_bytes(tile_px)),
    )


def _host_suffices(size: ModelSize, plan: MemoryPlan, memory: Memory) -> bool:
    """Whether what is not on the card has room beside it."""
    if memory.host_bytes is None or plan.placement == "card":
        return True
    encoders = sum(size.part_bytes(name, "none") for name in size.parts if name.startswith("text_encoder"))
    if plan.placement == "encoders":
        return encoders <= memory.host_bytes
    networks = sum(size.part_bytes(name, plan.quantisation) for name in size.parts if is_network(name))
    return encoders + networks <= memory.host_bytes


def _reason(size: ModelSize, plan: MemoryPlan, memory: Memory, asked: str) -> str:
    told = f"it takes about {gb(plan.needed_bytes)} of the {gb(memory.usable_bytes)} that are free"
    if memory.free_bytes is None:
        told = f"it takes about {gb(plan.needed_bytes)}; the card does not tell what is free of its memory"
    if asked != "auto":
        return f"{told}; MEMORY_PLAN={asked}"
    if plan.placement == "card" and plan.quantisation == "none":
        return told
    return f"{told}; in {8 * size.itemsize} bits it would take {gb(_plan(size, 'none', 'card', memory).needed_bytes)}"


def gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
