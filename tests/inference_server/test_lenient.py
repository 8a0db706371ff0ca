"""A lenient server, and one behind TLS: the tutorial's client, and the config file's other keys."""

import base64
import datetime
import hashlib
import json
import os
import socket
import ssl
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from PIL import Image
from requests.adapters import HTTPAdapter

from tests.support.inference_process import DEADLINE_S, START_DEADLINE_S, InferenceProcess, picture, running

pytestmark = pytest.mark.slow
TUTORIAL_INPUTS = {
    "modelInputs": {"prompt": "a red apple", "num_inference_steps": 25, "width": 512, "height": 512},
    "callInputs": {
        "MODEL_ID": "lykon/dreamshaper-8",
        "PIPELINE": "AutoPipelineForText2Image",
        "SCHEDULER": "DEISMultistepScheduler",
        "PRECISION": "fp16",
        "REVISION": "fp16",
    },
}


@pytest.fixture(scope="module")
def lenient() -> Iterator[InferenceProcess]:
    with running("--lenient") as server:
        yield server


def test_the_tutorials_client_draws_on_a_server_that_has_just_begun(lenient: InferenceProcess) -> None:
    """Healthy at once; the tutorial's post waits for the engine and gets a picture, `$meta` says what was served."""
    health = requests.get(os.path.join(lenient.url, "healthcheck"), timeout=DEADLINE_S).json()
    assert health["state"] == "healthy"
    response = requests.post(lenient.url, json=TUTORIAL_INPUTS, timeout=START_DEADLINE_S).json()
    drawn = Image.open(BytesIO(base64.b64decode(response["image_base64"])))
    assert drawn.size == (256, 256)
    meta = response["$meta"]
    assert meta["num_inference_steps"] == 25
    assert meta["served_instead"] == {
        "MODEL_ID": {"asked": "lykon/dreamshaper-8", "served": "demo_model"},
        "SCHEDULER": {"asked": "DEISMultistepScheduler", "served": "DDIMScheduler"},
        "width": {"asked": 512, "served": 256},
        "height": {"asked": 512, "served": 256},
    }


@pytest.mark.parametrize(
    ("inputs", "served"),
    [
        ({"width": 100, "height": 1}, {"width": 128, "height": 64}),
        ({"width": 255}, {"width": 256}),
        ({"num_inference_steps": 0}, {"num_inference_steps": 1}),
        ({"guidance_scale": 1000, "num_inference_steps": 1}, {"guidance_scale": 30}),
        ({"num_images_per_prompt": 9, "num_inference_steps": 1}, {"num_images_per_prompt": 4}),
    ],
)
def test_lenient_serves_the_nearest(lenient: InferenceProcess, inputs: dict[str, Any], served: dict[str, Any]) -> None:
    """Numbers outside the limits become the nearest inside."""
    result = lenient.post({"prompt": "a cat", "num_inference_steps": 1, **inputs}).json()
    assert {name: result["$meta"][name] for name in served} == served
    assert {name: row["served"] for name, row in result["$meta"]["served_instead"].items()} == served


@pytest.mark.parametrize(
    "inputs", [{"prompt": ""}, {"prompt": 5}, {"prompt": "a cat", "seed": "x"}, {"prompt": "x" * 3000}]
)
def test_lenient_refuses_nonsense_all_the_same(lenient: InferenceProcess, inputs: dict[str, Any]) -> None:
    """Where there is no nearest, there is a refusal."""
    assert lenient.post(inputs).json()["$error"]["code"] == "INVALID_INPUTS"


def test_lenient_keeps_to_its_pipeline(lenient: InferenceProcess) -> None:
    """A picture from text is no answer to a request for another pipeline."""
    answer = lenient.post({"prompt": "a cat", "image": "x"}, PIPELINE="StableDiffusionImg2ImgPipeline")
    assert answer.json()["$error"]["code"] == "NO_SUCH_PIPELINE"


def certificate() -> tuple[str, str, str]:
    """Key and self-signed certificate as PEM, and the certificate's SHA-256."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "endpoint")])
    begin = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=36500))
        .sign(key, None)
    )
    der = made.public_bytes(serialization.Encoding.DER)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    return private.decode(), public.decode(), hashlib.sha256(der).hexdigest()


class PinningAdapter(HTTPAdapter):
    """Trusts one certificate by its SHA-256."""

    def __init__(self, pin: str) -> None:
        self._pin = pin
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, assert_fingerprint=self._pin, **kwargs)


def test_tls_with_pinned_certificate_and_bearer(tmp_path: Path) -> None:
    """PEM texts in the config give TLS with that certificate; the key stays in no file, no log and no output."""
    key, cert, pin = certificate()
    config = {"tls_key": key, "tls_certificate": cert, "bearer": "b" * 40}
    with running(config=config, TMPDIR=str(tmp_path)) as server:  # a folder that nobody else writes to
        assert server.line.split()[-1].startswith("https://127.0.0.1:")
        server.session.mount("https://", PinningAdapter(pin))
        server.wait_healthy()
        drawn = picture(server.post({"prompt": "a cat", "num_inference_steps": 1}).json())
        assert drawn.size == (256, 256)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not [path for path in files if key.splitlines()[1].encode() in path.read_bytes()]
        assert key.splitlines()[1] not in server.log()
        wrong = requests.Session()
        wrong.trust_env, wrong.verify = False, False
        wrong.mount("https://", PinningAdapter("00" * 32))
        with pytest.raises(requests.exceptions.SSLError):
            wrong.get(f"{server.url}/healthcheck", timeout=DEADLINE_S)


def test_a_tls_handshake_that_stalls_is_cut() -> None:
    """A client that connects and says nothing is cut off, and others are served meanwhile."""
    key, cert, _ = certificate()
    with running(config={"tls_key": key, "tls_certificate": cert}) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as silent:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with (
                socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as other,
                context.wrap_socket(other) as secure,
            ):
                secure.sendall(b"GET /healthcheck HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert secure.recv(12) == b"HTTP/1.1 200"
            assert silent.recv(1) == b""


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"bearer": ["secret-value"]}, "bearer"),
        ({"bearer": ""}, "bearer"),
        ({"nonsense": "secret-value"}, "nonsense"),
        ({"tls_key": "secret-value"}, "tls_certificate"),
        ({"tls_key": "secret-value", "tls_certificate": "secret-value"}, "PEM"),
        ({"engine": "magic"}, "openvino"),
        ({"idle_engine_s": -1}, "idle_engine_s"),
        ({"limits": {"width": {"max": "wide"}}}, "limits.width"),
        ({"limits": {"width": {"depth": 5}}}, "limits.width"),
        ({"limits": {"nonsense": {"max": 5}}}, "limits.nonsense"),
    ],
)
def test_a_wrong_config_is_named_without_its_values(config: dict[str, Any], told: str) -> None:
    """The bad key is named, no value of the file is shown, the exit code is 2."""
    server = InferenceProcess(config=config)
    assert server.process.wait(DEADLINE_S) == 2
    assert told in server.log()
    assert "secret-value" not in server.log()
    assert "Traceback" not in server.log()
    server.stop()


def test_the_config_file_overrides_limits_and_the_environment() -> None:
    """Single limits of the file hold, the rest stays; its model wins over the environment's."""
    import demo_model

    limits = {"width": {"max": 128}, "num_inference_steps": {"max": 30}, "image_formats": ["PNG"]}
    config = {"model_id": str(demo_model.folder()), "limits": limits, "lenient": False}
    with running(config=config, MODEL_ID="/nowhere") as server:
        told = server.wait_healthy()
        assert told["model"] == str(demo_model.folder())
        assert told["limits"]["width"] == {"min": 64, "max": 128, "multiple": 64}
        assert told["limits"]["height"]["max"] == 256
        assert told["limits"]["image_formats"] == ["PNG"]
        assert told["defaults"]["width"] == 128
        assert server.post({"prompt": "a cat", "num_inference_steps": 31}).status_code == 400
        assert server.post({"prompt": "a cat"}, image_format="JPEG").status_code == 400
        result = server.post({"prompt": "a cat"}).json()
        assert picture(result).size == (128, 256)
        assert json.dumps(result["$meta"]).find("/nowhere") == -1


def test_a_hub_id_that_cannot_be_fetched_is_a_failed_state() -> None:
    """Without a network a hub id ends in `failed` with a reason, not in silence."""
    with running(MODEL_ID="someone/some-model", HF_HUB_OFFLINE="1") as server:
        assert "someone/some-model" in server.wait_failed()["reason"]
