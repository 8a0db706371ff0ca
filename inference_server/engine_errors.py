"""What the engine process tells of an exception."""


def short_reason(exc: BaseException) -> str:
    """An exception in one line without the library's build paths; at most 500 characters."""
    text = str(exc).partition("Invoked with")[0]  # what follows holds the prompt
    lines = [line.strip() for line in text.splitlines() if line.strip() and "/src/cpp/" not in line]
    return (" ".join(lines) or type(exc).__name__)[:500]
