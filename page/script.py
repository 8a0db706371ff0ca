"""What runs in the browser: the files of `script/` as one script, and the words that it says."""

import functools
import json
from pathlib import Path

from page.language import Words

_FOLDER = Path(__file__).with_name("script")
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


def script_html() -> str:
    """The script, to be put into the page's head. In the page itself: one file less to wait for."""
    return f'<script>(() => {{\n"use strict";\n{_code()}}})();</script>'


def words_html(words: Words) -> str:
    """What the script says, and the language, as `window.pageWords`; it has to stand before Gradio's own scripts.

    Gradio chooses its own few words, and the `lang` of the page, by what the browser says of itself.
    """
    code = _code()
    said = {
        name: words[name] for name in words if f'"{name}"' in code or f'tellCount("{name.removesuffix("_one")}"' in code
    }
    told = json.dumps({"language": words.tag, "words": said}, ensure_ascii=False, separators=(",", ":"))
    tag = json.dumps(words.tag)
    return (
        f"<script>window.pageWords = {told};"
        f'Object.defineProperty(navigator, "language", {{ configurable: true, value: {tag} }});</script>'
    )


@functools.cache
def _code() -> str:
    return "\n".join((_FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in _FILES)
