"""The maintainer's list of what is not drawn here: words, phrases and regular expressions, looked for in a prompt."""

import re
import unicodedata
from pathlib import Path

from errors import InvalidRequestError, SettingsError

REFUSAL = "This cannot be drawn here: its owner has asked for other subjects. Please try other words."
_FILES = (".txt", ".list")


class BlockedWords:
    """Refuses prompts that hold one of its entries; letters of any case and width are alike.

    `entries`: words or phrases, which are found as a whole, and `/.../` for a regular expression.
    """

    def __init__(self, entries: list[str]) -> None:
        self._patterns = [_pattern(entry) for entry in map(_plain, entries) if entry]

    @classmethod
    def read(cls, setting: str | None) -> "BlockedWords":
        """The list of BLOCKED_WORDS: entries between commas, or a file (.txt, .list) with one a line; `#` is a comment.

        Raises: SettingsError for a file that cannot be read or a regular expression that is none.
        """
        if not setting:
            return cls([])
        entries = [entry.strip() for entry in setting.split(",")]
        if len(entries) == 1 and setting.endswith(_FILES):
            try:
                lines = Path(setting).read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(
                    f"BLOCKED_WORDS names the file {setting}, which cannot be read ({type(error).__name__})."
                ) from error
            entries = [line.strip() for line in lines if not line.lstrip().startswith("#")]
        return cls(entries)

    def check(self, *texts: str) -> None:
        """Raises: InvalidRequestError, which does not say for which entry."""
        plain = [_plain(text) for text in texts]
        if any(pattern.search(text) for pattern in self._patterns for text in plain):
            raise InvalidRequestError(REFUSAL)


def _plain(text: str) -> str:
    """Without what nobody sees, such as soft hyphens and joiners, which would hide a word."""
    seen = "".join(char for char in text if unicodedata.category(char) != "Cf")
    return unicodedata.normalize("NFKC", seen).strip()


def _pattern(entry: str) -> re.Pattern[str]:
    try:
        if len(entry) > 2 and entry.startswith("/") and entry.endswith("/"):
            return re.compile(entry[1:-1], re.IGNORECASE)
        words = r"\s+".join(map(re.escape, entry.split()))
        return re.compile(rf"(?<!\w){words}(?!\w)", re.IGNORECASE)
    except re.error as error:
        raise SettingsError(f"BLOCKED_WORDS holds {entry!r}, which is no regular expression: {error}.") from error
