"""The names by which people know schedulers (A1111's, Fooocus's, ComfyUI's), as diffusers' classes and settings.

Source: https://huggingface.co/docs/diffusers/api/schedulers/overview (the table of names)
"""

from collections.abc import Mapping

_KARRAS: dict[str, object] = {"use_karras_sigmas": True}
_SDE: dict[str, object] = {"algorithm_type": "sde-dpmsolver++"}
# Name -> class, settings beside the model's own.
KNOWN: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "LMS Karras": ("LMSDiscreteScheduler", _KARRAS),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 Karras": ("KDPM2DiscreteScheduler", _KARRAS),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "DPM2 a Karras": ("KDPM2AncestralDiscreteScheduler", _KARRAS),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", _KARRAS),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", _SDE),
    "DPM++ 2M SDE Karras": ("DPMSolverMultistepScheduler", _KARRAS | _SDE),
    "DPM++ SDE": ("DPMSolverSinglestepScheduler", {}),
    "DPM++ SDE Karras": ("DPMSolverSinglestepScheduler", _KARRAS),
    "DDIM": ("DDIMScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
}


def class_of(name: str) -> tuple[str, Mapping[str, object]]:
    """diffusers' class and settings of a scheduler that goes by either name."""
    return KNOWN.get(name, (name, {}))
