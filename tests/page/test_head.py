"""What a link to the page shows, and what else the page's server answers of its own."""

import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import httpx
import pytest
from PIL import Image

from page.about import about_html, description
from page.chain import ChainNews
from page.head import Head
from page.icon import PREVIEW_SIZE
from settings import HouseSettings
from tests.support.page_service import StandInService, serve

PATIENT = httpx.Timeout(60)
HEAD = Head("Draw <it>", 'A "quoted" & plain sentence.')


class Tags(HTMLParser):
    """The tags of a head: metas by name or property, links by rel, the title."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.metas: dict[str, list[str]] = {}
        self.links: dict[str, list[str]] = {}
        self.titles: list[str] = []
        self._in_title = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        name = given.get("property") or given.get("name")
        if tag == "meta" and name:
            self.metas.setdefault(name, []).append(given.get("content", ""))
        elif tag == "link":
            self.links.setdefault(given.get("rel", ""), []).append(given.get("href", ""))
        self._in_title = tag == "title"

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.titles.append(data)
            self._in_title = False


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    page, address = serve(StandInService())
    yield address
    page.close(verbose=False)


def test_the_served_page_has_its_own_head(url: str) -> None:
    """The HTML as it is served has one title, description and preview of our own, and nothing of Gradio's."""
    html = httpx.get(url, timeout=PATIENT).text
    tags = Tags(html)
    assert tags.titles == ["Say it, see it"]
    for name in ("og:title", "og:description", "og:image", "og:url", "twitter:card", "twitter:image", "description"):
        assert len(tags.metas[name]) == 1, name
        assert "gradio" not in tags.metas[name][0].lower()
    assert tags.metas["og:image"] == [f"{url}preview.png"]
    assert "twitter:creator" not in tags.metas
    assert len(tags.metas["theme-color"]) == 2
    assert tags.links["manifest"] == ["./manifest.json"]
    assert html.index("<meta charset") < 300


def test_what_the_head_names_is_there(url: str) -> None:
    """The preview is a PNG of the size that link previews take, and every icon is an image."""
    preview = httpx.get(f"{url}preview.png", timeout=PATIENT)
    with Image.open(io.BytesIO(preview.content)) as image:
        assert (image.format, image.size, preview.headers["content-type"]) == ("PNG", PREVIEW_SIZE, "image/png")
    touch = httpx.get(f"{url}touch-icon.png", timeout=PATIENT)
    with Image.open(io.BytesIO(touch.content)) as image:
        assert image.size == (180, 180)
    for name in ("icon.svg", "favicon.ico"):
        assert httpx.get(f"{url}{name}", timeout=PATIENT).headers["content-type"] == "image/svg+xml"
    manifest = httpx.get(f"{url}manifest.json", timeout=PATIENT).json()
    for icon in manifest["icons"]:
        assert httpx.get(url + icon["src"], timeout=PATIENT).headers["content-type"] == icon["type"]


def test_the_preview_has_the_address_that_visitors_know(url: str) -> None:
    """Behind a proxy the picture's address is the public one, not the server's own."""
    headers = {"x-forwarded-proto": "https", "x-forwarded-host": "ada-draw.hf.space"}
    tags = Tags(httpx.get(url, headers=headers, timeout=PATIENT).text)
    assert tags.metas["og:image"] == ["https://ada-draw.hf.space/preview.png"]


def test_the_page_is_compressed(url: str) -> None:
    """The page's HTML comes compressed to who takes that, and whole to who does not."""
    plain = httpx.get(url, headers={"accept-encoding": "identity"}, timeout=PATIENT)
    packed = httpx.get(url, headers={"accept-encoding": "gzip"}, timeout=PATIENT)
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) * 3 < len(plain.content)
    assert packed.text.count("og:title") == plain.text.count("og:title") == 1


@pytest.mark.parametrize(
    "html",
    [
        "<html><head></head><body></body></html>",
        "<!doctype html><HTML><HEAD lang=x><Title>Gradio</Title></HEAD></HTML>",
        "<head><meta charset='utf-8'><meta content='x' property='og:title'><link href='a.png' rel='icon'></head>",
        "<head><meta name='twitter:title'\n content='x'/><meta name=\"description\" content='x'><body>no end of a head",
    ],
)
def test_whatever_gradio_s_head_becomes(html: str) -> None:
    """In any head, however it is written, our tags stand once and others of their kind are gone."""
    tags = Tags(HEAD.into(html, "https://x"))
    assert tags.titles == [HEAD.title]
    assert tags.metas["og:title"] == [HEAD.title]
    assert tags.metas["description"] == [HEAD.description]
    assert tags.metas["twitter:title"] == [HEAD.title]
    assert tags.links["icon"] == ["./icon.svg"]


def test_what_is_no_page_is_left_alone() -> None:
    """HTML without a head, such as the list of the chain's links, stays as it is; so do tags outside of a head."""
    assert HEAD.into("<ul></ul>", "https://x") == "<ul></ul>"
    body = '<body><meta property="og:title" content="in a body"></body>'
    assert body in HEAD.into(f"<head></head>{body}", "https://x")


@pytest.mark.parametrize(
    ("name", "body", "status", "reason"),
    [
        ("text_to_image", b"{}", 422, "'prompt' is missing"),
        ("text_to_image", b'{"promt": "a cat"}', 422, "no parameter 'promt'; there are prompt, negative_prompt"),
        ("text_to_image", b"{", 422, "no JSON"),
        ("result", b"[]", 422, "by name: id"),
        ("draw_me", b"{}", 404, "there are text_to_image, submit, result, cancel"),
        ("submit", b'{"prompt": "%s"}' % (b"x" * 1_100_000), 413, "at most 1000000 bytes"),
    ],
)
def test_wrong_calls_are_told_what_is_right(url: str, name: str, body: bytes, status: int, reason: str) -> None:
    """A program that calls by name with the wrong names reads what is wrong, and where to look it up."""
    answer = httpx.post(f"{url}gradio_api/call/v2/{name}", content=body, timeout=PATIENT)
    assert answer.status_code == status
    assert reason in answer.json()["error"]
    assert "/gradio_api/info" in answer.json()["error"]


def _status(**changes: object) -> object:
    service = StandInService(demo=False)
    return service.status().__class__(**{**vars(service.status()), **changes})


def test_about_says_whose_machine_draws() -> None:
    """The line names the owner, GPU, model with its card and licence, and where to report; what is set is escaped."""
    house = HouseSettings(
        owner_name="Ada & Bob", gpu_name="RTX 3090", model_license="OpenRAIL-M", report_to="ada@example.org"
    )
    html = about_html(house, _status(kind="workers", model="ada/draw-1"))  # type: ignore[arg-type]
    for told in ("Ada &amp; Bob&#x27;s own RTX 3090", 'href="https://huggingface.co/ada/draw-1"', "OpenRAIL-M"):
        assert told in html
    assert 'href="mailto:ada@example.org"' in html
    assert "24 hours" in html
    assert description(house).endswith("drawn on Ada & Bob's own GPU, at home.")


def test_about_is_sensible_without_settings() -> None:
    """Without a setting the line says what holds by default; on a Space one reports in its discussions."""
    html = about_html(HouseSettings(), StandInService().status())
    assert "tiny built-in model" in html
    assert "Tell the owner of this page." in html
    assert "ENDPOINT_SECRET" in html
    assert re.search(r"<dt>Not allowed</dt><dd>Please do not", html)
    space = about_html(HouseSettings(space_id="ada/draw"), StandInService().status())
    assert 'href="https://huggingface.co/spaces/ada/draw/discussions"' in space
    asks = "Licence: Krea 2 <Community>. It asks a host to filter or review what is drawn."
    told = about_html(HouseSettings(), _status(model="krea/turbo", licence=asks))  # type: ignore[arg-type]
    assert "Licence: Krea 2 &lt;Community&gt;. It asks a host to filter" in told
    local = about_html(HouseSettings(), _status(model="/home/ada/models/tiny"))  # type: ignore[arg-type]
    assert "/home" not in local


def test_the_chain_is_told_without_waking_anything(url: str) -> None:
    """The links of the chain come with their state and since when, and nothing is drawn or started for it."""
    service = StandInService()
    news = ChainNews(service)  # type: ignore[arg-type]  # a stand-in: it has what the list uses
    html = news.html()
    assert html.count("<li") == 3
    assert "asleep; a drawing wakes it" in html
    assert service.started == []
    assert "for 0 s" in html
    news._looked_at -= 300.0
    service.submit("a cat").result(60)
    assert 'ready<span class="since"> · for up to 5 min' in news.html()
    key, since, seen = news._seen["The machine that draws"]
    news._seen["The machine that draws"] = (key, since - 7200, seen - 7200)
    assert 'ready<span class="since"> · for 2 h' in news.html()
    assert httpx.get(f"{url}chain", timeout=PATIENT).text.startswith("<ul>")
