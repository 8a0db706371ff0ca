"""What the engine process tells of an exception."""

import re

# A library's own source file, where it was built: "at /pytorch/torch/csrc/x.cpp, line 145", "../c10/cuda/y.cpp:84".
_BUILD_PATH = re.compile(r"(?:\s+(?:at|from|in))?\s+\S*/\S+\.(?:c|cc|cpp|cxx|cu|cuh|h|hpp)\b(?:, line |:)?\d*")


def short_reason(exc: BaseException) -> str:
    """An exception in one line without the library's build paths; at most 500 characters."""
    text = str(exc).partition("Invoked with")[0]  # what follows holds the prompt
    lines = [line.strip() for line in text.splitlines() if line.strip() and "/src/cpp/" not in line]
    lines = [_BUILD_PATH.sub("", f" {line}").strip() for line in lines]
    return (" ".join(lines) or type(exc).__name__)[:500]
