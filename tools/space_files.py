"""Which files of this repository a Space runs, and nothing else: no tests, tools, benchmarks or training.

The page's side, and what it takes to draw on the Space's own CPU: `fair_server`, `inference_server` with the engine for
CPUs, `demo_model`.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PATTERNS = (
    "app.py",
    "text_to_image.py",
    "fair_services.py",
    "endpoint_client.py",
    "settings.py",
    "errors.py",
    "page/*.py",
    "page/*.css",
    "page/*.json",
    "page/*.svg",
    "page/script/*.js",
    "page/words/*.json",
    "drawing/*.py",
    "backends/*.py",
    "endpoint/*.py",
    "fair_api/*.py",
    "network/*.py",
    "fair_server/*.py",
    "inference_server/*.py",
    "inference_server/VERSION",
    "inference_server/engines/*.py",
    "demo_model/*.py",
    "demo_model/defaults.json",
    "demo_model/weights/*",
    "demo_model/NOTICE",
    "requirements.txt",
    "README.md",
    "LICENSE",
    "NOTICE",
)


def space_files(root: Path = ROOT) -> dict[str, Path]:
    """The files by their path in the Space."""
    found = (file for pattern in PATTERNS for file in sorted(root.glob(pattern)) if file.is_file())
    return {file.relative_to(root).as_posix(): file for file in found}
