"""What the maintainer's errors tell strangers: which link failed and how, and not where the owner's machines stand.

The log has every error whole.
"""

import re

_CHARS = 4000
_HIDDEN = "(address in the log)"
_LOOPBACK = re.compile(r"(?:https?://)?(?:127\.0\.0\.1|localhost|\[::1\])(?![\w.-])", re.IGNORECASE)
_URL = re.compile(r"https?://(?:[^\s/@]*@)?(\[[0-9a-f:.]*\]|[^\s/,;:()\"'<>]+)[^\s,;()\"'<>]*(?<![.:])", re.IGNORECASE)
_PLACE = re.compile(
    r"[^\s@]+@[\w.-]+\.\w+"  # mail
    r"|\[[0-9a-f:.]*:[0-9a-f:.]*\](?::\d+)?|(?<![\w:])(?=[0-9a-f:]*::|(?:[0-9a-f]+:){7})[0-9a-f:]*[0-9a-f]"  # IPv6
    r"|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\w.]*\w)"  # IPv4
    r"|(?<![\w.-])[a-z0-9-]+(?:\.[a-z0-9-]+)+:\d{1,5}\b",  # a name with its port
    re.IGNORECASE,
)


def without_addresses(text: str) -> str:
    """The text without addresses, host names and mail addresses, as far as they are none of this machine itself."""
    text = text[:_CHARS]
    hosts = {found[1] for found in _URL.finditer(text)}  # which it may name again on their own
    text = _URL.sub(_hidden, text)
    for host in hosts:
        if not _LOOPBACK.fullmatch(host):
            text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?::\d+)?(?![\w-])", _HIDDEN, text, flags=re.IGNORECASE)
    return _PLACE.sub(_hidden, text)


def _hidden(found: re.Match[str]) -> str:
    return found[0] if _LOOPBACK.match(found[0]) else _HIDDEN
