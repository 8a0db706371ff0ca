"""Watches one endpoint during a start: asks for its health and measures for how long it cannot be reached."""

import time

from backends.start import Start, Stopwatch
from endpoint.wire_format import Health
from endpoint_client import EndpointClient
from errors import EndpointError, EndpointUnreachableError, StartError


class HealthProbe:
    """Asks one endpoint for its health, again and again.

    `shut`: since when its port refuses connections, or nothing comes from there; `unheard`: the latter alone.
    """

    def __init__(self, endpoint: EndpointClient, start: Start) -> None:
        self.endpoint = endpoint
        self._start = start
        self.shut, self.unheard, self._unknown = Stopwatch(), Stopwatch(), Stopwatch()

    def ask(self) -> Health | EndpointError:
        """What it answers, once the name of its host is known: before that nothing else can be done.

        Raises: StartError when the name stays unknown for `name_s` seconds, or until the deadline.
        """
        while True:
            answer = self._probe()
            how = answer.how if isinstance(answer, EndpointUnreachableError) else None
            self.shut.observe(how in ("refused", "unheard"))
            self.unheard.observe(how == "unheard")
            self._unknown.observe(how == "unknown")
            if not isinstance(answer, EndpointUnreachableError) or answer.how != "unknown":
                return answer
            if self._unknown.seconds > self._start.timing.name_s or self._start.left_s < 0:
                raise no_way_there(answer)
            time.sleep(self._start.timing.poll_s)

    def _probe(self) -> Health | EndpointError:
        try:
            return self.endpoint.health(timeout_s=self._start.timing.probe_s)
        except EndpointError as error:
            return error


def no_way_there(answer: EndpointUnreachableError) -> StartError:
    """The way to the services fails, not the services: an unknown name, a firewall. The maintainer has to mend it."""
    return StartError(answer.link, tried=answer.tried, came_back=answer.came_back, next_step=answer.next_step)
