"""Words for which the platform has paused Spaces: programs that tunnel, in what is uploaded and in what a start says.

Source: https://github.com/router-for-me/CLIProxyAPI/pull/4828 ("proxy" in a log),
https://github.com/huggingface/autotrain-advanced/issues/958
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tools.space_check.install import CannotTellError

# README.md tells people of the tutorial's road; that module writes the configuration of its tunnel.
MAY_NAME_PROGRAMS = frozenset({"README.md", "network/tunnel.py"})
PROGRAMS = (
    *("rathole", "cloudflared", "ngrok", "frpc", "frps", "localtunnel", "tailscaled?", "zerotier", "zrok", "bore-cli"),
    *("chisel", "gost", "v2ray", "xray", "sing-box", "shadowsocks", "trycloudflare", "serveo"),
)
_PROGRAM = re.compile(rf"\b({'|'.join(PROGRAMS)})\b", re.IGNORECASE)
ANY = re.compile(rf"\b({'|'.join(PROGRAMS)})\b|tunnel|proxy|proxies", re.IGNORECASE)
_WEIGHTS = "demo_model/weights/"
_START_S = 120.0
_SPACE = {"SPACE_ID": "you/draw", "SPACE_HOST": "you-draw.hf.space", "GRADIO_SERVER_NAME": "127.0.0.1"}
_SECRET = "0123456789abcdefghijklmnopqrstuvwxyz-_ABCDEF"  # noqa: S105  # nobody's
STARTS: Mapping[str, Mapping[str, str]] = {"without secrets": {}, "with ENDPOINT_SECRET": {"ENDPOINT_SECRET": _SECRET}}


def words_in_files(files: Mapping[str, Path]) -> list[str]:
    """A warning for each file, by its path in the Space, whose name or content has such a word.

    In contents only programs count: settings have to be called what they are.
    """
    warnings = [f"{path}: its name has {found[0]!r} in it" for path in files if (found := ANY.search(path))]
    warnings = [warning for warning in warnings if warning.partition(":")[0] not in MAY_NAME_PROGRAMS]
    for path, file in files.items():
        if path in MAY_NAME_PROGRAMS or path.startswith(_WEIGHTS):
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            if found := _PROGRAM.search(line):
                warnings.append(f"{path}:{number}: names {found[0]!r}")
    return warnings


def words_in_a_start(files: Mapping[str, Path]) -> list[str]:
    """A warning for each line with such a word that the page prints when it starts from these files as a Space.

    Raises: CannotTellError when it does not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        for path, file in files.items():
            place = Path(folder) / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
        return [
            f"a start {how} prints {found[0]!r}: {line.strip()[:160]}"
            for how, settings in STARTS.items()
            for line in _start(Path(folder), settings).splitlines()
            if (found := ANY.search(line))
        ]


def _start(folder: Path, settings: Mapping[str, str]) -> str:
    """What `python app.py` prints on both streams until its page is there, and while it ends."""
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    output = folder / "output"
    with output.open("wb") as stream:
        program = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=folder,
            env={**inherited, **_SPACE, **settings, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
        try:
            deadline = time.monotonic() + _START_S
            while "The page is at" not in output.read_text(errors="replace"):
                if program.poll() is not None or time.monotonic() > deadline:
                    raise CannotTellError(f"the page did not start: {output.read_text(errors='replace')[-500:]}")
                time.sleep(0.1)
            program.send_signal(signal.SIGTERM)
            program.wait(30)
        finally:
            program.kill()
            program.wait()
    return output.read_text(errors="replace")
