"""What helps with a prompt: styles and whole prompts to be surprised by, read from `ideas.json`."""

import json
from html import escape
from pathlib import Path
from typing import Any

from drawing.status import BackendStatus
from page.language import ENGLISH, Words

_IDEAS: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def styles() -> dict[str, str]:
    """The styles on offer: each one's name, and the words that it adds to a prompt."""
    return dict(_IDEAS["styles"])


def surprises(*, demo: bool) -> list[str]:
    """Whole prompts; `demo`: of words that the demo model knows."""
    return list(_IDEAS["demo_surprises" if demo else "surprises"])


def ideas_html(status: BackendStatus, words: Words = ENGLISH) -> str:
    """The row of buttons under the prompt."""
    named = ((words[f"style_{name.lower()}"], added) for name, added in styles().items())
    buttons = "".join(
        f'<button type="button" aria-pressed="false" data-words="{escape(added)}">{name}</button>'
        for name, added in named
    )
    offered = escape(json.dumps(surprises(demo=status.demo), ensure_ascii=False))
    return (
        f'<div role="group" aria-label="{words["styles"]}">'
        f'<button type="button" id="surprise" data-ideas="{offered}">{words["surprise"]}</button>{buttons}</div>'
    )
