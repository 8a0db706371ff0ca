"""Which place draws: decided here, from the settings, and nowhere else."""

import logging
from urllib.parse import urlsplit

from backends.base import Backend
from backends.fair_chain import FairChain
from backends.fixed_endpoint import FixedEndpoint
from backends.start import Timing
from endpoint.credentials import Credentials
from endpoint_client import EndpointClient
from fair_api.client import DeadlineFairClient
from fair_api.local_server import INFERENCE_IMAGE, NODE, LocalFair, find_rathole
from fair_services import ChainSettings
from settings import DEFAULT_PORTS, Settings

log = logging.getLogger(__name__)


def choose_backend(settings: Settings) -> Backend:
    """The backend that these settings ask for; nothing is started yet."""
    if settings.endpoint_tls == "none":
        log.warning("ENDPOINT_TLS=none: whoever is on the way can read prompts and pictures, and draw on that GPU")
    if settings.without_effect:
        log.warning(
            "without effect here: %s: an inference server is told these by a configuration file, and %s",
            ", ".join(settings.without_effect),
            "ENDPOINT_URL leads to one that has its own"
            if settings.mode == "endpoint"
            else "with ENDPOINT_TLS=none it gets none, as it may be upstream's",
        )
    if settings.mode == "endpoint":
        return _fixed_endpoint(settings)
    if settings.mode == "fair":
        return _configured_chain(settings)
    if settings.endpoint_secret:
        log.warning("ENDPOINT_SECRET alone does not say where to draw: it is done on this machine")
    return _local_chain(settings)


def _fixed_endpoint(settings: Settings) -> FixedEndpoint:
    url = settings.endpoint_url or ""
    secret = settings.endpoint_secret.get_secret_value() if settings.endpoint_secret else None
    trusted = Credentials.from_secret(secret) if secret and settings.endpoint_tls == "pinned" else None
    endpoint = EndpointClient(
        url,
        bearer=trusted.bearer if trusted else None,
        certificate_sha256=trusted.certificate_sha256 if trusted and urlsplit(url).scheme == "https" else None,
        patience_s=settings.start_timeout_s,
    )
    return FixedEndpoint(endpoint, timeout_s=settings.start_timeout_s)


def _configured_chain(settings: Settings) -> FairChain:
    address, email = settings.fair_address, settings.faircompute_email or ""
    password = settings.faircompute_password.get_secret_value() if settings.faircompute_password else ""
    if settings.fair_is_readable:
        log.warning(
            "FAIRCOMPUTE_SERVER_ADDRESS=%s is plain http to another machine: whoever is on the way reads the Fair "
            "password, the bearer and the private TLS key, and can then run anything on the nodes. Use https, or keep "
            "the way there within a network of your own.",
            address,
        )
    client: list[DeadlineFairClient] = []

    def connect() -> DeadlineFairClient:
        if not client:
            client.append(DeadlineFairClient(address, email, password))
        return client[0]

    chain = ChainSettings(
        inference_node=settings.inference_node or "",
        inference_image=settings.inference_image or "",
        deployment=settings.deployment,
        tunnel_node=settings.tunnel_node if settings.tunnel == "rathole" else None,
        tunnel_address=settings.tunnel_address,
        tunnel_image=settings.tunnel_image,
        inference_host_port=settings.inference_host_port or DEFAULT_PORTS["inference_host_port"],
        tunnel_control_port=settings.tunnel_control_port or DEFAULT_PORTS["tunnel_control_port"],
        tunnel_public_port=settings.tunnel_public_port or DEFAULT_PORTS["tunnel_public_port"],
        tls=settings.endpoint_tls,
        configurable=settings.endpoint_tls == "pinned",  # else it may be upstream's image
        idle_engine_s=300 if settings.idle_engine_s is None else settings.idle_engine_s,
        idle_exit_s=900 if settings.idle_exit_s is None else settings.idle_exit_s,
        engine=settings.inference_engine,
        model_id=settings.model_id,
        model_revision=settings.model_revision,
        model_precision=settings.model_precision,
    )
    secret = settings.endpoint_secret.get_secret_value() if settings.endpoint_secret else None
    return FairChain(chain, connect, secret=secret, kind="fair", timing=Timing(timeout_s=settings.start_timeout_s))


def _local_chain(settings: Settings) -> FairChain:
    rathole = find_rathole() if settings.tunnel == "rathole" else None
    if settings.tunnel == "rathole" and rathole is None:
        log.warning("drawing without the tunnel: there is no rathole on the PATH, nor one that `make run` has built")
    fair = LocalFair(tunnel_image=settings.tunnel_image, rathole=rathole)
    chain = ChainSettings(
        inference_node=NODE,
        inference_image=INFERENCE_IMAGE,
        deployment=settings.deployment,
        tunnel_node=NODE if rathole else None,
        tunnel_image=settings.tunnel_image,
        inference_host_port=settings.inference_host_port or 0,
        tunnel_control_port=settings.tunnel_control_port or 0,
        tunnel_public_port=settings.tunnel_public_port or 0,
        tls=settings.endpoint_tls,
        idle_engine_s=settings.idle_engine_s or 0,
        idle_exit_s=settings.idle_exit_s or 0,
        engine=settings.inference_engine,
        model_id=settings.model_id,
        model_revision=settings.model_revision,
        model_precision=settings.model_precision,
    )
    secret = settings.endpoint_secret.get_secret_value() if settings.endpoint_secret else None
    return FairChain(
        chain,
        fair.connect,
        secret=secret,
        kind="local",
        timing=Timing(timeout_s=settings.start_timeout_s),
        close=fair.close,
    )
