"""Why a worker has no line to its Space, in a sentence for its owner: what came back, and what to do."""

import socket
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from websockets.exceptions import InvalidHandshake, InvalidProxyStatus, InvalidStatus

from inference_server.space import Space

_CLOCK_S = 60.0
_NO_WEBSOCKET = frozenset({200, 400, 405, 426, 501})  # answers to a request whose "Upgrade" was taken out of it


def why_no_line(error: Exception, space: Space) -> str:
    """The sentence for what websockets raised."""
    if isinstance(error, InvalidProxyStatus):
        status = error.response.status_code
        return f"the proxy of this machine's settings (HTTPS_PROXY) answered {status}. {_other_road(space)}"
    if isinstance(error, InvalidStatus):
        return _refusal(error, space)
    if isinstance(error, ssl.SSLCertVerificationError):
        told = error.verify_message or "it is not trusted"
        return (
            f"its certificate is refused here: {told}. This machine's clock says {_now()}; if that "
            "is right, a proxy on the way opens what is encrypted, and its keeper has to except this address"
        )
    if isinstance(error, socket.gaierror):
        return f"its name is unknown ({error.strerror}). Check SPACE, and this machine's network"
    if isinstance(error, InvalidHandshake):
        return f"what answered is no WebSocket ({type(error).__name__}: {error}). {_other_road(space)}"
    return f"{type(error).__name__}: {error}. It is tried again; check that the Space runs and this machine's network"


def why_late(headers: Mapping[str, str], now_s: float) -> str | None:
    """What to say of a clock that differs from the Space's, which `headers` tell; None where it is right."""
    try:
        difference_s = now_s - parsedate_to_datetime(headers.get("Date", "")).timestamp()
    except (TypeError, ValueError):
        return None
    if abs(difference_s) <= _CLOCK_S:
        return None
    way = "ahead of" if difference_s > 0 else "behind"
    return (
        f"this machine's clock is {abs(difference_s):.0f} s {way} the Space's: set it by the network "
        "(timedatectl set-ntp true)"
    )


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def _refusal(error: InvalidStatus, space: Space) -> str:
    status, headers = error.response.status_code, error.response.headers
    came_back = f"it answered {status}"
    if status == 403 and headers.get("X-Worker-Key") == "wrong":
        return f"{came_back}, the key is wrong: {_RIGHT_KEY}"
    if status == 403:
        return f"{came_back}: the key is wrong ({_RIGHT_KEY}), or a proxy on the way refuses this. {_other_road(space)}"
    if status == 401:
        return f"{came_back}: the Space is private, set HF_TOKEN to a token that may read it"
    if status == 404:
        return (
            f"{came_back}: no worker may connect there. Is it the right Space, with ENDPOINT_SECRET set and no other "
            "place that draws, and not private (else HF_TOKEN is needed)?"
        )
    if status in _NO_WEBSOCKET:
        return f"{came_back}: a proxy on the way lets no WebSocket through. {_other_road(space)}"
    if status == 407:
        return f"{came_back}: a proxy on the way wants a login. {_other_road(space)}"
    return f"{came_back}; it starts or is paused; it is tried again"


_RIGHT_KEY = "`python manage.py worker-key` prints the one that belongs to the Space's ENDPOINT_SECRET"


def _other_road(space: Space) -> str:
    return (
        f"Let {urlsplit(space.url).hostname} pass there, or use another network; where neither can be, the answer is "
        'the tutorial\'s road (README.md, "Through Fair and a tunnel")'
    )
