"""What people write into prompts to weigh words, read."""

import pytest

from inference_server.engines.prompt_weights import MAX_WEIGHT, plain, read


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("a (red:1.3) cat", [("a ", 1), ("red", 1.3), (" cat", 1)]),
        ("a [red] cat", [("a ", 1), ("red", 0.9091), (" cat", 1)]),
        ("((a) b)", [("a", 1.21), (" b", 1.1)]),
        ("(a (b:2) c:.5)", [("a ", 0.5), ("b", 1), (" c", 0.5)]),
        (r"a \(b\) c\\", [("a (b) c\\", 1)]),
        ("a (b", [("a ", 1), ("b", 1.1)]),
        ("a) b]", [("a) b]", 1)]),
        ("at 10:30, a:b", [("at 10:30, a:b", 1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:1e9)", [("a:1e9", 1.1)]),
        ("(a:99)", [("a", MAX_WEIGHT)]),
        ("(a]", [("a]", 1.1)]),
        ("", [("", 1)]),
        ("a [ ] b", [("a   b", 1)]),
        ("[ ]a", [(" ", 1), ("a", 1)]),
        ("(  )", [("  ", 1)]),
        ("[a] (b)", [("a ", 0.9091), ("b", 1.1)]),
    ],
)
def test_brackets_weigh_words(prompt: str, pieces: list[tuple[str, float]]) -> None:
    """Round ones more, square ones less, a number exactly; what is no bracket of a pair means itself."""
    assert list(read(prompt).pieces) == pieces
    assert read(prompt).is_weighted == any(weight != 1 for _, weight in pieces)


@pytest.mark.parametrize(
    ("prompt", "unused", "text"),
    [
        ("a cat <lora:pixel:0.8>, red", ("<lora:pixel:0.8>",), "a cat , red"),
        ("a [cat:dog:0.5] here", ("[cat:dog:0.5]",), "a  here"),
        ("a BREAK b", ("BREAK",), "a  b"),
        ("a <3 b > c", (), "a <3 b > c"),
    ],
)
def test_what_other_programs_understand_is_told(prompt: str, unused: tuple[str, ...], text: str) -> None:
    """It is left out and named, rather than drawn as words."""
    assert (read(prompt).unused, read(prompt).text) == (unused, text)


def test_a_prompt_is_cut_with_its_weights() -> None:
    """Up to a number of characters, each piece with the weight that it had; a plain one has brackets as typed."""
    assert read("ab (cd:2) ef").up_to(4).pieces == (("ab ", 1), ("c", 2))
    assert plain("a (b:2)").pieces == (("a (b:2)", 1),)


def test_a_hostile_prompt_is_read_at_once() -> None:
    """Thousands of brackets take no longer than a moment."""
    for hostile in ("(" * 5000, "[" * 5000 + "]" * 5000, "(a:" * 3000, "<a:" * 3000, "[a:" * 3000, "\\" * 5000):
        read(hostile)
