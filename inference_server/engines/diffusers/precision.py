"""Chooses the precision by what the model lives with and the card can do, and the one to try after a spoilt picture."""

from dataclasses import dataclass

import torch

from inference_server.engines import ModelLoadError
from inference_server.engines.diffusers.devices import Card
from inference_server.engines.diffusers.family import Family

DTYPES = {
    **dict.fromkeys(("fp16", "float16", "half"), torch.float16),
    **dict.fromkeys(("bf16", "bfloat16"), torch.bfloat16),
    **dict.fromkeys(("fp32", "float32", "float", "full"), torch.float32),
}
NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
_OF_UNKNOWN = ("bf16", "fp32")  # what a model nobody has told of lives with for sure


@dataclass(frozen=True)
class Precision:
    """What a model is loaded in."""

    dtype: torch.dtype
    told: str = ""  # why it is not what was asked for, or not what the model is best in

    @property
    def name(self) -> str:
        return NAMES[self.dtype]


def read(asked: str) -> torch.dtype:
    """From any of the usual names. Raises: ModelLoadError."""
    dtype = DTYPES.get(asked.lower().removeprefix("torch."))
    if dtype is None:
        raise ModelLoadError(f"MODEL_PRECISION {asked!r} is unknown here; there are fp16, bf16 and fp32")
    return dtype


def choose(asked: str | None, family: Family | None, card: Card | None) -> Precision:
    """`card` None: the CPU, which draws in fp32 unless asked. Raises: ModelLoadError."""
    lives_with = family.precisions if family else _OF_UNKNOWN
    if card is None:
        return Precision(read(asked) if asked else torch.float32)
    wanted = NAMES[read(asked)] if asked else lives_with[0]
    if wanted != "bf16" or card.can_bf16:
        told = ""
        if asked and wanted not in lives_with:
            name = family.name if family else "this model"
            told = f"{name} is not known to draw in {wanted}, which MODEL_PRECISION asks for"
        return Precision(DTYPES[wanted], told)
    instead = next(one for one in lives_with if one != "bf16")
    return Precision(DTYPES[instead], f"the {card.name} has no bf16: it draws in {instead}")


def safer(dtype: torch.dtype, family: Family | None, card: Card | None) -> str | None:
    """The precision to try after pictures that were no pictures; None: there is none.

    bf16 has the range of fp32 and costs no memory more; fp32 has both range and digits.
    """
    can_bf16 = card is None or card.can_bf16
    lives_with = family.precisions if family else _OF_UNKNOWN
    if dtype == torch.float16:
        return "bf16" if can_bf16 and "bf16" in lives_with else "fp32"
    return "fp32" if dtype == torch.bfloat16 else None
