"""`make gpu-check`, as far as it can be tried without a GPU."""

import subprocess
import sys

import pytest
import torch

from benchmarks import gpu_check
from benchmarks._servers import ROOT

DEADLINE_S = 170.0

pytestmark = pytest.mark.slow


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.gpu_check", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_without_cuda_it_says_what_is_missing() -> None:
    """At once, with an exit status of its own, and with what to look at."""
    ended = _run()
    assert ended.returncode == gpu_check.NO_CUDA
    assert "needs an NVIDIA GPU" in ended.stderr
    assert "nvidia-smi" in ended.stderr


def test_two_parts_run_on_a_cpu() -> None:
    """With small models: a lack of memory is survived, and a picture is timed. `--device cpu --tiny` tries them all."""
    ended = _run("--device", "cpu", "--tiny", "--part", "memory", "--part", "klein")
    assert "FAILED" not in ended.stdout, ended.stdout
    assert ended.returncode in (0, gpu_check.MISSED), ended.stderr
    assert "a drawing afterwards is drawn" in ended.stdout
    assert "4 steps (goal" in ended.stdout
