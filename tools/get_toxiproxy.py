"""Makes sure that there is a toxiproxy-server, which spoils connections for `make faults`: one on the PATH, or one that
is built once into `.toxiproxy/bin`.

Source: https://github.com/Shopify/toxiproxy
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_PACKAGE = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
_ROOT = Path(__file__).resolve().parent.parent / ".toxiproxy"
_DEADLINE_S = 10 * 60


def find_toxiproxy() -> str | None:
    """Its path; None where there is none."""
    built = _ROOT / "bin" / "server"
    return shutil.which("toxiproxy-server") or (str(built) if built.is_file() else None)


def main() -> int:
    """Exit status 1 where it cannot be had."""
    if find_toxiproxy():
        return 0
    go = shutil.which("go") or "/usr/local/go/bin/go"
    if not Path(go).exists():
        print("There is no toxiproxy-server on the PATH, and no Go to build it: install one of them.", file=sys.stderr)
        return 1
    print("Building toxiproxy once, about a minute on two cores ...", flush=True)
    try:
        built = subprocess.run(
            [go, "install", _PACKAGE],
            env={**os.environ, "GOBIN": str(_ROOT / "bin"), "CGO_ENABLED": "0"},
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        print(f"toxiproxy was not built within {_DEADLINE_S} s: run `go install {_PACKAGE}` by hand.", file=sys.stderr)
        return 1
    if built.returncode:
        print(f"toxiproxy could not be built: {built.stderr[-500:].strip()}", file=sys.stderr)
    return int(built.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
