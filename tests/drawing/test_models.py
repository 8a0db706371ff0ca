"""What may be asked for: every part of a request is looked at, and a refusal says what would be right."""

from typing import Any

import pytest

from drawing.models import SEED_MAX, GenerationRequest, Limits, Range
from errors import InvalidRequestError

SMALL = Limits(width=Range(min=64, max=512, multiple=64), num_inference_steps=Range(min=1, max=50), prompt_chars=20)


def test_only_a_prompt() -> None:
    """With nothing but a prompt the rest is left to the server."""
    assert GenerationRequest.checked(Limits(), "  a red apple ") == GenerationRequest(prompt="a red apple")


def test_everything_given() -> None:
    """Numbers come as integers where they are counts, whatever way the page or an API client writes them."""
    request = GenerationRequest.checked(
        Limits(), "x", "blue", height=256.0, width="512", num_inference_steps=20, guidance_scale="2.5", seed="7"
    )
    assert request == GenerationRequest("x", "blue", 256, 512, 20, 2.5, 7)
    assert all(type(value) is int for value in (request.height, request.width, request.seed))


@pytest.mark.parametrize("seed", [None, "", -1, "-1", -1.0])
def test_any_seed(seed: Any) -> None:
    """No seed, or the -1 of other programs, means a random one."""
    assert GenerationRequest.checked(Limits(), "x", seed=seed).seed is None


@pytest.mark.parametrize("seed", [0, SEED_MAX])
def test_the_ends_of_seeds(seed: int) -> None:
    """The least and the greatest seed are taken as they are."""
    assert GenerationRequest.checked(Limits(), "x", seed=seed).seed == seed


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", None, 7, ["x"], b"x", True, "x" * 2001, "a\0b", "\ud800"])
def test_prompts_that_are_none(prompt: Any) -> None:
    """Nothing, too much, other types and characters that are no text are refused."""
    with pytest.raises(InvalidRequestError, match=r"prompt"):
        GenerationRequest.checked(Limits(), prompt)


@pytest.mark.parametrize("prompt", ["x" * 2000, "雪の中の猫", "👩‍🎨 paints", "a\nb", "'; DROP TABLE", "<b>x</b>"])
def test_prompts_that_are_some(prompt: str) -> None:
    """Any text up to the limit is a prompt, kept as it is."""
    assert GenerationRequest.checked(Limits(), prompt).prompt == prompt


@pytest.mark.parametrize("negative", ["x" * 2001, 7, ["x"], True, 0, False, "\0"])
def test_negative_prompts(negative: Any) -> None:
    """A negative prompt is checked as the prompt is."""
    with pytest.raises(InvalidRequestError, match="negative prompt"):
        GenerationRequest.checked(Limits(), "x", negative)


@pytest.mark.parametrize("negative", [None, "", "  "])
def test_no_negative_prompt(negative: Any) -> None:
    """A negative prompt may be left out."""
    assert GenerationRequest.checked(Limits(), "x", negative).negative_prompt == ""


HOSTILE_NUMBERS: list[Any] = [
    "many",
    "0x10",
    "1e400",
    " ",
    "12 34",
    float("nan"),
    float("inf"),
    float("-inf"),
    "nan",
    True,
    [1],
    {"a": 1},
    b"7",
    10**400,
    -(10**400),
    "9" * 5000,
    1e300,
]


@pytest.mark.parametrize("value", HOSTILE_NUMBERS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("name", ["height", "width", "num_inference_steps", "guidance_scale", "seed"])
def test_numbers_that_are_none(name: str, value: Any) -> None:
    """Whatever is no number, or one out of all bounds, is refused in a short sentence, never with another error."""
    with pytest.raises(InvalidRequestError) as caught:
        GenerationRequest.checked(Limits(), "x", **{name: value})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("width", 63, "64 to 512 px"),
        ("width", 576, "64 to 512 px"),
        ("width", 100, "multiple of 64"),
        ("height", 2056, "2048"),
        ("height", 100.5, "whole number"),
        ("num_inference_steps", 0, "1 to 50"),
        ("num_inference_steps", 51, "1 to 50"),
        ("num_inference_steps", 20.5, "whole number"),
        ("guidance_scale", -0.1, "0 to 30"),
        ("guidance_scale", 30.5, "0 to 30"),
        ("seed", -2, "0 to 4294967295"),
        ("seed", SEED_MAX + 1, "0 to 4294967295"),
        ("seed", 1.5, "whole number"),
    ],
)
def test_outside_the_limits(name: str, value: Any, told: str) -> None:
    """A number outside the limits is refused with the bounds that hold."""
    with pytest.raises(InvalidRequestError, match=told):
        GenerationRequest.checked(SMALL, "x", **{name: value})


@pytest.mark.parametrize(
    ("typed", "steps", "guidance"), [("20.0", 20, 20.0), ("1e1", 10, 10.0), (" 20 ", 20, 20.0), ("20,0", 20, 20.0)]
)
def test_numbers_as_people_type_them(typed: str, steps: int, guidance: float) -> None:
    """Steps and guidance are understood with a point or a comma, and as powers of ten."""
    request = GenerationRequest.checked(Limits(), "a castle", num_inference_steps=typed, guidance_scale=typed)
    assert (request.num_inference_steps, request.guidance_scale) == (steps, guidance)
    assert GenerationRequest.checked(Limits(), "a castle", guidance_scale="2,5").guidance_scale == 2.5


def test_a_comma_that_may_mean_thousands_is_refused() -> None:
    """`1,000` could be one or a thousand: it is neither."""
    with pytest.raises(InvalidRequestError, match="whole number"):
        GenerationRequest.checked(Limits(), "a castle", seed="1,000")


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        ("prompt", {"prompt": " "}),
        ("num_inference_steps", {"num_inference_steps": "many"}),
        ("guidance_scale", {"guidance_scale": 99}),
        ("seed", {"seed": -2}),
        ("width", {"width": 63}),
    ],
)
def test_a_refusal_names_its_parameter(parameter: str, values: dict[str, Any]) -> None:
    """The error tells which parameter is wrong, so that its field can be marked."""
    with pytest.raises(InvalidRequestError) as refused:
        GenerationRequest.checked(Limits(), **{"prompt": "a castle", **values})
    assert refused.value.parameter == parameter


def test_a_stricter_server() -> None:
    """A request that the static bounds let through is refused once the server's own limits are known."""
    request = GenerationRequest.checked(Limits(), "x", width=1024)
    with pytest.raises(InvalidRequestError, match="512"):
        request.check(SMALL)


def test_limits_of_a_healthcheck() -> None:
    """The server's limits are taken, a plain maximum from its `max`; what it leaves out keeps the static bounds."""
    limits = Limits.from_health(
        {"width": {"min": 64, "max": 256, "multiple": 64}, "prompt_chars": {"max": 77}, "unheard_of": [1]}
    )
    assert (limits.width.max, limits.width.multiple, limits.prompt_chars) == (256, 64, 77)
    assert limits.height == Limits().height


@pytest.mark.parametrize(("features", "given", "parameter"), [
    (["text2image"], {"image": b"x"}, "image"),
    (["text2image", "img2img"], {"image": b"x", "mask_image": b"x"}, "mask_image"),
    (["img2img", "inpaint"], {"mask_image": b"x"}, "mask_image"),
    (["img2img"], {"image": "a file's path"}, "image"),
    (["img2img"], {"image": b"x", "strength": 0}, "strength"),
    (["img2img"], {"image": b"x", "strength": 1.5}, "strength"),
])  # fmt: skip
def test_images_that_cannot_be_started_from(features: list[str], given: dict[str, Any], parameter: str) -> None:
    """A model that takes no image or mask is told to the visitor, and the error names the part."""
    with pytest.raises(InvalidRequestError) as refused:
        GenerationRequest.checked(Limits.from_health({"features": features}), "x", **given)
    assert refused.value.parameter == parameter


@pytest.mark.parametrize("features", [(), ("img2img", "inpaint")])
def test_images_to_start_from(features: tuple[str, ...]) -> None:
    """A model that takes them, and one of which nothing is known yet, gets image, mask and strength as they are."""
    given = {"image": b"image", "mask_image": b"mask", "strength": 0.5}
    request = GenerationRequest.checked(Limits(features=features), "x", **given)
    assert {name: getattr(request, name) for name in given} == given
    assert "image" not in repr(request)


def test_two_servers_take_images_where_both_do() -> None:
    """A drawing may go to either of them."""
    both = Limits(features=("text2image", "img2img")).wider(Limits(features=("img2img", "inpaint")))
    assert (both.takes_image, both.takes_mask) == (True, False)
