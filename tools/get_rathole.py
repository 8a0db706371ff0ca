"""Makes sure that there is a rathole, the tunnel's program: one on the PATH, or one built once into `.rathole/bin`.

Where neither can be had, one line says so and the run goes on: the page then draws without the tunnel.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

_VERSION = "0.5.0"
_ROOT = Path(__file__).parent.parent / ".rathole"
_LOG = _ROOT / "build.log"
_DEADLINE_S = 20 * 60
_REPORT_EVERY_S = 15
# Without --locked: the version of the crate `time` in rathole's lock file does not compile with today's rustc.
# Features: plain tcp and Noise; TLS would need OpenSSL's headers.
_BUILD = [
    *("cargo", "install", "rathole", "--version", _VERSION, "--no-default-features"),
    *("--features", "server,client,noise", "--root", str(_ROOT)),
]
_HOW = f"put a rathole {_VERSION} on the PATH"


def main() -> None:
    if shutil.which("rathole") or (_ROOT / "bin" / "rathole").is_file():
        return
    if shutil.which("cargo") is None:
        print(f"No tunnel: there is no rathole, and no cargo to build it; {_HOW}, or install Rust and run this again.")
        return
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    print(f"Building rathole {_VERSION}, the tunnel, once; about two minutes on two cores ...", flush=True)
    if failure := _build():
        print(f"No tunnel: building rathole failed ({failure}); see {_LOG}, or {_HOW}.")


def _build() -> str:
    """Builds rathole, telling now and then how far it is; returns why that failed, or nothing."""
    _ROOT.mkdir(exist_ok=True)
    started = time.monotonic()
    with _LOG.open("wb") as log:
        cargo = subprocess.Popen(  # a session of its own, so that its compilers can be ended with it
            _BUILD, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while (elapsed_s := time.monotonic() - started) < _DEADLINE_S:
                try:
                    code = cargo.wait(_REPORT_EVERY_S)
                except subprocess.TimeoutExpired:
                    print(f"  {elapsed_s + _REPORT_EVERY_S:.0f} s, {_compiled()} crates", flush=True)
                    continue
                return f"cargo ended with code {code}: {_last_error()}" if code else ""
            return f"not done after {_DEADLINE_S // 60} minutes"
        finally:
            _end(cargo)


def _end(cargo: subprocess.Popen[bytes]) -> None:
    """Ends cargo and its compilers, if they still run."""
    if cargo.poll() is None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
        os.killpg(cargo.pid, signal.SIGKILL)
        cargo.wait(10)


def _compiled() -> int:
    return _LOG.read_text(errors="replace").count(" Compiling ")


def _last_error() -> str:
    """Returns the last line of the build's log that tells of an error, else its last line."""
    lines = [line.strip() for line in _LOG.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines or ["it printed nothing"])[-1][:300]


def _stop(signal_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    main()
