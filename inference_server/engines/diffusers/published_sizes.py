"""What the models that people run take in memory, in 16 bits, from the sizes of their published files.

Parameters times two bytes; the hub's file lists show the same GB (checked for FLUX.1, FLUX.2-klein-4B, Krea-2, SDXL).
The networks' were counted by instantiating diffusers' classes with the published configurations.
"""

from inference_server.engines.diffusers.memory_plan import Memory, ModelSize, NoPlanError, choose

_MEGA = 1_000_000
_CLIP_L, _CLIP_G, _T5_XXL = 246 * _MEGA, 1_390 * _MEGA, 9_524 * _MEGA
_QWEN3_4B, _QWEN3_8B, _QWEN3_VL_4B, _QWEN25_VL_7B = 8_045 * _MEGA, 16_381 * _MEGA, 8_875 * _MEGA, 16_584 * _MEGA
_MISTRAL_24B = 48_023 * _MEGA
_VAE, _QWEN_VAE = 168 * _MEGA, 254 * _MEGA


def _size(network: int, vae: int = _VAE, side_px: int = 1024, vae_fp32: bool = False, **encoders: int) -> ModelSize:
    """In MB what is not a constant above."""
    return ModelSize({"transformer": network * _MEGA, "vae": vae, **encoders}, 2, side_px * side_px, vae_fp32)


# Ten models by their ids on the hub, the ones that need more further down.
SIZES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _size(1_719, side_px=512, text_encoder=_CLIP_L),
    "stabilityai/stable-diffusion-xl-base-1.0": _size(
        5_135, vae_fp32=True, text_encoder=_CLIP_L, text_encoder_2=_CLIP_G
    ),
    "stabilityai/stable-diffusion-3.5-medium": _size(
        4_940, text_encoder=_CLIP_L, text_encoder_2=_CLIP_G, text_encoder_3=_T5_XXL
    ),
    "black-forest-labs/FLUX.2-klein-4B": _size(7_751, text_encoder=_QWEN3_4B),
    "Tongyi-MAI/Z-Image-Turbo": _size(12_310, text_encoder=_QWEN3_4B),
    "stabilityai/stable-diffusion-3.5-large": _size(
        16_290, text_encoder=_CLIP_L, text_encoder_2=_CLIP_G, text_encoder_3=_T5_XXL
    ),
    "black-forest-labs/FLUX.2-klein-9B": _size(18_157, text_encoder=_QWEN3_8B),
    "black-forest-labs/FLUX.1-dev": _size(23_802, text_encoder=_CLIP_L, text_encoder_2=_T5_XXL),
    "krea/Krea-2-Turbo": _size(25_640, vae=_QWEN_VAE, text_encoder=_QWEN3_VL_4B),
    "Qwen/Qwen-Image": _size(40_861, vae=_QWEN_VAE, side_px=1328, text_encoder=_QWEN25_VL_7B),
}
CARDS_GB = (6, 8, 12, 16, 24)
TAKEN_BYTES = 500_000_000  # of a card by its driver and a desktop
HOST_BYTES = 32 * 10**9  # of the machine itself, free for what is not on the card


def memory_of(card_gb: int) -> Memory:
    """Of a card that is sold with so many GB (each of 1,073,741,824 bytes)."""
    total = card_gb * 2**30
    return Memory(total, total - TAKEN_BYTES, HOST_BYTES)


def plan_cell(size: ModelSize, memory: Memory) -> str:
    """The chosen plan in a few words, for the table of the README."""
    try:
        plan = choose(size, memory)
    except NoPlanError:
        return "no"
    placed = {"card": "", "encoders": " +", "parts": "", "blocks": " blocks"}[plan.placement]
    name = plan.name if plan.placement != "blocks" or plan.quantisation != "none" else "offload"
    return f"{name}{placed if name != 'offload' else ''}{' tiles' if plan.tiling else ''}"


def table() -> str:
    """The README's table, in Markdown."""
    rows = [["model", *(f"{card} GB" for card in CARDS_GB)], ["---"] * (len(CARDS_GB) + 1)]
    rows += [[f"`{name}`", *(plan_cell(size, memory_of(card)) for card in CARDS_GB)] for name, size in SIZES.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def fitting_model(memory: Memory) -> str | None:
    """The largest of these models that this card draws with at full speed."""
    for name, size in reversed(SIZES.items()):
        try:
            plan = choose(size, memory, "full")
        except NoPlanError:
            continue
        if plan.compiles:
            return name
    return None
