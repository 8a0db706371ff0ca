"""The page as it lies on the screen, from top to bottom, and which handler each of its events calls."""

from typing import Any

import gradio as gr

from drawing.models import SEED_MAX, STRENGTH_MIN
from page import frame
from page import text as page_text
from page.about import about_html
from page.api import Api, add_endpoints
from page.chain import ChainNews, chain_html
from page.drawings import PICTURES_MOST
from page.handlers import Handlers
from page.ideas import ideas_html
from page.language import ENGLISH, words_of
from page.options import limited, number_field, offer_html, schedulers, shapes, sizes
from page.serve import Page
from page.start_image import START_IMAGE
from page.translation import ANY_LANGUAGE
from settings import HouseSettings
from text_to_image import TextToImage

_CACHE_CHECK_AND_AGE_S = (600, 3600)
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# Raw values both ways (no pre- and postprocessing): the service checks them, and they need no thread.
_RAW: dict[str, Any] = {"preprocess": False, "postprocess": False, "concurrency_limit": None}


def create_page(service: TextToImage, house: HouseSettings = HouseSettings()) -> gr.Blocks:  # noqa: B008  frozen
    """The whole page for one service; `page.serve.launch` serves it. `house`: what its maintainer tells visitors."""
    status, told, chain_news = service.status(), ANY_LANGUAGE, ChainNews(service)

    def about_now(request: gr.Request) -> str:
        return about_html(house, service.status(), words_of(request))

    with Page(title=ENGLISH["title"], analytics_enabled=False, delete_cache=_CACHE_CHECK_AND_AGE_S) as page:
        job_id = gr.BrowserState("", storage_key="text-to-image-job", secret="text-to-image")  # noqa: S106  hides nothing
        with gr.Column(elem_id="page"):
            gr.HTML(f"<h1>{told['title']}</h1>", elem_id="header")
            notice = page_text.notice_html(status, told)
            gr.HTML(notice, elem_id="notice", visible=bool(notice))
            with gr.Column(elem_id="ask"):
                prompt_box = gr.Textbox(
                    label=told["prompt"],
                    info=told["prompt_language"],
                    placeholder=told["prompt_example"],
                    lines=1,
                    max_lines=3,
                    elem_id="prompt",
                    html_attributes=gr.InputHTMLAttributes(enterkeyhint="go"),  # what a phone's Enter says
                )
                gr.HTML(ideas_html(status, told), elem_id="styles")
                shape_choice = gr.Radio(shapes(status, told), value="", label=told["shape"], elem_id="size")
                with gr.Column(elem_id="actions"):
                    with gr.Row(elem_id="go"):
                        draw_button = gr.Button(told["draw"], variant="primary", elem_id="draw")
                        count_choice = gr.Radio(
                            [(f"×{n}", str(n)) for n in range(1, PICTURES_MOST + 1)],  # noqa: RUF001
                            value="1",
                            label=told["pictures_at_once"],
                            elem_id="count",
                        )
                    with gr.Row(elem_id="news"):
                        status_line = gr.HTML(
                            page_text.idle(status, told), elem_id="status", html_template=page_text.STATUS_TEMPLATE
                        )
                        gr.HTML(frame.OFFLINE_HTML, elem_id="offline")
                        cancel_button = gr.Button(told["cancel"], visible=False, elem_id="cancel", size="md")
            with gr.Column(elem_id="picture"):
                with gr.Column(elem_id="frame"):
                    result_image = gr.Image(
                        label=told["your_picture"],
                        show_label=False,
                        format="png",
                        type="filepath",
                        interactive=False,
                        buttons=["download", "fullscreen"],
                        elem_id="result",
                    )
                    preview = gr.HTML("", elem_id="preview")
                    gr.HTML(frame.GRID_HTML, elem_id="grid")
                    gr.HTML(frame.PROGRESS_HTML, elem_id="progress")
                gr.HTML(frame.CAPTION_HTML, elem_id="caption")
                with gr.Row(elem_id="tools"):
                    gr.Button(told["save"], elem_id="save", size="md")
                    gr.Button(told["share"], elem_id="share", size="md")
                    gr.Button(told["copy_link"], elem_id="copy-link", size="md")
                    gr.Button(told["again"], elem_id="again", size="md")
                    gr.Button(told["same_seed"], elem_id="same-seed", size="md")
                    gr.Button(told["larger"], elem_id="larger", size="md")
                gr.HTML(frame.STRIP_HTML, elem_id="strip")
            with gr.Column(elem_id="extras"):
                gr.Examples(
                    list(page_text.DEMO_EXAMPLES if status.demo else page_text.EXAMPLES),
                    inputs=prompt_box,
                    label=told["examples"],
                    elem_id="examples",
                    api_visibility="private",
                )
                # Gradio mounts what is in a closed accordion when it is first opened, and until then no seed can be
                # shown in it: so it starts open, out of sight, and is closed when the page has loaded.
                with gr.Accordion(told["more"], open=True, elem_id="more", elem_classes=["starting"]) as more_fields:
                    negative_box = gr.Textbox(
                        label=told["negative_prompt"],
                        info=told["negative_prompt_hint"],
                        lines=1,
                        max_lines=3,
                        elem_id="negative-prompt",
                    )
                    with gr.Row():
                        seed_range = told("number_range", least=0, most=SEED_MAX)
                        seed_number = gr.Number(0, label=told["seed"], info=seed_range, precision=0, elem_id="seed")
                        randomize_box = gr.Checkbox(True, label=told["another_seed"])
                    with gr.Row():  # texts: an empty gr.Number becomes 0, and empty means the model's own
                        steps_box = gr.Textbox(
                            label=told["steps"],
                            max_lines=1,
                            elem_id="steps",
                            **number_field(status, "num_inference_steps", told),
                        )
                        guidance_box = gr.Textbox(
                            label=told["guidance"],
                            max_lines=1,
                            elem_id="guidance",
                            **number_field(status, "guidance_scale", told),
                        )
                    size_choice = gr.Dropdown(
                        sizes(status, told),
                        value="",
                        label=told["size_list"],
                        info=told["size_list_hint"],
                        allow_custom_value=True,
                        elem_id="size-list",
                    )
                    scheduler_choice = gr.Dropdown(
                        schedulers(status, told),
                        value="",
                        label=told["scheduler"],
                        info=told["scheduler_hint"],
                        allow_custom_value=True,
                        elem_id="scheduler",
                    )
                    # Closed: what is in it is not even fetched until a visitor wants it.
                    with gr.Accordion(
                        told["start_image_more"],
                        open=False,
                        visible=status.limits.takes_image,
                        elem_id="start",
                    ) as start_fields:
                        start_image = gr.Image(label=told["start_image"], **START_IMAGE, elem_id="start-image")
                        mask_image = gr.Image(
                            label=told["mask_image"],
                            **START_IMAGE,
                            visible=status.limits.takes_mask,
                            elem_id="mask-image",
                        )
                        strength = gr.Slider(
                            STRENGTH_MIN,
                            1,
                            0.75,
                            step=0.05,
                            label=told["strength"],
                            info=told["strength_hint"],
                            buttons=[],
                            elem_id="strength",
                        )
                    tell_box = gr.Checkbox(False, label=told["tell_me"], elem_id="tell-me")
                    gr.HTML(frame.OPEN_PICTURE_HTML, elem_id="open-picture")
            gr.HTML(frame.SAID_HTML, elem_id="said")
            # What the scripts of the page have to do with Gradio's fields goes through these.
            records = gr.JSON(None, visible=False)
            fill_button = gr.Button(visible="hidden", elem_id="fill")
            offer = gr.HTML(offer_html(status), elem_id="offer")

            with gr.Column(elem_id="small-print"):
                gr.HTML(chain_html(chain_news, told), elem_id="chain")
                about = gr.HTML(about_html(house, status, told), elem_id="about")

        page.own_routes = [chain_news.route()]
        page.takes_files = lambda: service.status().limits.takes_image
        fields = {
            "prompt": prompt_box,
            "negative_prompt": negative_box,
            "seed": seed_number,
            "randomize_seed": randomize_box,
            "num_inference_steps": steps_box,
            "guidance_scale": guidance_box,
            "size": size_choice,
            "num_images_per_prompt": count_choice,
            "scheduler": scheduler_choice,
        }
        # Not kept in the browser: a link or a reload does not bring them back.
        start = {"image": start_image, "mask_image": mask_image, "strength": strength}
        handlers = Handlers(service, result_image.GRADIO_CACHE, (*fields, *start))
        screen = [
            status_line,
            preview,
            draw_button,
            cancel_button,
            result_image,
            seed_number,
            job_id,
            prompt_box,
            records,
        ]
        asked = [size_choice, scheduler_choice, *(fields[name] for name in limited(fields))]
        options = [offer, start_fields, mask_image, shape_choice, *asked]

        drawn = gr.on(
            [draw_button.click, prompt_box.submit],
            handlers.draw,
            [job_id, *fields.values(), *start.values()],
            screen,
            trigger_mode="multiple",  # `draw` refuses a second one itself: Gradio would ignore it without a word
            **_RAW,
            **_PRIVATE,
        )
        # Not in the queue: when an event in the queue ends and Gradio knows of no other, it closes the page's stream of
        # news, and a Draw that is on its way just then would wait for ever.
        drawn.then(handlers.options, asked, options, queue=False, **_RAW, **_PRIVATE)
        # By typing alone: the page's own update of the number is no `input`. In the browser, without asking the server.
        seed_number.input(None, None, randomize_box, js="() => false")
        for one in (start_image, mask_image):
            one.upload(handlers.look_at_image, one, [one, status_line], queue=False, **_RAW, **_PRIVATE)
        cancel_button.click(handlers.cancel, job_id, None, api_name="cancel_drawing", queue=False, **_RAW, **_PRIVATE)
        # The rest of the events ask the page's scripts alone, see script/ for each.
        kept = list(fields.values())
        records.change(None, records, None, js="keepPicture", **_PRIVATE)
        shape_choice.input(None, shape_choice, size_choice, js="(size) => size", **_PRIVATE)
        size_choice.change(None, size_choice, shape_choice, js="(size) => size", **_PRIVATE)
        tell_box.input(None, tell_box, None, js="wantTelling", **_PRIVATE)
        fill_button.click(None, None, [result_image, *kept], js="nextFill", trigger_mode="multiple", **_PRIVATE).then(
            None, None, None, js="drawIfWanted", **_PRIVATE
        )
        # What stands in the fields outlives a reload: Gradio reloads the page when its server was gone.
        gr.on([field.change for field in kept], None, kept, None, js="keepFields", **_PRIVATE)
        # Afterwards, so that what an address brought is held against what the model can do.
        page.load(None, kept, kept, js="keptFields", **_PRIVATE).then(
            handlers.options, asked, options, queue=False, **_RAW, **_PRIVATE
        )
        page.load(
            handlers.resume,
            [job_id, prompt_box],
            screen,
            js="(jobId, typed) => [pictureToFind(jobId), keptFields(typed)[0]]",
            **_RAW,
            **_PRIVATE,
        ).then(None, None, None, js="showLast", **_PRIVATE)
        page.load(None, None, tell_box, js="tellWanted", **_PRIVATE)
        page.load(about_now, None, about, queue=False, **_RAW, **_PRIVATE)
        page.load(lambda: gr.update(open=False, elem_classes=[]), None, more_fields, queue=False, **_RAW, **_PRIVATE)
        add_endpoints(Api(service, result_image.GRADIO_CACHE), status.limits)
    return page
