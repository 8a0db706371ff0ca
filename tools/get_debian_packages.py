"""Makes sure that what the tests need of Debian is there; with apt-get it installs what is missing.

The browser of the page's tests, and for the network of a worker at home: its router, its line and a TLS edge.
"""

import os
import shutil

from tools.apt import install

_PACKAGES = {  # program on the PATH -> packages
    "chromium-headless-shell": ["chromium-headless-shell", "fonts-liberation", "fonts-noto-color-emoji"],
    "haproxy": ["haproxy"],
    "nft": ["nftables"],
    "ip": ["iproute2"],
}
_FOLDERS = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])  # where a user's shell looks not


def main() -> None:
    missing = [program for program in _PACKAGES if not shutil.which(program, path=_FOLDERS)]
    if missing:
        install(
            [package for program in missing for package in _PACKAGES[program]],
            what=f"{', '.join(missing)} for the tests, about a minute",
            instead=f"The tests need {', '.join(missing)} on the PATH",
        )


if __name__ == "__main__":
    main()
