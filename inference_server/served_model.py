"""What is known of the model that this server draws with: by its configuration, and all of it once it was loaded."""

import logging

from inference_server.config import InferenceConfig
from inference_server.limits import Defaults, Limits, defaults_of_model, of_model
from inference_server.messages import ModelInfo
from inference_server.resolve import Offer

log = logging.getLogger("inference_server.dispatcher")


class ServedModel:
    """`info`, `defaults`: None before it was loaded; then `limits` are its own, cut to the configured ones."""

    def __init__(self, config: InferenceConfig) -> None:
        self._config = config
        self.info: ModelInfo | None = None
        self.limits: Limits = config.limits.over(Limits())
        self.defaults: Defaults | None = None

    @property
    def offer(self) -> Offer:
        """What a request may ask for."""
        config = self._config
        return Offer(config.model_name, self.limits, self.info, self.defaults, config.lenient, config.checks)

    @property
    def has_gpu(self) -> bool:
        """Whether it was on a GPU when it was last loaded."""
        return self.info is not None and self.info.gpu

    def note(self, info: ModelInfo) -> None:
        """It was loaded. The first time the log is told what the maintainer should know of it.

        Raises: ValueError when the configured limits do not fit it.
        """
        self.limits = self._config.limits.over(of_model(info))
        if self.info is None:  # it is the same each time the engine wakes
            if cut := self._config.limits.without_effect(self.limits):
                log.warning("the configured limits go beyond the model's, which hold: %s", "; ".join(cut))
            for notice in filter(None, (*info.notices, info.memory_plan)):
                log.info("%s: %s", info.name, notice)
        self.info, self.defaults = info, defaults_of_model(info, self.limits)
