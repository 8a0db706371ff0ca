"""The page's languages: no sentence is missing in any, and each visitor gets his own."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import backends
from backends.away import STANDS_IN, as_sketch
from backends.workers import AWAY_FOR_A_MOMENT, BACK
from drawing.blocked_words import REFUSAL
from drawing.events import Picture, Queued, Step, Waking
from drawing.models import GeneratedImage, GenerationRequest, Limits, Receipt
from errors import Absence, BusyError, GpuBusyError, InvalidRequestError, SpaceError
from page import text as page_text
from page.language import ENGLISH, LANGUAGES, Words, words_for
from page.options import parse_size
from page.translation import ANY_LANGUAGE, from_below, said
from tests.support.page_service import StandInService, picture, serve

PATIENT = httpx.Timeout(60)
GERMAN = LANGUAGES["de"]
PAGE = Path(backends.__file__).parents[1] / "page"
FOREIGN = [words for words in LANGUAGES.values() if words is not ENGLISH]


def _places(sentence: str) -> list[str]:
    return sorted(set(re.findall(r"\{(\w+)\}", sentence)))


@pytest.mark.parametrize("words", LANGUAGES.values(), ids=lambda words: words.tag)
def test_no_language_lacks_a_sentence(words: Words) -> None:
    """Every language has each sentence with each of its places and none too many, and nothing that HTML or JSON would
    want escaped; English alone has nothing to say of the prompt's language.
    """
    assert set(words) == set(ENGLISH)
    for name in ENGLISH:
        assert _places(words[name]) == _places(ENGLISH[name]), name
        assert not set(words[name]) & set('<>&"\\\n'), name
        assert words[name].strip() or name in ("prompt_language", "between_sentences"), name


def test_the_languages_are_those_that_are_promised() -> None:
    """English comes first, and none is English under another name."""
    assert list(LANGUAGES) == ["en", "de", "es", "fr", "ja", "pt-BR", "zh-CN"]
    for words in FOREIGN:
        same = [name for name in ENGLISH if words[name] == ENGLISH[name] and re.search(r"\w \w", ENGLISH[name])]
        assert not [name for name in same if not _places(ENGLISH[name])], words.tag


def test_every_sentence_is_said_somewhere() -> None:
    """No sentence is left of a page that has changed."""
    code = "".join(file.read_text(encoding="utf-8") for file in (*PAGE.glob("*.py"), *PAGE.glob("script/*.js")))
    made = {f"{kind}_{why}" for kind in ("away", "chain") for why in ("off", "paused", "budget")}
    made |= {f"{kind}_{why}" for kind in ("away", "chain") for why in ("off_since", "paused_until")}
    made |= {f"{kind}_{unit}" for kind in ("since", "until", "at") for unit in ("minutes", "hours", "days")}
    made |= {f"chain_way_{way}" for way in ("local", "workers", "encrypted", "tunnel")}
    for name in ENGLISH:
        stem = name if name in ("strip_one", "delete_one", "deleted_one") else name.removesuffix("_one")
        is_made = stem in made or stem.startswith(("stage_", "refused_", "field_", "style_", "receipt_", "short_"))
        assert is_made or re.search(rf"[\"']{stem}[\"']", code), name


@pytest.mark.parametrize(
    ("header", "asked", "tag"),
    [
        (None, None, "en"),
        ("de-AT,de;q=0.9,en;q=0.8", None, "de"),
        ("it-IT,it;q=0.9,fr;q=0.5,en;q=0.4", None, "fr"),
        ("en;q=0.2, ja;q=0.9", None, "ja"),
        ("pt-PT", None, "pt-BR"),
        ("zh-Hans-CN", None, "zh-CN"),
        ("it,ru", None, "en"),
        ("de;q=0", None, "en"),
        ("de", "es", "es"),
        ("de", "xx", "de"),
        ("*;q=x,,;;q=1" + ",x" * 9000 + ",de", "<script>", "en"),
    ],
)
def test_a_visitor_gets_the_language_that_he_prefers(header: str | None, asked: str | None, tag: str) -> None:
    """The first language of a visitor's that there is, and the one that the address asks for before all."""
    assert words_for(header, asked).tag == tag


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    page, address = serve(StandInService())
    yield address
    page.close(verbose=False)


@pytest.mark.parametrize("words", LANGUAGES.values(), ids=lambda words: words.tag)
def test_the_page_is_served_in_each_language(url: str, words: Words) -> None:
    """The document's `lang`, title, labels, sentences and link preview are of one language, and no mark is left."""
    answer = httpx.get(url, headers={"Accept-Language": words.tag}, timeout=PATIENT)
    assert re.search(rf'<html\s+lang="{words.tag}"', answer.text)
    assert f"<title>{words['title']}</title>" in answer.text
    for name in ("prompt", "draw", "another_seed", "strip_kept", "demo", "about_yours_text", "description_no_name"):
        assert words[name] in answer.text, name
    for language in FOREIGN if words is ENGLISH else [ENGLISH]:
        assert language["strip_kept"] not in answer.text
    assert not re.search("[\ue000-\uf8ff]", answer.text)
    assert "Accept-Language" in answer.headers["vary"]
    asked = httpx.get(f"{url}?lang={words.tag}", timeout=PATIENT)
    assert asked.text.replace(f"?lang={words.tag}", "") == answer.text


def test_what_programs_read_of_the_page_is_english(url: str) -> None:
    """Gradio's config, its API and the manifest hold no mark, and an English sentence in place of each."""
    for path in ("config", "gradio_api/info", "gradio_api/openapi.json", "manifest.json", "chain"):
        answer = httpx.get(url + path, timeout=PATIENT)
        assert answer.status_code == 200, path
        assert not re.search("[\ue000-\uf8ff]", answer.text), path
    assert ENGLISH["prompt"] in httpx.get(url + "config", timeout=PATIENT).text
    german = httpx.get(url + "chain", headers={"accept-language": "de"}, timeout=PATIENT)
    assert GERMAN["chain_machine"] in german.text


def test_marks_become_sentences_with_their_values() -> None:
    """A sentence within another one, a number and a value that was escaped are said in the reader's language."""
    seconds = ANY_LANGUAGE("short_s", count=ANY_LANGUAGE.number(1.25, 1))
    marked = ANY_LANGUAGE("done", seconds=seconds, machine="&lt;", seed="")
    assert said(f"<p>{marked}</p>", GERMAN) == "<p>Fertig in 1,2 s&lt;</p>"
    assert said(f"<p>{marked}</p>", ENGLISH) == "<p>Done in 1.2 s&lt;</p>"


def test_the_living_sentence_in_german() -> None:
    """What happens to a drawing is told in the visitor's language, with numbers as it writes them."""
    told = [
        page_text.event_html(event, seconds, GERMAN)
        for event, seconds in (
            (Waking("Loading the model", (20, 35)), 0.4),
            (Queued(3, 20.0), 12.0),
            (Step(8, 20), 1.0),
            (Picture(picture(GenerationRequest("a cat"), 42)), 1.24),
        )
    ]
    assert [re.sub("<[^>]*>", "", sentence) for sentence in told] == [
        "Das Modell wird geladen (Aufwachen: 20 bis 35 s)…",
        "Du bist Nummer 3 in der Reihe, etwa 20 s… · 12 s",
        "Zeichnet: Schritt 8 von 20",
        "Fertig in 1,2 s, Seed 42",
    ]


def _error(call: Callable[[], object]) -> str:
    with pytest.raises(SpaceError) as raised:
        call()
    return str(raised.value)


def _refusals() -> Iterator[str]:
    """What may be told to a visitor in English, from the code that writes it."""
    for given in (
        {"prompt": ""},
        {"prompt": "x" * 9000},
        {"prompt": "\0"},
        {"prompt": "x", "num_inference_steps": 999},
        {"prompt": "x", "num_inference_steps": 2.5},
        {"prompt": "x", "num_inference_steps": "many"},
        {"prompt": "x", "guidance_scale": "much"},
        {"prompt": "x", "guidance_scale": 1e300},
        {"prompt": "x", "width": 70},
        {"prompt": "x", "height": 99999},
        {"prompt": "x", "seed": -7},
    ):
        yield _error(lambda given=given: GenerationRequest.checked(Limits(), **given))  # type: ignore[misc]
    yield _error(lambda: parse_size("x"))
    yield str(GpuBusyError())
    yield REFUSAL
    for reason in ("500 drawings are under way.", "the picture server has enough to do just now."):
        yield str(BusyError(reason))
    yield from (*STANDS_IN.values(), AWAY_FOR_A_MOMENT, BACK)
    drawn = picture(GenerationRequest("a cat"), 1)
    for reason in ("off", "paused", "budget"):
        yield from as_sketch(drawn, Absence(reason)).receipt.substituted  # type: ignore[arg-type]


def _stages() -> Iterator[str]:
    """The stages that the backends and the inference server tell, as they stand in their code."""
    told = re.compile(r'(?:\.tell|\btell|\breport|Waking)\(f?"([^"]+)"|_STAGE = "([^"]+)"')
    for folder in ("backends", "inference_server"):
        for file in (PAGE.parent / folder).rglob("*.py"):
            for found in told.finditer(file.read_text(encoding="utf-8")):
                stage = re.sub(r"\{[^}]*\}", "7", found[1] or found[2])
                if file.name == "hub_download.py":
                    stage = f"Downloading the model: 1 of 9 MB ({stage})"
                yield stage[:1].upper() + stage[1:]
    yield "Downloading the model: 1.2 of 3.4 GB"
    yield "Waking the machine that draws"


@pytest.mark.parametrize("english", sorted({*_refusals(), *_stages()}))
def test_what_comes_from_below_in_english_is_known(english: str) -> None:
    """Each stage and refusal that the service writes for visitors is told in their language, its values kept."""
    for words in FOREIGN:
        told = from_below(english, words)
        assert told != english, words.tag
        kept = re.findall(r"\d+", english)
        assert sorted(re.findall(r"\d+", told)) == sorted(kept), told
    assert from_below(english, ENGLISH) == english


def test_what_nobody_knows_stays_english() -> None:
    """An unknown sentence is told as it came."""
    assert from_below("The moon is made of cheese.", GERMAN) == "The moon is made of cheese."
    told = page_text.error_html(InvalidRequestError("No <b>."), GERMAN)
    assert told == '<span class="error">No &lt;b&gt;.</span>'
    receipt = Receipt(substituted=("DDIM in place of DEIS",))
    drawn = GeneratedImage(picture(GenerationRequest("x"), 1).image, b"", "PNG", 7, receipt)
    assert page_text.picture_html(drawn, 2.0, words=GERMAN) == "Fertig in 2,0 s, Seed 7. DDIM in place of DEIS."
