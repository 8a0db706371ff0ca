"""Makes sure that what `make test-machines` needs is there: root, Docker's engine, and tools for networks.

The tests start engines of their own in network namespaces; one that the machine runs already is left alone.
"""

import os
import shutil
import sys

from tools.apt import install

_TOOLS = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "ip": "iproute2",
    "iptables": "iptables",
    "sysctl": "procps",
    "tcpdump": "tcpdump",
    "docker-registry": "docker-registry",
    "mkfs.ext4": "e2fsprogs",
}


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("make test-machines makes network namespaces and starts Docker engines in them: run it as root.")
    missing = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None})
    if missing:
        install(
            missing,
            what="Docker's engine for make test-machines (about 300 MB on the disk), about a minute",
            instead=f"make test-machines needs {', '.join(_TOOLS)} on the PATH",
        )


if __name__ == "__main__":
    main()
