"""What there is to know of a family of models beside its files: how it is drawn with, and its licence."""

from dataclasses import dataclass

ASKS_FILTER = "filter"  # the licence asks a host to filter or to review what is drawn
ASKS_DISCLOSURE = "disclosure"  # ... to tell viewers that a machine made the pictures
ASKS_NON_COMMERCIAL = "non-commercial"  # ... to earn nothing with it
ASKS_ATTRIBUTION = "attribution"  # ... to name its maker
_ASKED = {
    ASKS_FILTER: "filter or review what is drawn",
    ASKS_DISCLOSURE: "tell viewers that a machine made the pictures",
    ASKS_NON_COMMERCIAL: "earn nothing with it",
    ASKS_ATTRIBUTION: "name the model's maker beside the pictures",
}


@dataclass(frozen=True)
class Licence:
    """A model's licence and what it asks of whoever lets others draw with the model."""

    name: str
    asks: tuple[str, ...] = ()  # ASKS_* in the order in which they are told

    @property
    def sentence(self) -> str:
        """For the log, the healthcheck and the page."""
        asks = [_ASKED[one] for one in self.asks]
        return f"Licence: {self.name}." + (f" It asks a host to {', to '.join(asks)}." if asks else "")


@dataclass(frozen=True)
class Family:
    """One row. Steps, guidance and size are what a request gets that names none."""

    name: str
    pipelines: tuple[str, ...]  # class names of diffusers
    num_inference_steps: int
    guidance_scale: float
    # Those that the family is known to live with, the best first; others give black pictures or worse ones.
    precisions: tuple[str, ...]
    licence: Licence
    source: str
    pattern: str | None = None  # searched in the model's name, without regard to case
    distilled: bool | None = None  # what `is_distilled` of model_index.json must say, where it says anything
    guidance_argument: str = "guidance_scale"  # of the pipeline's `__call__`
    side_px: int | None = 1024  # None: the trained side that the model's own configuration names
    negative_prompt: bool = True  # whether one has an effect at this guidance
    blank_negative_prompt: str | None = None  # what to send for none, where guidance needs one
    max_sequence_length: int | None = None  # of the prompt, in tokens; None: the pipeline's own default
    vae_fp32_in: tuple[str, ...] = ()  # precisions in which the autoencoder must stay in fp32

    @property
    def guided(self) -> bool:
        """Whether guidance is a knob of this model; the distilled ones draw without it."""
        return self.guidance_scale > 1
