"""Starts the product: `python app.py` reads the settings, serves the page, and ends what it started.

The page itself is in `page/`: `page/layout.py` is the screen, `page/handlers.py` what happens on it.
"""

import logging
import os
import signal
import sys
import tempfile
import threading

import page.no_type_stubs  # noqa: F401 (before anything that imports Gradio)
from drawing.log_context import configure_logging
from errors import SettingsError
from page.about import description
from page.head import Head
from page.layout import create_page
from page.serve import launch
from settings import HouseSettings, Settings
from text_to_image import TextToImage, default_service

log = logging.getLogger(__name__)

_CLOSE_S = 10.0


def main() -> int:
    """Serves the page until SIGTERM or SIGINT; returns the exit code: 0, 1 for a taken port, 2 for a wrong setting."""
    configure_logging()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        service, house = default_service(), Settings.load()
    except SettingsError as error:
        print(f"A setting is missing or wrong. {error}", file=sys.stderr)
        return 2
    # Pictures are gone with the process: in a folder of its own, which nobody else on this machine can read.
    with tempfile.TemporaryDirectory(prefix="text-to-image-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)
        try:
            print(f"The page is at {_serve(service, house)}", flush=True)
            while not stop.wait(0.5):  # a signal that reaches another thread does not wake this one: it has to look
                pass
        except OSError as error:
            print(f"The page could not be served, does another program listen there? {error}", file=sys.stderr)
            return 1
        finally:
            _close(service)
    return 0


def _serve(service: TextToImage, house: HouseSettings) -> str:
    head = Head(description=description(house))
    return launch(create_page(service, house), routes=service.routes(), head=head)


def _close(service: TextToImage) -> None:
    """Ends what this process started, within `_CLOSE_S`: what is left then ends because this process does."""
    closing = threading.Thread(target=service.close, name="closing", daemon=True)
    closing.start()
    closing.join(_CLOSE_S)
    if closing.is_alive():
        log.warning("the services had not ended after %g s; they end with this process", _CLOSE_S)


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # visitors may still be connected, and Gradio would wait seconds for them to leave
