"""docs/swarm.md, followed on machines of a test: its commands, and those that they print, as they are.

What these machines lack or have elsewhere is put in place: /etc/fair, the engines' sockets, cp for scp. Images, which
cannot be built where nothing can be pulled, are imported under the names that the builds give them.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from dotenv import dotenv_values

from tests.support.docker_engines import Engine
from tests.support.machine_images import (
    INFERENCE_IMAGE,
    import_fair_image,
    import_inference_image,
    import_tunnel_image,
    make_image_without_its_user,
)
from tests.support.machine_networks import REFUSING, SILENT, VM
from tests.support.processes import REPOSITORY, is_setting, wait_until

BOX = "gpu-box"
_MORE_IMAGES = f"""\
"not/there:1" = []
"without/its-user:1" = []
"{REFUSING}/{INFERENCE_IMAGE}" = []
"{SILENT}/{INFERENCE_IMAGE}" = {{ volumes = ["/data"] }}
"""
_MACHINES = {"On the VM": "vm", "Here": "here", "On the GPU's machine": "box"}
_DEADLINE_S = 120


def documented_commands(*documents: str) -> list[str]:
    """The command lines of these documents, in blocks and in sentences, without comments."""
    found = []
    for document in documents:
        text = (REPOSITORY / document).read_text()
        lines = [line.strip() for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        spans = re.findall(r"(?<!`)`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        found += [text for text in (*lines, *spans) if text.startswith(("docker ", "python "))]
    return list(dict.fromkeys(found))


def documented(beginning: str, document: str = "docs/swarm.md") -> str:
    """The one command of the document that begins so."""
    found = [line for line in documented_commands(document) if line.startswith(beginning)]
    assert len(found) == 1, f"{document} has {found or 'nothing'} that begins with {beginning!r}"
    return found[0]


def box_daemon_json() -> str:
    """The `/etc/docker/daemon.json` that docs/swarm.md prints."""
    text = (REPOSITORY / "docs/swarm.md").read_text()
    block = next(block for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) if "default-runtime" in block)
    return str(block)


class SwarmGuide:
    """The guide on a VM and a GPU box. `settings`: what it leaves in `.env`; `etc`: the VM's /etc/fair."""

    vm_address = VM

    def __init__(self, folder: Path, vm: Engine, box: Engine, rathole: Path) -> None:
        self._checkout, self.etc = folder / "checkout", folder / "etc-of-the-vm"
        self._engines = {"vm": vm, "box": box}
        self._rathole = rathole
        self._run_fair: list[str] = []
        self._join = ""

    @property
    def settings(self) -> dict[str, str]:
        return {name: value or "" for name, value in dotenv_values(self._checkout / ".env").items()}

    def follow(self) -> None:
        """Does what it says, up to the Space."""
        self._checkout.mkdir()
        (self._checkout / "manage.py").symlink_to(REPOSITORY / "manage.py")
        printed = self.here(shlex.split(documented("python manage.py fair init")))
        for machine, words in _printed_commands(printed):
            if machine == "here":
                self._do_here(words)
            else:
                self._do(self._engines[machine], words)

    def here(self, words: list[str], stdin: str = "") -> str:
        """Runs a command where the checkout is; returns what it prints."""
        words = [sys.executable if word == "python" else word for word in words]
        environment = {name: value for name, value in os.environ.items() if not is_setting(name)}
        done = subprocess.run(
            words,
            cwd=self._checkout,
            env={**environment, "COLUMNS": "500", "PYTHONPATH": str(REPOSITORY)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def run_fair(self, *options: str) -> None:
        """The guide's `docker run`; `options` are fair_server's."""
        self._engines["vm"].docker(*self._run_fair, *options)

    def placed(self, text: str) -> str:
        """With the places of the test's machines."""
        places = {"/var/run/docker.sock": self._engines["vm"].socket, "/etc/fair": self.etc}
        for place, here in places.items():
            text = re.sub(f"{place}(?=:/)", str(here), text)
        return text

    def _do_here(self, words: list[str]) -> None:
        if words[0] == "scp":
            assert words[1] == "-rp"
            assert words[3].endswith(":/etc/fair")
            shutil.copytree(self._checkout / words[2], self.etc)
            nodes = self.etc / "nodes.toml"
            text = nodes.read_text().replace("[] }", f'[], "{INFERENCE_IMAGE}" = [] }}', 1)
            nodes.write_text(text + _MORE_IMAGES)

    def _do(self, engine: Engine, words: list[str]) -> None:
        if words[:2] == ["docker", "build"]:
            self._import(engine, words[3])
        elif words[:3] == ["docker", "swarm", "join"]:
            engine.docker(*shlex.split(self._join)[1:])
            vm = self._engines["vm"]
            listing = shlex.split(documented("docker node ls"))[1:]
            wait_until("both machines to be listed", lambda: BOX in vm.docker(*listing), 60)
        else:
            if words[:2] == ["docker", "run"]:
                self._run_fair = [self.placed(word) for word in words[1:]]
            printed = engine.docker(*[self.placed(word) for word in words[1:]])
            if join := re.search(r"^ *(docker swarm join --token .*)$", printed, re.MULTILINE):
                self._join = join[1]

    def _import(self, engine: Engine, name: str) -> None:
        import_tunnel_image(engine, self._rathole)
        if name == INFERENCE_IMAGE:
            import_inference_image(engine)
            engine.docker("tag", INFERENCE_IMAGE, f"{SILENT}/{INFERENCE_IMAGE}")
            make_image_without_its_user(engine)
        else:
            import_fair_image(engine)


def _printed_commands(printed: str) -> list[tuple[str, list[str]]]:
    """Which machine, and the words of a command, as `fair init` prints them below titles."""
    found, machine = [], ""
    for line in printed.splitlines():
        if title := re.match(r"\d\. (On the VM|Here|On the GPU's machine)", line):
            machine = _MACHINES[title[1]]
        elif machine and line.startswith("  "):
            words = shlex.split(line, comments=True)
            found.append((machine, words[: words.index(">")] if ">" in words else words))
    assert {one for one, _ in found} == set(_MACHINES.values()), printed
    return found
