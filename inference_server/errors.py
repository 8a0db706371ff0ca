"""The server's refusals: `{"$error": {code, name, message}}` on the wire, each with its HTTP status.

    Refusal
        status 400   INVALID_INPUTS, NO_MODEL_ID, MODEL_MISMATCH, NO_SUCH_PIPELINE, INVALID_SCHEDULER
        status 401   UNAUTHORIZED
        status 404   NO_SUCH_REQUEST, NO_SUCH_ROUTE, NO_SUCH_PICTURE;  405 METHOD_NOT_ALLOWED;  408 TOO_SLOW
        status 409   REQUEST_ID_REUSED;  410 REQUEST_CANCELLED;  413 BODY_TOO_LARGE
        status 503   BUSY, MODEL_NOT_LOADED, GPU_BUSY (its owner uses it), NO_GPU (it is gone), PAUSED (its owner
                     said so), BUDGET_USED_UP (its minutes for today), ENGINE_CRASHED, SHUTTING_DOWN,
                     PIPELINE_ERROR (the model said no), APP_INFERENCE_ERROR (a fault of the server's own)

The codes that docker-diffusers-api has keep its names.
Source: https://github.com/kiri-art/docker-diffusers-api/blob/main/errors.py
"""

import json
from dataclasses import dataclass

from inference_server.messages import GPU_BUSY, LoadFailed
from inference_server.owner_state import Pause

_OPENAI_CODES = {"UNAUTHORIZED": "invalid_api_key", "MODEL_MISMATCH": "model_not_found"}
RETRY_AFTER_S = 5  # for refusals that only say "not now"


@dataclass
class Refusal(Exception):
    """Why a request gets no picture: the HTTP status, the wire's code, and a message for its sender."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None

    def __str__(self) -> str:
        return self.message

    def body(self) -> bytes:
        """The JSON of the wire, ASCII throughout."""
        return json.dumps({"$error": {"code": self.code, "name": _name(self.code), "message": self.message}}).encode()

    @property
    def openai_status(self) -> int:
        """A model that is not here is not found, to OpenAI's clients."""
        return 404 if self.code == "MODEL_MISMATCH" else self.status

    def openai_body(self) -> bytes:
        """The JSON that OpenAI's clients read: https://platform.openai.com/docs/guides/error-codes"""
        message = self.message.replace("modelInputs.", "").replace("callInputs.", "")
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        code = _OPENAI_CODES.get(self.code, self.code.lower())
        return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def _name(code: str) -> str:
    """NO_MODEL_ID -> NoModelIdError, as an exception would be called."""
    return "".join(word.capitalize() for word in code.split("_")).removesuffix("Error") + "Error"


def invalid_inputs(message: str) -> Refusal:
    return Refusal(400, "INVALID_INPUTS", message)


def busy(waiting: int) -> Refusal:
    return Refusal(503, "BUSY", f"Busy: {waiting} requests wait already. Try again in a moment.", RETRY_AFTER_S)


def engine_crashed(reason: str) -> Refusal:
    return Refusal(
        503,
        "ENGINE_CRASHED",
        f"The engine ended twice while it drew this ({reason}). The engine's log, on the server's stderr, says more.",
        RETRY_AFTER_S,
    )


def cannot_draw(reason: str) -> Refusal:
    return Refusal(503, "PIPELINE_ERROR", reason)


def failed() -> Refusal:
    return Refusal(503, "APP_INFERENCE_ERROR", "The server failed; its log says more.")


def not_loaded(failure: LoadFailed, retry_after_s: float) -> Refusal:
    """Why no model is loaded. The message for a busy GPU is fit for visitors."""
    if failure.permanent:
        message = f"The model cannot be loaded: {failure.reason}. It is not tried again before the server's next start."
        return Refusal(503, failure.code, message)
    retry_after_s = max(1, round(retry_after_s))
    if failure.code == GPU_BUSY:
        message = (
            "Somebody else is using the GPU just now, so there is no room for the model. "
            f"Try again later. ({failure.reason})"
        )
    else:
        message = f"The model cannot be loaded: {failure.reason}. It is tried again by itself in {retry_after_s} s."
    return Refusal(503, failure.code, message, retry_after_s)


def paused(pause: Pause, left_s: float | None) -> Refusal:
    """Its message is fit for visitors. `left_s`: how long the pause still lasts, None where nobody knows."""
    retry_after_s = None if left_s is None else max(1, round(left_s))
    if pause.reason == "budget":
        return Refusal(503, "BUDGET_USED_UP", "This machine has drawn its minutes for today.", retry_after_s)
    return Refusal(503, "PAUSED", "The owner of this machine has paused it.", retry_after_s)


def cancelled() -> Refusal:
    return Refusal(410, "REQUEST_CANCELLED", "This request was cancelled before its picture was done.")


def shutting_down() -> Refusal:
    return Refusal(503, "SHUTTING_DOWN", "The server is shutting down.", RETRY_AFTER_S)
