"""Errors as visitors and programs get them: an unexpected one is our fault, and the log has it with its traceback."""

import logging

import gradio as gr

from errors import InvalidRequestError, ServiceError, SpaceError
from page import text as page_text

log = logging.getLogger(__name__)


def as_space_error(error: Exception, tried: str) -> SpaceError:
    """The error as one that visitors can read. `tried`: what the page was doing, as in "tried to ..."."""
    if isinstance(error, SpaceError):
        return error
    log.error("could not %s", tried, exc_info=error)
    return ServiceError(
        "This page",
        tried=tried,
        came_back=f"an unexpected {type(error).__name__} was raised",
        next_step="Please try again; the maintainer finds the details in the log.",
    )


def refusal(error: SpaceError) -> gr.Error:
    """The error as Gradio tells it to a program."""
    title = "This cannot be drawn" if isinstance(error, InvalidRequestError) else "No picture"
    return gr.Error(page_text.error_text(error), title=title, print_exception=False)
