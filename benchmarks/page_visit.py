"""A first visit to the page by phone: how soon it can be used, what it weighs, and what moves while a picture is drawn.

Chromium with an empty cache, a line of 1.6 Mbit/s with 150 ms, and a CPU that is slowed down four times. Goals: usable
in at most 3.0 s, at most 400 kB, no layout shift. Other work on this machine makes the first figure worse: the table
tells the load, and the time on the CPU of the page's own thread, unslowed, which other work changes little.
"""

import os
import shutil
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, sync_playwright

import page.no_type_stubs  # noqa: F401 (before anything that imports Gradio)
from network.addresses import free_ports
from page.layout import create_page
from page.serve import launch
from settings import HouseSettings
from text_to_image import default_service

VISITS = 3
LANGUAGES = ("en-US", "de-DE")
SLOWED = 4
LINE = {"offline": False, "latency": 150, "downloadThroughput": 1.6e6 / 8, "uploadThroughput": 0.75e6 / 8}  # ms, B/s
GOAL_S, GOAL_KB = 3.0, 400
_PATIENCE_MS = 120_000
# Usable: the prompt can be typed and Draw pressed. Shifts count whatever a visitor has touched just before.
_WATCH = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const { value, startTime, sources } of list.getEntries()) {
    const of = sources.map(({ node }) => node?.id || node?.className || node?.nodeName);
    window.shifts.push({ value, startTime, of });
  }
}).observe({ type: "layout-shift", buffered: true });
const look = () => {
  const isUsable = document.querySelector("#prompt textarea") && document.querySelector("#draw:not(:disabled)");
  if (isUsable) window.usableAt = performance.now();
  else requestAnimationFrame(look);
};
look();
"""


@dataclass
class Visit:
    """Times in seconds; `shift`: layout shifts while drawing, added up; `cpu_s`: of the page's main thread."""

    usable_s: float = 0.0
    cpu_s: float = 0.0
    kilobytes: float = 0.0
    requests: int = 0
    shift: float = 0.0
    shifted: list[Any] = field(default_factory=list)


def main() -> None:
    """Prints the table."""
    service = default_service()
    (port,) = free_ports(1)
    try:
        served = create_page(service, HouseSettings())
        address = launch(served, port=port)
        service.submit("a red apple").result(300)
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium-headless-shell"), args=["--no-sandbox"]
            )
            for language in LANGUAGES:
                _print(language, [_visit(chromium, address, language) for _ in range(VISITS)])
            chromium.close()
        served.close(verbose=False)
    finally:
        service.close()


def _visit(browser: Browser, address: str, language: str) -> Visit:
    context = browser.new_context(viewport={"width": 390, "height": 844}, locale=language)
    tab = context.new_page()
    tab.set_default_timeout(_PATIENCE_MS)
    tab.add_init_script(_WATCH)
    visit, devtools = Visit(), context.new_cdp_session(tab)
    sizes: list[float] = []
    devtools.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    devtools.send("Network.enable")
    devtools.send("Network.emulateNetworkConditions", LINE)
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": SLOWED})
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    tab.goto(address, wait_until="commit")
    visit.usable_s = tab.wait_for_function("window.usableAt").json_value() / 1000
    told = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
    visit.cpu_s = told["TaskDuration"]
    tab.wait_for_selector("#more:not(.starting)")
    tab.wait_for_timeout(1000)  # the page's first news, and what Gradio fetches afterwards
    visit.kilobytes, visit.requests = sum(sizes) / 1000, len(sizes)
    devtools.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    begun = tab.evaluate("performance.now()")
    tab.fill("#prompt textarea", "a red apple")
    tab.click("#draw")
    tab.wait_for_selector("#strip li")
    tab.wait_for_timeout(500)  # what comes late may move as well
    visit.shifted = [one for one in tab.evaluate("window.shifts") if one["startTime"] >= begun]
    visit.shift = sum(one["value"] for one in visit.shifted)
    context.close()
    return visit


def _print(language: str, visits: list[Visit]) -> None:
    print(f"\nFirst visit, {language}, {VISITS} times (python -m benchmarks.page_visit), load {os.getloadavg()[0]:.1f}")
    print(f"{'usable s':>9} {'cpu s':>7} {'kB':>7} {'requests':>9} {'shift':>7}")
    for visit in visits:
        row = f"{visit.usable_s:9.2f} {visit.cpu_s:7.2f} {visit.kilobytes:7.1f} {visit.requests:9} {visit.shift:7.4f}"
        print(row, *(f"  {one['value']:.4f} {one['of']}" for one in visit.shifted), flush=True)
    best, heaviest = min(visit.usable_s for visit in visits), max(visit.kilobytes for visit in visits)
    most = max(visit.shift for visit in visits)
    print(
        f"usable {best:.2f} s at best (goal {GOAL_S:g}), {heaviest:.0f} kB at most (goal {GOAL_KB}), "
        f"shift {most:.4f} (goal 0)",
        flush=True,
    )


if __name__ == "__main__":
    main()
