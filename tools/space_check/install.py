"""What a Space's builder installs, resolved by pip as the builder does it, and pip's refusal told in one sentence."""

import contextlib
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

_PIP_DEADLINE_S = 600
# What pip says of an index that does not answer; it then goes on as if the index were empty.
_NO_ANSWER = re.compile(
    r"connection broken|Could not fetch URL|HTTP error|Max retries exceeded|(Connection|Timeout)Error"
)
_CAUSE = re.compile(r"^ +(?:The user requested (?:\(constraint\) )?|(?P<who>\S.*?) depends on )(?P<wish>.+)$", re.M)


class CannotTellError(Exception):
    """Whether a Space builds could not be found out; says why."""


class Demand(NamedTuple):
    """One side of a conflict: who wants which versions of a package. `who` is empty for our line to pip itself."""

    who: str
    requirement: Requirement


def pinned_requirements(root: Path) -> dict[str, Requirement]:
    """Returns the requirements of requirements.txt by package name, without the lines that are none."""
    pins = {}
    for line in (root / "requirements.txt").read_text().splitlines():
        with contextlib.suppress(InvalidRequirement):
            pin = Requirement(line.partition("#")[0].strip())
            pins[str(canonicalize_name(pin.name))] = pin
    return pins


def builder_requirements(sdk_version: str) -> list[str]:
    """Returns what the builder of a Gradio Space hands to its one call of `pip install`.

    Source: the build log of a Gradio Space.
    """
    ours = ["-r", "requirements.txt"]
    return [*ours, f"gradio[oauth,mcp]=={sdk_version}", "uvicorn>=0.14.0", "websockets>=10.4", "spaces"]


def install_faults(root: Path, sdk_version: str, python_version: str) -> list[str]:
    """Returns why a Space's builder would fail to install, or nothing. It downloads some 150 MB and installs nothing.

    Raises: CannotTellError when the package index does not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
        options = ["--dry-run", "--ignore-installed", "--progress-bar", "off", "--retries", "2"]
        if python_version.split(".")[:2] != [str(part) for part in sys.version_info[:2]]:
            options += ["--python-version", python_version, "--only-binary=:all:", "--target", folder]
        command = [*pip, *options, *builder_requirements(sdk_version)]
        try:
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=_PIP_DEADLINE_S)
        except subprocess.TimeoutExpired as error:
            raise CannotTellError(f"pip was not done after {_PIP_DEADLINE_S} s: is the network slow?") from error
    return [explain(done.stdout + done.stderr, pinned_requirements(root), python_version)] if done.returncode else []


def explain(output: str, ours: dict[str, Requirement], python_version: str) -> str:
    """Returns pip's refusal as one sentence, with pip's own words on the lines behind it.

    Raises: CannotTellError when the package index did not answer.
    """
    if "ResolutionImpossible" in output:
        sentence = _conflict(_demands(output), ours)
    elif trouble := _NO_ANSWER.search(output):
        line = next(line for line in output.splitlines() if trouble.group() in line)
        raise CannotTellError(f"the package index did not answer, the pins may be right: try again later. pip: {line}")
    elif missing := re.search(r"satisfies the requirement (\S+)", output):
        sentence = (
            f"requirements.txt: a Space's builder needs {missing[1]}, and there is no such version for Python "
            f"{python_version}: write one that exists"
        )
    else:
        sentence = "requirements.txt: a Space's builder could not install it: mend what pip says"
    return "\n    pip: ".join([sentence, *_own_words(output)])


def _own_words(output: str) -> list[str]:
    kept = re.compile(r"ERROR|error:|The conflict is caused by|^ +(The user requested|.* depends on )")
    return [line.rstrip() for line in output.splitlines() if kept.search(line)] or output.splitlines()[-5:]


def _demands(output: str) -> list[Demand]:
    """Reads the lines behind "The conflict is caused by:". Of several versions of a package only the first counts."""
    found: dict[tuple[str, str], Demand] = {}
    for cause in _CAUSE.finditer(output):
        try:
            wish = Requirement(cause["wish"].partition(";")[0].replace(" and ", ","))
        except InvalidRequirement:
            continue
        who = cause["who"] or ""
        found.setdefault((who.partition(" ")[0], str(wish)), Demand(who, wish))
    return list(found.values())


def _conflict(demands: Iterable[Demand], ours: dict[str, Requirement]) -> str:
    by_package: dict[str, list[Demand]] = defaultdict(list)
    for demand in demands:
        by_package[str(canonicalize_name(demand.requirement.name))].append(demand)
    for package, wishes in by_package.items():
        for pin in wishes:
            if refusing := [wish for wish in wishes if _excludes(wish.requirement, pin.requirement)]:
                return _sentence(package, [pin, *refusing], ours)
    package, wishes = max(by_package.items(), key=lambda item: len(item[1]), default=("a package", []))
    return _sentence(package, wishes, ours)


def _excludes(wish: Requirement, pin: Requirement) -> bool:
    """Whether the one version that `pin` allows is not among those that `wish` does."""
    versions = [specifier.version for specifier in pin.specifier if specifier.operator == "=="]
    return any(not wish.specifier.contains(version, prereleases=True) for version in versions)


def _sentence(package: str, sides: list[Demand], ours: dict[str, Requirement]) -> str:
    told = []
    for who, requirement in sides:
        if who:
            told.append(f"{who} wants {requirement}")
        elif ours.get(package) == requirement:
            told.insert(0, f"it pins {requirement}")
        else:
            told.append(f"the builder itself asks for {requirement}")
    remedy = f"pin a version of {package} that suits all" if package in ours else "change the pin of one of them"
    return f"requirements.txt: {', but '.join(told)}, and a Space's builder installs all at once: {remedy}"
