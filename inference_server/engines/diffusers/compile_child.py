"""The compiling process: started by the engine process, it compiles one UNet package and ends.

It is a process of its own because compiling takes minutes of Python: in the engine process it would hold up every
step. It reads the order from stdin and writes the package to the file it is given; after a failure the last line on
stderr says why. Run as `python -m inference_server.engines.diffusers.compile_child PID FILE`, by `compile_in_child`
and never by hand.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from inference_server.engine_process import die_with
from inference_server.engines import short_reason
from inference_server.engines.diffusers import cuda_toolkit

if TYPE_CHECKING:
    from inference_server.engines.diffusers.unet_package import PackageOrder

MODULE = "inference_server.engines.diffusers.compile_child"
COMPILE_TIMEOUT_S = 1800
PACKAGE_PARENT = Path(__file__).resolve().parents[3]
TOLD_CHARS = 500
_ERROR = re.compile(
    r"\b(?:fatal )?error\b:|cannot find -l|undefined reference|No such file or directory|command not found"
)
_COMMAND = re.compile(r"\S*(?:g\+\+|gcc|clang\S*|nvcc|ptxas)\s+-")  # the line that was run
NICENESS = 10  # the engine process goes first


class CompileError(Exception):
    """No package was made; the text says why."""


class MissingToolsError(CompileError):
    """Something must be installed first."""


class NoRoomError(CompileError):
    """Memory was too short to compile; that may be otherwise later."""


def compile_in_child(order: "PackageOrder", file: Path, compiler_cache: Path) -> None:
    """Compiles a package to `file`; the compilers keep what others can use in `compiler_cache`.

    Raises: CompileError, NoRoomError, MissingToolsError.
    """
    toolkit = cuda_toolkit.Toolkit({})
    if order.device.startswith("cuda"):
        toolkit = cuda_toolkit.find(compiler_cache / "libraries")
    if toolkit.missing:
        raise MissingToolsError(f"compiling takes {', '.join(toolkit.missing)}")
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", MODULE, str(os.getpid()), str(file)],
            input=order.model_dump_json(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **_environment(compiler_cache), **toolkit.environment},
            timeout=COMPILE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CompileError(f"the compiler was not done after {COMPILE_TIMEOUT_S} s") from None
    if done.returncode != 0 or not file.is_file():
        lines = done.stderr.strip().splitlines()
        told = lines[-1][:500] if lines else "it said nothing"
        error = NoRoomError if "out of memory" in told else CompileError
        raise error(f"the compiler ended with {done.returncode}: {told}")


def _environment(compiler_cache: Path) -> dict[str, str]:
    python_path = os.pathsep.join(filter(None, (str(PACKAGE_PARENT), os.environ.get("PYTHONPATH"))))
    return {
        "PYTHONPATH": python_path,
        "TORCHINDUCTOR_CACHE_DIR": str(compiler_cache / "inductor"),
        "TRITON_CACHE_DIR": str(compiler_cache / "triton"),
    }


def compiler_error(text: str) -> str:
    """What went wrong, from what a compiler printed: its command line, which comes first, fills a page."""
    lines = [line.strip() for line in text.splitlines()]
    errors = [line for line in lines if _ERROR.search(line) and not _COMMAND.match(line)]
    return "; ".join(dict.fromkeys(errors))[:TOLD_CHARS]


def main() -> None:
    die_with(int(sys.argv[1]))
    os.nice(NICENESS)
    # Only now: importing it takes seconds of a core.
    from inference_server.engines.diffusers.unet_package import PackageOrder, compile_package

    order = PackageOrder.model_validate_json(sys.stdin.read())
    try:
        compile_package(order, sys.argv[2])
    except Exception as exc:
        sys.exit(compiler_error(str(exc)) or short_reason(exc))  # its own last line is a hint for its developers


if __name__ == "__main__":
    main()
