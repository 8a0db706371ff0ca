"""Makes sure that the browser of the page's tests is there: Debian's `chromium`, installed with apt-get if missing."""

import os
import shutil
import subprocess
import sys

_PACKAGES = ["chromium", "fonts-liberation", "fonts-noto-color-emoji"]
_DEADLINE_S = 15 * 60


def main() -> None:
    if shutil.which("chromium"):
        return
    command = f"apt-get update && apt-get install -y {' '.join(_PACKAGES)}"
    prefix = _root_prefix()
    if shutil.which("apt-get") is None or prefix is None:
        sys.exit(f"The page's tests need Chromium as `chromium` on the PATH; on Debian, as root: {command}")
    print("Installing Chromium for the page's tests (about 100 MB), about a minute ...", flush=True)
    apt_get = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    for step in (["update"], ["install", "-y", "--no-install-recommends", *_PACKAGES]):
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
