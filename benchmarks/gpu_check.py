"""Whether all that needs a GPU holds on this one, and how fast it is: `make gpu-check`, at most 8 minutes.

Each part is a process of its own with a deadline, so that one that hangs or loses the GPU leaves the others. The
weights are randomly initialised: nothing is fetched. The table is kept in `benchmarks/results/`. `--device cpu --tiny`
runs every part with small models.
Ends with 0 when all holds, 1 when a check failed, 2 without CUDA, 3 when only goals were missed.
"""

import argparse
import os
import signal
import subprocess
import sys
import time

from benchmarks import _servers
from benchmarks._machine import Machine, Table, look

DEADLINE_S = 480.0
ON_CPU = 5  # times as long has each part there, where a busy machine may need that much
# Seconds of each part, in the order of their worth.
PARTS = {"equal": 100.0, "memory": 40.0, "sticky": 60.0, "asleep": 50.0, "klein": 60.0, "table": 300.0}
# Threads that wait actively take a busy CPU from one another.
_ENVIRONMENT = {"cuda": {}, "cpu": {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}}
FAILED, NO_CUDA, MISSED = 1, 2, 3


def main() -> int:
    """Prints the tables; with a GPU keeps them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="models that a CPU draws in milliseconds")
    parser.add_argument("--part", action="append", choices=tuple(PARTS), help="only this one; may be repeated")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        from benchmarks import _gpu_parts

        _gpu_parts.PARTS[asked.part[0]](_gpu_parts.Setting(asked.device, asked.tiny))
        return 0
    if asked.device == "cpu" and not asked.tiny:
        parser.error("a CPU takes hours for models of this size; add --tiny")
    machine = look() if asked.device == "cuda" else Machine(None)
    if asked.device == "cuda" and machine.gpu is None:
        print(_no_cuda(), file=sys.stderr)
        return NO_CUDA
    table = Table("gpu_check", machine)
    table.line(f"python -m benchmarks.gpu_check{' --tiny' if asked.tiny else ''}; {machine.heading()}\n")
    slower = ON_CPU if asked.device == "cpu" else 1
    began_s = time.monotonic()
    until_s = began_s + slower * DEADLINE_S
    for part in asked.part or PARTS:
        _run(table, part, asked, min(slower * PARTS[part], until_s - time.monotonic()))
    code = FAILED if table.holds("FAILED") else MISSED if table.holds("MISSED") else 0
    told = {0: "all holds", FAILED: "a check failed", MISSED: "all holds but some goals were missed"}
    table.line(f"\n{told[code]}; {time.monotonic() - began_s:.0f} s")
    table.keep()
    return code


def _run(table: Table, part: str, asked: argparse.Namespace, deadline_s: float) -> None:
    """One part, in a group of processes that ends with it."""
    table.line(f"--- {part} (at most {deadline_s:.0f} s)")
    if deadline_s < 5:
        table.line(f"FAILED: no time was left for {part}")
        return
    command = [sys.executable, "-u", "-m", "benchmarks.gpu_check", "--inside", "--part", part, "--device", asked.device]
    process = subprocess.Popen(
        [*command, *(["--tiny"] if asked.tiny else [])],
        cwd=_servers.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | _ENVIRONMENT[asked.device],
    )
    began_s = time.monotonic()
    try:
        told, log = process.communicate(timeout=deadline_s)
        wrong = f"ended with {process.returncode}" if process.returncode else None
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        told, log = process.communicate()
        wrong = f"was not done within {deadline_s:.0f} s"
    for line in told.rstrip().splitlines():
        table.line(line)
    if wrong:
        table.line(f"FAILED: {part} {wrong}. Its last words:\n{log[-1500:]}")
    table.line(f"    {time.monotonic() - began_s:.0f} s")


def _no_cuda() -> str:
    import torch

    found = "PyTorch finds no CUDA device" if torch.version.cuda else "this PyTorch was built without CUDA"
    return (
        f"gpu-check needs an NVIDIA GPU, and {found} (torch {torch.__version__}, CUDA {torch.version.cuda}). Look at "
        "`nvidia-smi` and at the driver's version (inference_server/README.md); `python -m benchmarks.gpu_check "
        "--device cpu --tiny` tries the script itself."
    )


if __name__ == "__main__":
    sys.exit(main())
