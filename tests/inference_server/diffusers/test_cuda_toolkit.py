"""What compiling for a GPU takes: found, linked, or named with what to install; what a compiler said, told briefly."""

import os
from pathlib import Path

import pytest

from inference_server.engines.diffusers import cuda_toolkit
from inference_server.engines.diffusers.compile_child import compiler_error
from inference_server.engines.package_cache import OLD_S, PackageCache

NOWHERE = Path("/nowhere")


def _put(root: Path, *headers: str) -> Path:
    for header in headers:
        (root / "include" / header).parent.mkdir(parents=True, exist_ok=True)
        (root / "include" / header).write_text("")
    return root


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """A machine with a C++ compiler and nothing else; its environment."""
    (tmp_path / "bin").mkdir()
    compiler = tmp_path / "bin" / "g++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    return {"PATH": str(compiler.parent)}


def test_what_pip_brought_is_found_and_linked(tmp_path: Path, machine: dict[str, str]) -> None:
    """The headers of its packages make a toolkit, and libraries get the names that a linker looks for."""
    packages, driver = tmp_path / "site-packages", tmp_path / "driver"
    home = _put(packages / "nvidia" / "cu13", *cuda_toolkit.HEADERS)
    for library in (home / "lib" / "libcudart.so.13", driver / "libcuda.so.1"):
        library.parent.mkdir(parents=True)
        library.write_text("")
    found = cuda_toolkit.find(tmp_path / "links", machine, NOWHERE, [str(packages)], [driver])
    assert found.environment == {"CUDA_HOME": str(home), "LIBRARY_PATH": str(tmp_path / "links")}
    assert (tmp_path / "links" / "libcuda.so").resolve() == driver / "libcuda.so.1"
    assert (tmp_path / "links" / "libcudart.so").resolve() == home / "lib" / "libcudart.so.13"
    assert [one for one in found.missing if "Python.h" not in one] == []


def test_an_empty_toolkit_is_none(tmp_path: Path, machine: dict[str, str]) -> None:
    """A folder /usr/local/cuda without headers does not hide what pip brought; a whole one needs no CUDA_HOME."""
    packages, empty = tmp_path / "site-packages", tmp_path / "empty"
    (empty / "include").mkdir(parents=True)
    home = _put(packages / "nvidia" / "cu13", *cuda_toolkit.HEADERS)
    found = cuda_toolkit.find(tmp_path / "links", machine, empty, [str(packages)], [])
    assert found.environment["CUDA_HOME"] == str(home)
    whole = _put(tmp_path / "whole", *cuda_toolkit.HEADERS)
    assert "CUDA_HOME" not in cuda_toolkit.find(tmp_path / "links", machine, whole, [str(packages)], []).environment


def test_what_is_missing_is_named_with_its_package(tmp_path: Path) -> None:
    """The headers of crt/ are a package of their own, a compiler is the system's."""
    packages = tmp_path / "site-packages"
    _put(packages / "nvidia" / "cu13", "cuda.h", "cuda_runtime.h")
    missing = cuda_toolkit.find(tmp_path / "links", {"PATH": str(tmp_path)}, NOWHERE, [str(packages)], []).missing
    assert "a C++ compiler (apt-get install g++)" in missing
    assert "CUDA's header crt/host_defines.h (pip install nvidia-cuda-crt)" in missing
    assert not [one for one in missing if "cuda_runtime.h" in one]


def test_the_compilers_error_is_told_and_not_its_command_line() -> None:
    """Of pages of flags and hints the lines that say what is wrong, each once."""
    said = (
        "C++ compile error\n\nCommand:\n/usr/bin/g++ -D TORCH_ERROR=error: -I /a -lcuda "
        + "-I /long/path " * 100
        + "\n\n"
        "Output:\nIn file included from x.h:1:\n/a/cuda_runtime.h:82:10: fatal error: crt/host_config.h: No such file "
        "or directory\n   82 | #include\ncompilation terminated.\n/usr/bin/ld: cannot find -lcuda: No such file\n"
        "/usr/bin/ld: cannot find -lcuda: No such file\nSet TORCHDYNAMO_VERBOSE=1 for the internal stack trace\n"
    )
    assert compiler_error(said) == (
        "/a/cuda_runtime.h:82:10: fatal error: crt/host_config.h: No such file or directory; "
        "/usr/bin/ld: cannot find -lcuda: No such file"
    )
    assert compiler_error("nothing of the kind") == ""


def test_a_failure_is_remembered_for_some_days(tmp_path: Path) -> None:
    """By the next process too: it does not spend minutes on the same error at each awakening."""
    PackageCache(tmp_path / "cache").note_failure("abc", "cannot find -lcuda")
    cache = PackageCache(tmp_path / "cache")
    assert cache.failure("abc") == "cannot find -lcuda"
    assert cache.failure("def") is None
    file = next((tmp_path / "cache").glob("*abc.failed"))
    os.utime(file, (0, file.stat().st_mtime - OLD_S - 10))
    assert cache.failure("abc") is None
    assert not file.exists()
