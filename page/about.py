"""The quiet line that unfolds: whose machine draws, with which model, what is kept, and what is not allowed.

The maintainer sets each part in the settings (`HouseSettings`); without a setting the page says what holds by default.
"""

import re
from html import escape

from drawing.status import BackendStatus
from settings import HouseSettings

_HUB = "https://huggingface.co"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_ADDRESS = re.compile(r"https?://\S+")
_MAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")

PRIVACY = (
    "Your prompt goes to this page's server and to the machine that draws, which forgets it within minutes. This page "
    "keeps a picture, with the prompt in it, for up to 24 hours, so that you find it again, and forgets all of them "
    "whenever it restarts. Whoever has the address of a picture can see it until then. The strip of your pictures is "
    "in your browser alone."
)
YOURS = (
    "The pictures are yours, as far as the model's licence allows. They are made by a machine: say so where it matters."
)
USE_POLICY = (
    "Please do not ask for anything unlawful, for sexual pictures of minors, or for pictures of real people that "
    "deceive, degrade or harm them."
)
_REPORT_TO_OWNER = "Tell the owner of this page."
_OWNERS_HTML = """
<details><summary>For the owner of this page: draw with a larger model</summary>
<p>On a processor: set <code>INFERENCE_ENGINE=openvino</code> and
<code>MODEL_ID=OpenVINO/LCM_Dreamshaper_v7-int8-ov</code>, and restart.</p>
<p>On your own GPU at home: set the secret <code>ENDPOINT_SECRET</code> of your Space and connect a worker to it.
“Your own GPU” in <code>README.md</code> (on a Space: the Files tab) has the commands, and the way through Fair.</p>
</details>
"""


def description(house: HouseSettings) -> str:
    """One sentence for link previews, plain text."""
    where = f"on {house.owner_name}'s own GPU" if house.owner_name else "on its owner's own GPU"
    return f"Type what you would like to see, and watch the picture emerge: drawn {where}, at home."


def about_html(house: HouseSettings, status: BackendStatus) -> str:
    """The line and what it unfolds to."""
    rows = {
        "Who draws": escape(_machine(house, status)),
        "Model": _model_html(house, status),
        "What is kept": escape(house.privacy_text or PRIVACY),
        "Your pictures": escape(YOURS),
        "Not allowed": escape(house.use_policy or USE_POLICY),
        "Report": _report_html(house),
    }
    told = "".join(f"<dt>{name}</dt><dd>{html}</dd>" for name, html in rows.items())
    owners = _OWNERS_HTML if status.demo else ""
    return f"<details><summary>{escape(_line(house, status))}</summary><dl>{told}</dl>{owners}</details>"


def _line(house: HouseSettings, status: BackendStatus) -> str:
    if status.demo and not status.stand_in:
        return "About this page"
    return f"Drawn on {house.owner_name}'s own machine · About" if house.owner_name else "About this page"


def _machine(house: HouseSettings, status: BackendStatus) -> str:
    if status.demo and not status.stand_in:
        return "The server of this page itself, with a tiny built-in model."
    owner = f"{house.owner_name}'s" if house.owner_name else "The page owner's"
    gpu = house.gpu_name or "GPU"
    return f"{owner} own {gpu}, at home. It sleeps while nobody draws, and belongs to its owner first."


def _model_html(house: HouseSettings, status: BackendStatus) -> str:
    if status.demo and not status.stand_in:
        return "A model of 8 MB that was trained on Noto Emoji (Apache-2.0)."
    name = status.model
    if name is None:
        return "It is known once the machine that draws has answered."
    card = house.model_card_url or (f"{_HUB}/{name}" if _HUB_NAME.fullmatch(name) else None)
    named = _link(card, name) if card else escape(name.rstrip("/").rpartition("/")[2])
    licence = f", {escape(house.model_license)}" if house.model_license else ""
    return f"{named}{licence}. {'' if licence else escape(status.licence)}".rstrip()


def _report_html(house: HouseSettings) -> str:
    to = house.report_to or (f"{_HUB}/spaces/{house.space_id}/discussions" if house.space_id else None)
    if to is None:
        return escape(_REPORT_TO_OWNER)
    if _ADDRESS.fullmatch(to):
        return f"Something is wrong here, or should not be? {_link(to, 'Tell the owner')}."
    if _MAIL.fullmatch(to):
        return f"Something is wrong here, or should not be? Write to {_link(f'mailto:{to}', to)}."
    return escape(to)


def _link(address: str, words: str) -> str:
    return f'<a href="{escape(address)}" target="_blank" rel="noopener noreferrer">{escape(words)}</a>'
