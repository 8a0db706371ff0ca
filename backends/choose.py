"""Chooses the backend for these settings: a fixed endpoint, a configured Fair, connecting workers, or this machine."""

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from backends.base import Backend
from backends.boxes import Boxes
from backends.deployment import SharedTunnel
from backends.fair_chain import FairChain
from backends.fixed_endpoint import FixedEndpoint
from backends.start import Timing
from backends.workers import Workers
from endpoint.credentials import Credentials
from endpoint_client import EndpointClient
from fair_api.client import DeadlineFairClient
from fair_api.local_server import INFERENCE_IMAGE, NODE, ROOT, LocalFair
from fair_services import ChainSettings
from network.tunnel import PROGRAM, find_program
from settings import InferenceConfig, Settings

log = logging.getLogger(__name__)


def choose_backend(settings: Settings, timing: Timing | None = None) -> Backend:
    """The backend that these settings ask for; nothing is started yet.

    `timing`: the waits of a start of services, but for the whole start's, which is a setting.
    """
    timing = replace(timing or Timing(), timeout_s=settings.start_timeout_s)
    if settings.endpoint_tls == "none":
        log.warning("ENDPOINT_TLS=none: anyone on the way can read prompts and pictures, and draw on that GPU")
    if settings.without_effect:
        log.warning(
            "without effect here: %s: an inference server is told these by a configuration file, and %s",
            ", ".join(settings.without_effect),
            {
                "endpoint": "ENDPOINT_URL leads to one that has its own",
                "workers": "each worker has its own",
                "fair": "with ENDPOINT_TLS=none it gets none, as it may be upstream's",
            }[settings.mode],
        )
    if settings.mode == "endpoint":
        return _fixed_endpoint(settings)
    if settings.mode == "fair":
        return _configured_chain(settings, timing)
    if settings.mode == "workers":
        return _workers(settings, timing)
    if settings.endpoint_secret:
        log.warning(
            "MODEL_ID is set beside ENDPOINT_SECRET: it is drawn on this machine; without it, workers would draw"
        )
    return _local_chain(settings, timing)


def _workers(settings: Settings, timing: Timing) -> Workers:
    log.info("ENDPOINT_SECRET alone is set: the workers that connect draw")
    return Workers(
        Credentials.from_secret(_secret(settings) or "").worker_key,
        wait_s=settings.worker_wait_s,
        start_s=settings.start_timeout_s,
        fallback=_fallback(settings, timing) if settings.fallback == "cpu" else None,
    )


def _fallback(settings: Settings, timing: Timing) -> FairChain:
    """Draws on this machine's own CPU, without a tunnel; nothing of it runs before it is needed."""
    engine = InferenceConfig(model_id=settings.fallback_model_id, idle_engine_s=300, idle_exit_s=900)
    chain = _chain(settings, inference_node=NODE, inference_image=INFERENCE_IMAGE, tunnel_node=None)
    fair = LocalFair(tunnel_image=settings.tunnel_image, tunnel_program=None)
    return FairChain(
        replace(chain, inference=engine),
        fair.connect,
        secret=None,
        kind="local",
        timing=timing,
        close=fair.close,
    )


def _fixed_endpoint(settings: Settings) -> FixedEndpoint:
    url, secret = settings.endpoint_url or "", _secret(settings)
    trusted = Credentials.from_secret(secret) if secret and settings.endpoint_tls != "none" else None
    pinned = settings.endpoint_tls == "pinned" and urlsplit(url).scheme == "https"
    endpoint = EndpointClient(
        url,
        bearer=trusted.bearer if trusted else None,
        certificate_sha256=trusted.certificate_sha256 if trusted and pinned else None,
        authorities=settings.endpoint_authorities,
        upstream_silence_s=settings.start_timeout_s,
    )
    return FixedEndpoint(endpoint, timeout_s=settings.start_timeout_s)


def _configured_chain(settings: Settings, timing: Timing) -> FairChain | Boxes:
    if settings.fair_is_readable:
        log.warning(
            "FAIRCOMPUTE_SERVER_ADDRESS=%s is plain http to another machine: anyone on the way reads the Fair "
            "password, the bearer and the private TLS key, and can then run anything on the nodes. Use https, or keep "
            "the way there within a network of your own.",
            settings.fair_address,
        )
    boxes = settings.inference_node or ()

    def make_chain(box: str, shared: SharedTunnel | None = None) -> FairChain:
        chain = _chain(
            settings,
            inference_node=box,
            inference_image=settings.inference_image or "",
            tunnel_node=settings.tunnel_node if settings.has_tunnel else None,
            configurable=settings.endpoint_tls != "none",  # then it may be upstream's image
            box=boxes.index(box),
        )
        others = {other: settings.port("tunnel_public_port", boxes.index(other)) for other in boxes if other != box}
        return FairChain(
            replace(chain, other_boxes=others),
            _connecting(settings, timing),
            secret=_secret(settings),
            kind="fair",
            timing=timing,
            shared=shared,
            authorities=settings.endpoint_authorities,
        )

    return make_chain(boxes[0]) if len(boxes) == 1 else Boxes(boxes, make_chain, timeout_s=timing.timeout_s)


def _connecting(settings: Settings, timing: Timing) -> Callable[[], DeadlineFairClient]:
    """Gives a chain's own client of the Fair server, logged in when it is first needed."""

    @functools.cache
    def connect() -> DeadlineFairClient:
        password = settings.faircompute_password.get_secret_value() if settings.faircompute_password else ""
        return DeadlineFairClient(
            settings.fair_address,
            settings.faircompute_email or "",
            password,
            certificate_sha256=settings.faircompute_cert_sha256,
            timeout_s=timing.fair_answer_s,
        )

    return connect


def _local_chain(settings: Settings, timing: Timing) -> FairChain:
    program = find_program(ROOT) if settings.has_tunnel else None
    if settings.has_tunnel and program is None:
        log.warning("drawing without the tunnel: no %s is on the PATH, nor one that `make run` has built", PROGRAM)
    fair = LocalFair(tunnel_image=settings.tunnel_image, tunnel_program=program)
    return FairChain(
        _chain(settings, inference_node=NODE, inference_image=INFERENCE_IMAGE, tunnel_node=NODE if program else None),
        fair.connect,
        secret=_secret(settings),
        kind="local",
        timing=timing,
        close=fair.close,
    )


def _chain(
    settings: Settings,
    *,
    inference_node: str,
    inference_image: str,
    tunnel_node: str | None,
    configurable: bool = True,
    box: int = 0,
) -> ChainSettings:
    return ChainSettings(
        inference_node=inference_node,
        inference_image=inference_image,
        deployment=settings.deployment,
        tunnel_node=tunnel_node,
        tunnel_address=settings.tunnel_address,
        tunnel_image=settings.tunnel_image,
        inference_host_port=settings.port("inference_host_port", box),
        tunnel_control_port=settings.port("tunnel_control_port"),
        tunnel_public_port=settings.port("tunnel_public_port", box),
        tls=settings.endpoint_tls,
        tls_port=settings.endpoint_tls_port,
        inference=settings.inference,
        configurable=configurable,
    )


def _secret(settings: Settings) -> str | None:
    return settings.endpoint_secret.get_secret_value() if settings.endpoint_secret else None
