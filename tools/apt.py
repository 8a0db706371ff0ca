"""Installs Debian's packages with apt-get for a tool that is missing, or says in one line what to type."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

_DEADLINE_S = 15 * 60


def install(packages: Sequence[str], *, what: str, instead: str) -> None:
    """Installs the packages. `what`: what they are for and how long it takes; `instead`: what is needed without apt.

    Ends the program with a message where that cannot be.
    """
    command = f"apt-get update && apt-get install -y {' '.join(packages)}"
    prefix = _root_prefix()
    if shutil.which("apt-get") is None or prefix is None:
        sys.exit(f"{instead}; on Debian, as root: {command}")
    print(f"Installing {what} ...", flush=True)
    apt_get = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    for step in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        if failure := _failure([*apt_get, *step]):
            sys.exit(f"{failure}\n`apt-get {step[0]}` failed, see above; mend that, or run as root: {command}")


def _failure(command: list[str]) -> str:
    """Runs a command quietly; returns what it printed if it failed, else nothing."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_DEADLINE_S,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {_DEADLINE_S // 60} minutes"
    return done.stdout or f"code {done.returncode}" if done.returncode else ""


def _root_prefix() -> list[str] | None:
    """Returns what to put before a command so that it runs as root; None where that cannot be without a password."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and not _failure(["sudo", "-n", "true"]):
        return ["sudo", "-n"]
    return None
