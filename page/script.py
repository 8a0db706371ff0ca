"""What runs in the browser: the files of `script/` as one script, with the words that it says."""

import json
from pathlib import Path

_FOLDER = Path(__file__).with_name("script")
_WORDS = Path(__file__).with_name("words")
_FILES = (  # in this order: each may use what those before it define when it begins, and all the others later
    "start",
    "fields",
    "server",
    "album",
    "zip",
    "strip",
    "grid",
    "picture",
    "progress",
    "times",
    "dropped",
    "ideas",
    "touch",
    "keyboard",
    "chain",
)


def words(language: str = "en") -> dict[str, str]:
    """The page's sentences that stand in `words/`: those of the browser's side and the labels around the picture."""
    read: dict[str, str] = json.loads((_WORDS / f"{language}.json").read_text(encoding="utf-8"))
    return read


def script_html() -> str:
    """The script, to be put into the page's head. In the page itself: one file less to wait for."""
    told = json.dumps(words(), ensure_ascii=False).replace("<", "\\u003c")
    files = "\n".join((_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in _FILES)
    return f'<script>(() => {{\n"use strict";\nconst language = "en";\nconst words = {told};\n{files}}})();</script>'
