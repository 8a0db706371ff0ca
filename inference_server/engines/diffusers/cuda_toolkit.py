"""Finds what compiling for a GPU takes beside PyTorch: CUDA's headers and libraries, Python's header, a C++ compiler.

pip brings CUDA in pieces, and not quite as a compiler wants it: headers of `crt/` come with a package of their own, and
libraries have names with versions, which `-lcuda` and `-lcudart` do not find.
Source: torch/utils/cpp_extension.py (CUDA_HOME), man 1 gcc (LIBRARY_PATH)
"""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

INSTALLED = Path("/usr/local/cuda")
HEADERS = ("cuda.h", "cuda_runtime.h", "crt/host_defines.h")
LINKED = ("libcuda", "libcudart")
LIBRARY_FOLDERS = tuple(
    Path(folder)
    for folder in (
        *("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"),
        *("/usr/lib/wsl/lib", "/usr/local/nvidia/lib64", "/usr/local/cuda/compat"),
    )
)


@dataclass(frozen=True)
class Toolkit:
    """What a compiling process gets, and what there is not."""

    environment: Mapping[str, str]
    missing: tuple[str, ...] = ()  # each with what to install


def find(
    links: Path,
    environment: Mapping[str, str] = os.environ,
    installed: Path = INSTALLED,
    packages: Iterable[str] = tuple(sys.path),
    libraries: Iterable[Path] = LIBRARY_FOLDERS,
) -> Toolkit:
    """`links`: a folder for links to libraries, where they have no names that a linker looks for. Makes it."""
    missing = _missing_for_any(environment)
    home = environment.get("CUDA_HOME")
    if home is None and not all((installed / "include" / header).is_file() for header in HEADERS):
        home = _from_pip(packages)
    if home is None:  # a whole one, in its usual place
        root = installed
    else:
        root = Path(home)
        lacking = [header for header in HEADERS if not (root / "include" / header).is_file()]
        missing += [f"CUDA's header {one} (pip install {_package(one)})" for one in lacking]
    set_ = {"LIBRARY_PATH": _library_path(links, root, libraries, environment)}
    return Toolkit(set_ if home is None else {**set_, "CUDA_HOME": home}, tuple(missing))


def _missing_for_any(environment: Mapping[str, str]) -> list[str]:
    missing = []
    if shutil.which(environment.get("CXX") or "g++", path=environment.get("PATH")) is None:
        missing.append("a C++ compiler (apt-get install g++)")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        missing.append("Python.h (apt-get install python3-dev)")
    return missing


def _from_pip(packages: Iterable[str]) -> str:
    """The folder that pip put CUDA's headers into; a name that says what is missing where it put none."""
    found = sorted(file for folder in packages for file in Path(folder).glob("nvidia/cu*/include/cuda.h"))
    return str(found[-1].parent.parent) if found else "nvidia"


def _package(header: str) -> str:
    return "nvidia-cuda-crt" if header.startswith("crt/") else "nvidia-cuda-runtime"


def _library_path(links: Path, root: Path, folders: Iterable[Path], environment: Mapping[str, str]) -> str:
    links.mkdir(parents=True, exist_ok=True)
    for name in LINKED:
        link = links / f"{name}.so"
        library = _library(name, (root / "lib64", root / "lib", *folders))
        if library is not None and not link.is_symlink():
            link.symlink_to(library)
    return os.pathsep.join(filter(None, (str(links), environment.get("LIBRARY_PATH"))))


def _library(name: str, folders: Iterable[Path]) -> Path | None:
    """The shortest name of its kind: libcuda.so before libcuda.so.1."""
    for folder in folders:
        if found := sorted(folder.glob(f"{name}.so*"), key=lambda file: len(file.name)):
            return found[0]
    return None
