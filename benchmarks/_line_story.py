"""The story of one request, from the logs of a line's programs: to find out why it was lost, or drawn twice."""

import datetime
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_TIMED = re.compile(r"(?:\d{4}-\d\d-\d\d )?(\d\d:\d\d:\d\d)[.,](\d{3})\d* (.*)")


def story(folder: Path, jobs: Mapping[str, str], drawn: Sequence[tuple[float, str]]) -> list[str]:
    """What the logs in `folder` say of these jobs, and all that befell the line, in order of time.

    `jobs`: their ids by prompt; `drawn`: when the engine finished which prompt, on the monotonic clock.
    """
    told = [f"{_clock_time(at_s)} engine: {prompt} is drawn" for at_s, prompt in drawn]
    ours = [f"request {prompt}:" for prompt in jobs]
    for program in ("troubles", "space", "worker"):
        for line in (folder / f"{program}.log").read_text(errors="replace").splitlines():
            timed = _TIMED.match(line)
            if timed is None:
                continue
            if program == "troubles":
                wanted = "request " not in line or any(word in line for word in ours)
            else:
                wanted = any(job[:8] in line for job in jobs.values()) or ".connect" in line or ".workers" in line
            if wanted:
                told.append(f"{timed[1]}.{timed[2]} {program}: {timed[3]}")
    return sorted(told)


def _clock_time(at_s: float) -> str:
    at = datetime.datetime.now() - datetime.timedelta(seconds=time.monotonic() - at_s)
    return f"{at:%H:%M:%S.%f}"[:-3]
