"""The commands that README.md prints, as a shell would take them."""

import re
import shlex

from tests.support.processes import REPOSITORY


def commands(heading: str) -> list[list[str]]:
    """The words of each command in the first code block below this heading, without comments."""
    text = (REPOSITORY / "README.md").read_text()
    below = text.partition(f"\n### {heading}\n")[2] or text.partition(f"\n## {heading}\n")[2]
    block = re.search(r"^```\n(.*?)^```", below, re.DOTALL | re.MULTILINE)
    assert block, f"README.md has no code block below {heading!r}"
    lines = block[1].replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def command(heading: str, *beginning: str) -> list[str]:
    """The one command that begins with these words."""
    (found,) = [words for words in commands(heading) if tuple(words[: len(beginning)]) == beginning]
    return found
