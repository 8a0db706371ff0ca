"""Makes sure that what the tests need of Debian is there; with apt-get it installs what is missing.

The browser of the page's tests, and for the network of a worker at home: its router, its line and a TLS edge.
"""

import os
import shutil
import subprocess
import sys

_PACKAGES = {  # program on the PATH -> packages
    "chromium": ["chromium", "fonts-liberation", "fonts-noto-color-emoji"],
    "haproxy": ["haproxy"],
    "nft": ["nftables"],
    "ip": ["iproute2"],
}
_FOLDERS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])  # where a user's shell looks not
_DEADLINE_S = 15 * 60


def main() -> None:
    missing = [program for program in _PACKAGES if not shutil.which(program, path=_FOLDERS)]
    if not missing:
        return
    packages = [package for program in missing for package in _PACKAGES[program]]
    command = f"apt-get update && apt-get install -y {' '.join(packages)}"
    prefix = _root_prefix()
    if shutil.which("apt-get") is None or prefix is None:
        sys.exit(f"The tests need {', '.join(missing)} on the PATH; on Debian, as root: {command}")
    print(f"Installing {', '.join(missing)} for the tests, about a minute ...", flush=True)
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


if __name__ == "__main__":
    main()
