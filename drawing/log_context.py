"""In every log line of a job the first letters of its id, which the inference server logs, too.

`job_context(id)` around the work; `configure_logging()` once, in the program's entry point.
"""

import contextlib
import contextvars
import logging
from collections.abc import Iterator

_job_id: contextvars.ContextVar[str] = contextvars.ContextVar("job_id", default="-")


@contextlib.contextmanager
def job_context(job_id: str) -> Iterator[None]:
    """Every log line written inside carries `job_id`."""
    token = _job_id.set(job_id)
    try:
        yield
    finally:
        _job_id.reset(token)


class _JobIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.job = _job_id.get()
        return True


def configure_logging(level: int = logging.INFO) -> None:
    """Logs to stderr, each line with its job id (`-` outside of any job)."""
    handler = logging.StreamHandler()
    handler.addFilter(_JobIdFilter())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(job)s] %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "urllib3", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
