"""A process that draws as a Space does: a prompt a line on stdin, a line of JSON on stdout for each drawing."""

import json
import sys
import time

from backends.choose import choose_backend
from errors import SpaceError
from settings import Settings
from text_to_image import TextToImage

_DRAW_S = 400


def main() -> None:
    service = TextToImage(choose_backend(Settings.load(_env_file=None)))
    for line in sys.stdin:
        began = time.monotonic()
        try:
            drawing = service.submit(line.strip()).result(_DRAW_S)
            outcome: dict[str, object] = {"size": drawing.image.size}
        except SpaceError as error:
            outcome = {"error": str(error)}
        print(json.dumps({**outcome, "seconds": round(time.monotonic() - began, 2)}), flush=True)
    service.close()


if __name__ == "__main__":
    main()
