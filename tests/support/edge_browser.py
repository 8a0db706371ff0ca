"""A visitor from outside draws from an image in a browser: `python -m tests.support.edge_browser URL IMAGE PROMPT`.

Prints a line `PICTURE` with a JSON object: the picture's `width` and `height`.
"""

import io
import json
import shutil
import sys
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from tests.support.visits import wait_until_ready

_LIMIT_MS = 60_000


def main() -> None:
    url, image, prompt = sys.argv[1:]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium-headless-shell"), args=["--no-sandbox"]
        )
        context = chromium.new_context(ignore_https_errors=True)
        page = context.new_page()
        page.set_default_timeout(_LIMIT_MS)
        page.goto(url)
        wait_until_ready(page)
        page.click("#more > button")
        page.click("#start > button")
        page.set_input_files("#start-image input[type=file]", image)
        expect(page.locator("#start-image img")).to_be_visible(timeout=_LIMIT_MS)
        page.fill("#prompt textarea", prompt)
        page.press("#prompt textarea", "Enter")
        expect(page.locator("#status")).to_contain_text("Done in", timeout=_LIMIT_MS)
        shown = page.locator("#result img").get_attribute("src") or ""
        picture = Image.open(io.BytesIO(context.request.get(f"{url}{urlsplit(shown).path}").body()))
        chromium.close()
    print(f"PICTURE {json.dumps({'width': picture.width, 'height': picture.height})}", flush=True)


if __name__ == "__main__":
    main()
