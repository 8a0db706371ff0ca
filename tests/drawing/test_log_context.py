"""One job id in every log line that is written for a job."""

import logging
import threading

import pytest

from drawing.log_context import configure_logging, job_context


def test_each_line_has_its_job(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines inside of a job carry its id, those of other threads and of nobody do not."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        configure_logging()
        log = logging.getLogger("log-of-this-test")
        log.info("before")
        with job_context("job-1"):
            log.info("inside")
            other = threading.Thread(target=log.info, args=("elsewhere",))
            other.start()
            other.join()
            with job_context("job-2"):
                log.info("nested")
            log.info("again")
        log.info("after")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    printed = [line.partition(f"{log.name} ") for line in capsys.readouterr().err.splitlines()]
    lines = [told for _, ours, told in printed if ours]  # a thread that another test has left may log, too
    assert lines == ["[-] before", "[job-1] inside", "[-] elsewhere", "[job-2] nested", "[job-1] again", "[-] after"]
