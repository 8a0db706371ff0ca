"""The quiet line that unfolds: whose machine draws, with which model, what is kept, and what is not allowed.

The maintainer sets each part in the settings (`HouseSettings`); without a setting the page says what holds by default.
"""

import re
from html import escape

from drawing.status import BackendStatus
from page.language import ENGLISH, Words
from settings import HouseSettings

_HUB = "https://huggingface.co"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_ADDRESS = re.compile(r"https?://\S+")
_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")

_OWNERS_HTML = """
<details lang="en"><summary>For the owner of this page: draw with a larger model</summary>
<p>On a processor: set <code>INFERENCE_ENGINE=openvino</code> and
<code>MODEL_ID=OpenVINO/LCM_Dreamshaper_v7-int8-ov</code>, and restart.</p>
<p>On your own GPU at home: set the secret <code>ENDPOINT_SECRET</code> of your Space and connect a worker to it.
“Your own GPU” in <code>README.md</code> (on a Space: the Files tab) has the commands, and the way through Fair.</p>
</details>
"""


def description(house: HouseSettings, words: Words = ENGLISH) -> str:
    """One sentence for link previews, plain text."""
    return words("description", owner=house.owner_name) if house.owner_name else words["description_no_name"]


def about_html(house: HouseSettings, status: BackendStatus, words: Words = ENGLISH) -> str:
    """The line and what it unfolds to."""
    rows = {
        "about_who": escape(_machine(house, status, words)),
        "about_model": _model_html(house, status, words),
        "about_kept": escape(house.privacy_text or _kept(status, words)),
        "about_yours": escape(words["about_yours_text"]),
        "about_not_allowed": escape(house.use_policy or words["about_not_allowed_text"]),
        "about_report": _report_html(house, words),
    }
    told = "".join(f"<dt>{words[name]}</dt><dd>{html}</dd>" for name, html in rows.items())
    owners = _OWNERS_HTML if status.demo else ""
    return f"<details><summary>{escape(_line(house, status, words))}</summary><dl>{told}</dl>{owners}</details>"


def _kept(status: BackendStatus, words: Words) -> str:
    image = words["between_sentences"] + words["about_kept_image"] if status.limits.takes_image else ""
    return words["about_kept_text"] + image


def _line(house: HouseSettings, status: BackendStatus, words: Words) -> str:
    if house.owner_name and not (status.demo and not status.stand_in):
        return words("about_owner", owner=house.owner_name)
    return words["about"]


def _machine(house: HouseSettings, status: BackendStatus, words: Words) -> str:
    if status.demo and not status.stand_in:
        return words["about_who_demo"]
    gpu = house.gpu_name or "GPU"
    if house.owner_name:
        return words("about_who_named", owner=house.owner_name, gpu=gpu)
    return words("about_who_no_name", gpu=gpu)


def _model_html(house: HouseSettings, status: BackendStatus, words: Words) -> str:
    if status.demo and not status.stand_in:
        return words["about_model_demo"]
    name = status.model
    if name is None:
        return words["about_model_unknown"]
    card = house.model_card_url or (f"{_HUB}/{name}" if _HUB_NAME.fullmatch(name) else None)
    named = _link(card, name) if card else escape(name.rstrip("/").rpartition("/")[2])
    licence = f", {escape(house.model_license)}" if house.model_license else ""
    return f"{named}{licence}. {'' if licence else escape(status.licence)}".rstrip()


def _report_html(house: HouseSettings, words: Words) -> str:
    to = house.report_to or (f"{_HUB}/spaces/{house.space_id}/discussions" if house.space_id else None)
    if to is None:
        return words["about_report_owner"]
    if _ADDRESS.fullmatch(to):
        return words("about_report_link", link=_link(to, words["about_report_tell"]))
    if _MAIL.fullmatch(to):
        return words("about_report_mail", mail=_link(f"mailto:{to}", to))
    return escape(to)


def _link(address: str, words: str) -> str:
    return f'<a href="{escape(address)}" target="_blank" rel="noopener noreferrer">{escape(words)}</a>'
