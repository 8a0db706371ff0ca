"""A fixed inference endpoint (ENDPOINT_URL): somebody else keeps it running, nothing is started or stopped here."""

import time

from backends.away import away_error
from backends.base import EndpointBackend
from backends.start import TellStage
from endpoint_client import EndpointClient
from errors import EndpointUnreachableError, StartError


class FixedEndpoint(EndpointBackend):
    """An inference server that may load its model for `timeout_s` seconds and not answer at all for `refused_s`.

    A model that is being downloaded is waited for as long as that goes on.
    """

    def __init__(self, endpoint: EndpointClient, *, timeout_s: float, refused_s: float = 10.0) -> None:
        super().__init__(
            kind="endpoint", demo=False, tunnel=False, starting="reaching the endpoint", timeout_s=timeout_s
        )
        self._endpoint = self._fixed = endpoint
        self._refused_s = refused_s

    def _get_ready(self, tell: TellStage) -> None:
        tell("Reaching the machine that draws")
        begin = time.monotonic()
        while True:
            try:
                health = self._fixed.health()
                if health.takes_posts:
                    self._note(health)
                    return
                if health.absence:
                    raise away_error(self._fixed.link, "find it healthy", health.absence)
                if health.broken:
                    raise self._not_healthy("find it healthy", health.reason or "its model failed to load")
                tell(health.loading_sentence)
                if health.is_downloading:
                    begin = time.monotonic()
            except EndpointUnreachableError:
                if time.monotonic() - begin > min(self._refused_s, self._timeout_s):
                    raise
            if time.monotonic() - begin > self._timeout_s:
                raise self._not_healthy(f"find it healthy within {self._timeout_s:g} s", "its model is still loading")
            time.sleep(0.25)

    def _not_healthy(self, tried: str, came_back: str) -> StartError:
        return StartError(
            self._fixed.link, tried=tried, came_back=came_back, next_step="See the inference server's log."
        )
