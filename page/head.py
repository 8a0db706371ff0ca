"""The head of the page as it is served: title, description, link preview, icons and theme colour of our own.

Gradio's template has its own `og:` and `twitter:` tags, and what `launch(head=...)` adds comes by script, which link
previews do not run. So the served HTML is changed on its way out: whatever tags of that kind are there are dropped.
"""

import functools
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from gradio.route_utils import get_root_url
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from page.icon import ICON_FILE, PREVIEW_SIZE, THEME_COLOR, icon_png, preview_png
from page.language import ENGLISH, Words, words_of
from page.script import words_html
from page.translation import ANY_LANGUAGE, said

_DARK_COLOR = "#0f172a"
_A_DAY = {"Cache-Control": "public, max-age=86400"}
_TOUCH_ICON_PX, _MANIFEST_ICON_PX = 180, 512
_GZIP_LEVEL = 5
_HTML_BYTES_MAX = 20_000_000
_FOREIGN = re.compile(
    r"""<meta\s[^>]*\b(?:property|name)=["'](?:og:|twitter:|description\b|theme-color\b)[^>]*>\s*"""
    r"""|<title>.*?</title>\s*|<link\s[^>]*\brel=["'](?:manifest|icon|shortcut\ icon|apple-touch-icon)["'][^>]*>\s*""",
    re.IGNORECASE | re.DOTALL,
)
_LANG = re.compile(r"""(<html\b[^>]*\blang=)["'][^"']*["']""", re.IGNORECASE)
_OF_GRADIO = "/config", "/openapi.json"
_HEAD_BEGINS = re.compile(r"<head\b[^>]*>", re.IGNORECASE)


@dataclass(frozen=True)
class Head:
    """What a link to the page shows. `title`, `description`: plain text, with marks where the language matters."""

    title: str = ANY_LANGUAGE["title"]
    description: str = ANY_LANGUAGE["description_no_name"]

    def tags(self, address: str) -> str:
        """The tags; `address`: the page's own, without a slash at its end."""
        image = f"{address}/preview.png"
        metas = {
            "description": self.description,
            "og:type": "website",
            "og:site_name": self.title,
            "og:title": self.title,
            "og:description": self.description,
            "og:url": f"{address}/",
            "og:image": image,
            "og:image:type": "image/png",
            "og:image:width": str(PREVIEW_SIZE[0]),
            "og:image:height": str(PREVIEW_SIZE[1]),
            "og:image:alt": self.title,
            "twitter:card": "summary_large_image",
            "twitter:title": self.title,
            "twitter:description": self.description,
            "twitter:image": image,
        }
        lines = [f"<title>{escape(self.title)}</title>"]
        for name, value in metas.items():
            kind = "property" if name.startswith("og:") else "name"
            lines.append(f'<meta {kind}="{name}" content="{escape(value)}" />')
        lines += [
            f'<meta name="theme-color" content="{THEME_COLOR}" media="(prefers-color-scheme: light)" />',
            f'<meta name="theme-color" content="{_DARK_COLOR}" media="(prefers-color-scheme: dark)" />',
            '<link rel="icon" type="image/svg+xml" href="./icon.svg" />',
            '<link rel="apple-touch-icon" href="./touch-icon.png" />',
            '<link rel="manifest" href="./manifest.json" />',
        ]
        return "\n\t\t".join(lines)

    def into(self, html: str, address: str, words: Words = ENGLISH) -> str:
        """The page's HTML with these tags in place of others of their kind, all of it in the language of `words`.

        Without a head there is no place for the tags.
        """
        begins = _HEAD_BEGINS.search(html)
        if begins is None:
            return said(html, words)
        ends = html.find("</head>", begins.end())
        ends = len(html) if ends < 0 else ends
        rest = _FOREIGN.sub("", html[begins.end() : ends])
        # The character set has to come within the first bytes: the tags go behind whatever tells it.
        charset = re.match(r"\s*<meta\s+charset[^>]*>", rest, re.IGNORECASE)
        cut = charset.end() if charset else 0
        opened = _LANG.sub(rf'\g<1>"{words.tag}"', html[: begins.end()])
        tags = f"{self.tags(address)}\n\t\t{words_html(words)}"
        return said(f"{opened}{rest[:cut]}\n\t\t{tags}{rest[cut:]}{html[ends:]}", words)

    def routes(self) -> Sequence[BaseRoute]:
        """The files that the tags name."""
        png = functools.partial(Response, media_type="image/png", headers=_A_DAY)

        def preview(request: Request) -> Response:
            return png(preview_png(said(self.title, ENGLISH), said(self.description, ENGLISH)))

        def touch_icon(request: Request) -> Response:
            return png(icon_png(_TOUCH_ICON_PX))

        def large_icon(request: Request) -> Response:
            return png(icon_png(_MANIFEST_ICON_PX))

        def icon(request: Request) -> Response:
            return FileResponse(ICON_FILE, media_type="image/svg+xml", headers=_A_DAY)

        def manifest(request: Request) -> Response:
            side = f"{_MANIFEST_ICON_PX}x{_MANIFEST_ICON_PX}"
            told = {
                "name": self.title,
                "description": self.description,
                "start_url": "./",
                "display": "standalone",
                "theme_color": THEME_COLOR,
                "background_color": "#ffffff",
                "icons": [
                    {"src": "./icon.svg", "sizes": "any", "type": "image/svg+xml"},
                    {"src": "./icon.png", "sizes": side, "type": "image/png"},
                ],
            }
            spoken = said(json.dumps(told, ensure_ascii=False), words_of(request))
            return Response(
                spoken, media_type="application/manifest+json", headers={**_A_DAY, "Vary": "Accept-Language"}
            )

        files = {
            "/preview.png": preview,
            "/touch-icon.png": touch_icon,
            "/icon.png": large_icon,
            "/icon.svg": icon,
            "/favicon.ico": icon,
            "/manifest.json": manifest,
        }
        return [Route(path, endpoint, methods=["GET", "HEAD"]) for path, endpoint in files.items()]


class OwnHead:
    """ASGI middleware that puts `head` into the HTML of the page itself, in the visitor's language, and compresses it,
    which Gradio does not.
    """

    def __init__(self, app: ASGIApp, head: Head) -> None:
        self._app = app
        self._head = head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        started: Message | None = None
        body, words = bytearray(), words_of(Request(scope))

        async def change(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start" and _has_sentences(message, scope["path"]):
                started = message
            elif started is None or message["type"] != "http.response.body":
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body") or len(body) > _HTML_BYTES_MAX:
                    page = self._head.into(body.decode(errors="replace"), _address(scope), words).encode()
                    headers = [(name, value) for name, value in started["headers"] if name.lower() != b"content-length"]
                    headers.append((b"vary", b"Accept-Encoding, Accept-Language"))
                    if scope["method"] == "GET" and "gzip" in Headers(scope=scope).get("accept-encoding", ""):
                        page = gzip.compress(page, _GZIP_LEVEL)
                        headers.append((b"content-encoding", b"gzip"))
                    if scope["method"] == "GET":
                        headers.append((b"content-length", str(len(page)).encode()))
                    await send({**started, "headers": headers})
                    started = None
                    await send({**message, "body": page})

        await self._app(scope, receive, change)


def _has_sentences(start: Message, path: str) -> bool:
    """Whether this begins the page itself, or what Gradio's clients read it from."""
    headers = {name.lower(): value for name, value in start["headers"]}
    is_page = headers.get(b"content-type", b"").startswith(b"text/html") or path.endswith(_OF_GRADIO)
    return start["status"] == 200 and is_page and b"content-encoding" not in headers


def _address(scope: Scope) -> str:
    """The page's public address, behind proxies and under a sub-path too."""
    request = Request(scope)
    root_path = getattr(scope.get("app"), "root_path", "") or scope.get("root_path", "")
    return str(get_root_url(request, route_path=scope["path"], root_path=root_path))
