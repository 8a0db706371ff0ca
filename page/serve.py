"""How the page is served: Gradio's queue, launch options and theme, in one place for `app.py` and the tests."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_space
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from page import mcp_tools
from page.api_errors import ReadableErrors
from page.body_limit import FILE_BYTES_MAX, BodyLimit
from page.head import Head, OwnHead
from page.icon import ICON_FILE
from page.script import script_html
from page.translation import ANY_LANGUAGE

API_NAMES = ("text_to_image", "submit", "result", "cancel")
# Gradio gives each running event one of `max_threads` places, also an async one that holds no thread. With its default
# of 40, the visitor who comes after forty waiting ones would see nothing at all.
PLACES = 2000
QUEUE_MAX = 1000
_HEAD_TAGS = Head()
_SKIP = gr.skip()
_STYLE = Path(__file__).with_name("page.css")
_HEAD = script_html()


class Page(gr.Blocks):  # type: ignore[misc]  # untyped for mypy, see pyproject.toml
    """Blocks with four changes: a caller may give a public endpoint its first values only, over plain HTTP too; an
    output that is skipped costs nothing; the browser gets every update of an event whole, and once; and its title is
    in the visitor's language, while programs, to which `title` names this server, read English.
    """

    def get_config_file(self) -> dict[str, Any]:
        """What the browser builds the page from."""
        return {**super().get_config_file(), "title": ANY_LANGUAGE["title"]}

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Takes the parameters' defaults for the values that a caller left out."""
        if block_fn.api_name in API_NAMES:
            inputs = [*inputs, *(block.value for block in block_fn.inputs[len(inputs) :])]
        values: list[Any] = await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        return values

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        """Passes skipped outputs on as they are. Gradio builds a new component for each: 17 ms for one update of a
        waiting visitor, so that sixty visitors would keep the page's one event loop busy.
        """
        outputs = list(block_fn.outputs)
        if not isinstance(predictions, tuple) or len(predictions) != len(outputs) or _SKIP not in predictions:
            done: list[Any] = await super().postprocess_data(block_fn, predictions, state)
            return done
        changed = [number for number, value in enumerate(predictions) if value != _SKIP]
        merged: list[Any] = [_SKIP] * len(outputs)
        if changed:
            smaller = copy.copy(block_fn)
            smaller.outputs = [outputs[number] for number in changed]
            values = [predictions[number] for number in changed]
            done = await super().postprocess_data(smaller, values if len(values) > 1 else values[0], state)
            for number, value in zip(changed, done, strict=True):
                merged[number] = value
        return merged

    def handle_streaming_diffs(self, block_fn: Any, data: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Sends every value whole, and nothing again when a handler has ended.

        From the second update on Gradio sends only the changes to the values before, and its browser side makes them in
        place. An update that comes before the answer to its own request is shown late, and by then the next one has
        changed its values: Draw would stay enabled and Cancel hidden until the end. At the end Gradio sends the last
        update once more, which would undo what a visitor sees who has pressed Draw again meanwhile.
        """
        whole = list(data)
        told: list[Any] = super().handle_streaming_diffs(block_fn, data, *args, **kwargs)
        if kwargs["final"]:
            return [_SKIP] * len(told)
        return [value if value is new else [["replace", [], new]] for value, new in zip(told, whole, strict=True)]


def launch(
    page: gr.Blocks, *, port: int | None = None, routes: Sequence[BaseRoute] = (), head: Head = _HEAD_TAGS
) -> str:
    """Serves the page from threads of its own and returns its address; `page.close()` ends it.

    `port`: None means GRADIO_SERVER_PORT, else the first free one from 7860. The page listens on GRADIO_SERVER_NAME,
    else on every address of a Space, and on this machine alone elsewhere.

    `routes`: what else this server answers, the line of workers for instance. `head`: what a link to the page shows.
    Where `mcp` is installed, as on a Space, the public endpoints are tools of an MCP server as well.

    Raises: OSError when that port is taken, or none is free.
    """
    if port is None and (named := os.environ.get("GRADIO_SERVER_PORT")):
        port = int(named)  # Gradio would silently take the next free one after it
    # After every event Gradio sums up the last 10,000 in pandas, for a monitoring page that is off here.
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
    _reach_itself_without_a_proxy()
    everywhere = get_space() is not None and "GRADIO_SERVER_NAME" not in os.environ
    page.queue(max_size=QUEUE_MAX, default_concurrency_limit=None)
    _let_it_rest(page)
    page.launch(
        server_name="0.0.0.0" if everywhere else None,  # noqa: S104  a Space's page is reached from outside
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        _frontend=False,  # no more than: end here if a busy machine takes 3 s to answer its own first request
        inbrowser=False,
        ssr_mode=False,
        max_threads=PLACES,
        show_error=False,  # a fault of ours goes to the log; what visitors should read is raised as gr.Error
        enable_monitoring=False,
        run_history=False,  # prompts and pictures are not kept in a browser that others may use too
        mcp_server=mcp_tools.is_installed(),
        favicon_path=ICON_FILE,
        app_kwargs={
            "middleware": [
                Middleware(BodyLimit, takes_files=getattr(page, "takes_files", lambda: False)),
                Middleware(OwnHead, head=head),
                Middleware(ReadableErrors, parameters=_parameters(page)),
            ]
        },
        allowed_paths=[],
        max_file_size=FILE_BYTES_MAX,
        footer_links=["api", "settings"],
        theme=_theme(),
        css_paths=[_STYLE],
        head=_HEAD,
    )
    own = [*head.routes(), *getattr(page, "own_routes", ())]
    page.app.router.routes[:0] = [*routes, *own]  # ahead of Gradio's own, which take every path
    mcp_tools.mend(page)
    return str(page.local_url)


def _parameters(page: gr.Blocks) -> dict[str, tuple[list[str], int]]:
    """Of each public endpoint the names of its parameters, and how many of the first ones a call has to give."""
    found = {}
    for name, endpoint in page.get_api_info()["named_endpoints"].items():
        told = endpoint["parameters"]
        required = sum(not parameter["parameter_has_default"] for parameter in told)
        found[name.removeprefix("/")] = ([parameter["parameter_name"] for parameter in told], required)
    return found


def _let_it_rest(page: gr.Blocks) -> None:
    """An idle page looks for new events 50 times a second. Gradio's 1,000 times took 7 % of a core."""
    page._queue.sleep_when_free = 0.02  # Windows has 0.05
    page._queue.progress_update_sleep_when_free = 0.1


def _reach_itself_without_a_proxy() -> None:
    """Gradio starts with a request to its own server, which a proxy for the outside (HTTP_PROXY) does not reach."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, (given, "localhost,127.0.0.1,::1")))


def _theme() -> gr.themes.Base:
    system_fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # nothing is fetched from outside
    return gr.themes.Soft(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="lg",
        font=system_fonts,
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
        block_label_text_color="*body_text_color",
        block_label_text_color_dark="*body_text_color",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        body_background_fill="*neutral_50",
        checkbox_border_color="*neutral_500",  # an empty one could not be seen
        checkbox_border_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_500",
    )
