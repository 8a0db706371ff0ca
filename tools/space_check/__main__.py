"""Finds what a Hugging Face Space would refuse before it is pushed there: the pins, the files and the card.

It warns of words, in what `deploy` uploads and in the log of a start, for which Spaces have been paused.

`python -m tools.space_check [FOLDER]`. One line for each fault. Exit status: 0 a Space builds, 1 it does not, 2 that
could not be found out, because the package index did not answer for example.
"""

import sys
import time
from pathlib import Path

from tools.space_check.card import disagreements, read_card, unknown_fields
from tools.space_check.files import refused_files, tracked_files
from tools.space_check.install import CannotTellError, install_faults
from tools.space_check.words import words_in_a_start, words_in_files
from tools.space_files import space_files


def main(root: Path) -> int:
    started = time.monotonic()
    faults, warnings, not_checked = [], [], ""
    try:
        tracked = tracked_files(root)
        faults += refused_files(root, tracked)
        card, card_faults = read_card(root)
        faults += card_faults
        if card is None:
            not_checked = "what the builder installs, since the card does not say enough for that"
        else:
            warnings += unknown_fields(card)
            faults += disagreements(card, root, tracked)
            print("Resolving what a Space's builder installs; this may take a minute ...", flush=True)
            faults += install_faults(root, card.sdk_version, card.python_version)
        if (root / "app.py").is_file():
            print("Starting it as a Space does, without secrets and with one ...", flush=True)
            uploaded = space_files(root)
            warnings += words_in_files(uploaded) + words_in_a_start(uploaded)
    except CannotTellError as error:
        not_checked = str(error)
    for line in [*(f"warning: {warning}" for warning in warnings), *faults]:
        print(line)
    if not_checked:
        print(f"Not checked: {not_checked}")
    if faults:
        print(f"A Space would refuse this, for {len(faults)} reason{'s' if len(faults) > 1 else ''}, see above.")
        return 1
    if not_checked:
        return 2
    print(f"A Space builds: card, {len(tracked)} files and pins are right ({time.monotonic() - started:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
