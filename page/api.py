"""What programs and agents call: `text_to_image` waits for the picture; `submit`, `result` and `cancel` go by a ticket.

Each is an endpoint of Gradio's API and a tool of its MCP server. The docstrings and the descriptions of
GenerationRequest's fields are what callers are told.
"""

import asyncio
import contextlib
import inspect
import typing
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from drawing.events import Cancelled, Event, Failed, Picture, Queued, Step, Waking
from drawing.jobs import Job
from drawing.models import GenerationRequest, Limits, Range
from errors import SpaceError
from page import text as page_text
from page.faults import refusal
from page.picture_file import saved
from page.visitor import api_visitor, is_awaited
from text_to_image import TextToImage

_LISTENS_EVERY_S = 1.0
_LONG_S = 5.0
_HUNG_UP_PATIENCE_S = 20.0  # a caller who gave up may ask for the result of the ticket that it was told
_TICKET_PATIENCE_S = 600.0
_ASK_AGAIN_S = 2.0
_ASK_AGAIN_WAKING_S = 5.0
_ASK_AGAIN_AT_MOST_S = 20.0
_UNKNOWN = (
    "There is no drawing of this id. An id is forgotten 24 hours after its drawing ended, or when this Space restarts."
)


def takes_the_parameters(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a handler of `*values` the names, types, defaults and descriptions of GenerationRequest's fields.

    Its last value is Gradio's request. A new field there with a description is a new parameter of the endpoint.
    """
    signature = inspect.signature(handler)
    asked = signature.parameters["request"].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    public, types = [one for one in fields(GenerationRequest) if one.metadata], typing.get_type_hints(GenerationRequest)
    parameters = [*(inspect.signature(GenerationRequest).parameters[one.name] for one in public), asked]
    handler.__annotations__ |= {one.name: types[one.name] for one in public}
    handler.__signature__ = signature.replace(parameters=[signature.parameters["self"], *parameters])  # type: ignore[attr-defined]
    described = "\n".join(f"    {one.name}: {one.metadata['description']}" for one in public)
    head, _, tail = (handler.__doc__ or "").partition("Returns:")
    handler.__doc__ = f"{inspect.cleandoc(head)}\n\nParameters:\n{described}\n\nReturns:{tail}"
    return handler


class Api:
    """The endpoints of one service. `picture_folder`: where pictures become files."""

    def __init__(self, service: TextToImage, picture_folder: str) -> None:
        self._service = service
        self._picture_folder = picture_folder

    @takes_the_parameters
    async def text_to_image(self, *values: Any, request: gr.Request | None = None) -> tuple[FileData, int | None]:
        """Draws the prompt and waits for the picture. Where the GPU sleeps this can take minutes; `submit` answers at
        once instead. The same seed and values give the same picture again.

        Returns:
            The picture, a PNG file.
            The seed that it was drawn with.
        """
        *parameters, request = values
        job: Job | None = None
        try:
            job = self._submit(parameters, request, _HUNG_UP_PATIENCE_S)
            last = await _last_event(job)
            if isinstance(last, Picture):
                return await saved(last, job, self._picture_folder), last.generated.seed
        except SpaceError as error:
            raise refusal(error) from error
        except asyncio.CancelledError:  # the caller said so
            if job is not None:
                job.cancel()
            raise
        if isinstance(last, Failed):
            raise refusal(last.error)
        raise gr.Error("Cancelled." if job.finished else "The caller has gone.", print_exception=False)

    @takes_the_parameters
    async def submit(self, *values: Any, request: gr.Request | None = None) -> dict[str, Any]:
        """Begins to draw the prompt and answers at once with a ticket: ask `result` for the picture by its id.

        Returns:
            The ticket: `id` for `result`, `cancel_token` for `cancel`, and what `result` tells.
        """
        *parameters, request = values
        try:
            job = self._submit(parameters, request, _TICKET_PATIENCE_S)
        except SpaceError as error:
            raise refusal(error) from error
        return {"id": job.id, "cancel_token": job.cancel_token, **state(job)}

    async def result(self, id: str) -> tuple[FileData | None, dict[str, Any]]:
        """The picture of a ticket, or what is happening with it and when to ask again. The id works for 24 hours.

        Parameters:
            id: The id of the ticket that `submit` gave.

        Returns:
            The picture, a PNG file; null while there is none.
            The state. Its `status` is waiting, waking, in line, drawing, done, failed or cancelled.
            Its `message` is for people, `ask_again_s` are seconds, null at the end,
            and `seed` is the one that the picture was drawn with.
        """
        job = self._job(id)
        last = job.events[-1] if job.events else None
        try:
            picture = await saved(last, job, self._picture_folder) if isinstance(last, Picture) else None
        except SpaceError as error:
            raise refusal(error) from error
        return picture, state(job)

    async def cancel(self, id: str, cancel_token: str) -> dict[str, Any]:
        """Cancels the drawing of a ticket, so that the GPU is free for others. Harmless when it has ended.

        Parameters:
            id: The id of the ticket that `submit` gave.
            cancel_token: Its cancel token, which only whoever submitted it has.

        Returns:
            The state, as `result` tells it.
        """
        job = self._job(id)
        if not job.may_cancel(cancel_token):
            raise gr.Error("This is not the cancel token of that drawing.", title="Not yours", print_exception=False)
        job.cancel()
        return state(job)

    def _submit(self, values: list[Any], request: gr.Request | None, patience_s: float) -> Job:
        visitor = api_visitor(request)
        return self._service.submit(*values, visitor=visitor.name, address=visitor.address, patience_s=patience_s)

    def _job(self, job_id: object) -> Job:
        job = self._service.job(job_id) if isinstance(job_id, str) else None
        if job is None:
            raise gr.Error(_UNKNOWN, title="Not known", print_exception=False)
        return job


async def _last_event(job: Job) -> Event | None:
    """The event that the job ends with. A caller who waits long is told what happens, and the ticket.

    None: the caller has hung up. That leaves the job to whoever asks for its result.
    """
    following = asyncio.create_task(_follow(job))
    progress, told = gr.Progress(), ""
    try:
        while not following.done():
            await asyncio.wait({following}, timeout=_LISTENS_EVERY_S)
            if not is_awaited():
                return None
            now = f"{state(job)['message']} Ticket: {job.id}"
            if job.elapsed_s >= _LONG_S and now != told:
                progress(_steps(job), desc=now)
                told = now
        return following.result()
    finally:
        following.cancel()


def _steps(job: Job) -> tuple[int, int | None]:
    """How far it is, of how much; without any number Gradio tells an agent nothing at all."""
    last = job.events[-1] if job.events else None
    return (last.step, last.num_inference_steps) if isinstance(last, Step) else (0, None)


async def _follow(job: Job) -> Event:
    last: Event | None = None
    async with contextlib.aclosing(job.follow()) as events:  # type: ignore[type-var]
        async for event in events:
            last = event
    if last is None:
        raise RuntimeError("the job ended without an event")
    return last


def state(job: Job) -> dict[str, Any]:
    """What `result` tells of a job."""
    last = job.events[-1] if job.events else None
    told: dict[str, Any] = {"status": _status(last), "message": page_text.plain(last, job.elapsed_s, job.quiet_s)}
    if isinstance(last, Picture):
        told["seed"] = last.generated.seed
    return {**told, "ask_again_s": None if job.finished else _ask_again_s(last)}


def _status(event: Event | None) -> str:
    names = {Picture: "done", Failed: "failed", Cancelled: "cancelled", Waking: "waking", Queued: "in line"}
    return "waiting" if event is None else names.get(type(event), "drawing")


def _ask_again_s(event: Event | None) -> float:
    if isinstance(event, Waking):
        return _ASK_AGAIN_WAKING_S
    if isinstance(event, Queued) and event.about_s:
        return max(_ASK_AGAIN_S, min(_ASK_AGAIN_AT_MOST_S, event.about_s / 2))
    return _ASK_AGAIN_S


def add_endpoints(api: Api, limits: Limits) -> None:
    """Makes the endpoints public, in the page that is being built; `limits` are told with the parameters."""
    root = gr.context.Context.root_block
    for handler in (api.text_to_image, api.submit, api.result, api.cancel):
        gr.api(handler, api_name=handler.__name__, concurrency_limit=None)
        function = max(root.fns.items())[1]
        _, described, _ = gr.utils.get_function_description(handler)
        for block, name in zip(function.inputs, inspect.signature(handler).parameters, strict=False):
            block.label = name
            block._api_info = {**block._api_info, "description": described[name], **_bounds(name, limits)}


def _bounds(name: str, limits: Limits) -> dict[str, Any]:
    """A parameter's limits in JSON Schema's words."""
    bounds = getattr(limits, name, None)
    if name == "prompt":
        return {"maxLength": limits.prompt_chars}
    if not isinstance(bounds, Range):
        return {}
    told: dict[str, Any] = {"minimum": bounds.min, "maximum": bounds.max}
    return told | ({"multipleOf": bounds.multiple} if bounds.multiple > 1 else {})
