"""A pre-receive hook that refuses what a Space's repository refuses: `python space_hook.py`, as git calls it.

Source: https://huggingface.co/docs/hub/repositories-getting-started (10 MB, LFS for files of binary kind),
https://huggingface.co/docs/hub/spaces-config-reference (the card)
"""

import io
import subprocess
import sys

import yaml  # type: ignore[import-untyped]

MAXIMUM_BYTES = 10_000_000
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def git(*words: str, stdin: str | None = None) -> bytes:
    return subprocess.run(["git", *words], input=(stdin or "").encode(), capture_output=True, check=True).stdout


def wrong_files(new: str) -> list[str]:
    """What is refused of the files of all commits that were not here before."""
    objects = git("rev-list", "--objects", new, "--not", "--all").decode()
    names = dict(line.split(" ", 1) for line in objects.splitlines() if " " in line)
    contents = io.BytesIO(git("cat-file", "--batch", stdin="\n".join(names)))
    faults = []
    while head := contents.readline().decode():
        name, kind, size = head.split()
        content = contents.read(int(size) + 1)[:-1]
        if kind == "blob" and len(content) > MAXIMUM_BYTES:
            faults.append(f"{names[name]} is larger than 10 MB and not in LFS")
        elif kind == "blob" and not is_text(content):
            faults.append(f"{names[name]} is a binary file and not in LFS")
    return faults


def is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def wrong_card(new: str) -> list[str]:
    text = git("show", f"{new}:README.md").decode()
    if not text.startswith("---\n"):
        return ["README.md has no card"]
    card = yaml.safe_load(text.split("---\n")[1])
    faults = [f"README.md lacks {name}" for name in ("title", "emoji", "sdk", "app_file") if not card.get(name)]
    faults += [f"README.md: {name} is no colour" for name in ("colorFrom", "colorTo") if card.get(name) not in COLOURS]
    if len(card.get("short_description") or "") > 60:
        faults.append("README.md: short_description is longer than 60 characters")
    return faults


def main() -> int:
    faults = []
    for line in sys.stdin:
        _old, new, _ref = line.split()
        faults += [*wrong_files(new), *wrong_card(new)]
    for fault in faults:
        print(f"Your push was rejected: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
