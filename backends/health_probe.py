"""The endpoint watched during a start: what it answers, and for how long there has been no way to it."""

import time

from backends.start_errors import no_way_there
from endpoint.wire_format import Health
from endpoint_client import EndpointClient
from errors import EndpointError, EndpointUnreachableError
from fair_api.retry import Stopwatch


class HealthProbe:
    """Asks one endpoint for its health, again and again. Times in seconds.

    `probe_s`: how long one answer may take; `poll_s`: the pause between two questions; `name_s`: how long the name of
    its host may be unknown. `shut`: nobody listens at its port, or nothing comes from there at all; `unheard`: the
    latter alone.
    """

    def __init__(self, endpoint: EndpointClient, *, probe_s: float, poll_s: float, name_s: float) -> None:
        self._endpoint = endpoint
        self._probe_s, self._poll_s, self._name_s = probe_s, poll_s, name_s
        self.shut, self.unheard, self._unknown = Stopwatch(), Stopwatch(), Stopwatch()

    def ask(self, *, left_s: float) -> Health | EndpointError:
        """What it answers, once the name of its host is known: until then nothing else is to be done.

        Raises: StartError when it has not been known for `name_s` seconds, `left_s` at most.
        """
        deadline = time.monotonic() + left_s
        while True:
            answer = self._probe()
            how = answer.how if isinstance(answer, EndpointUnreachableError) else None
            self.shut.observe(how in ("refused", "unheard"))
            self.unheard.observe(how == "unheard")
            self._unknown.observe(how == "unknown")
            if not isinstance(answer, EndpointUnreachableError) or answer.how != "unknown":
                return answer
            if self._unknown.seconds > self._name_s or time.monotonic() > deadline:
                raise no_way_there(answer)
            time.sleep(self._poll_s)

    def _probe(self) -> Health | EndpointError:
        try:
            return self._endpoint.health(timeout_s=self._probe_s)
        except EndpointError as error:
            return error
