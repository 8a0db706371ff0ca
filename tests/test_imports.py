"""Imports run one way: a package knows those below it, and the two servers could be repositories of their own."""

import ast
from collections.abc import Iterator
from itertools import chain

import pytest

from tests.support.processes import REPOSITORY

# The page's side from the bottom to the top. Those of one line do not know each other.
_LAYERS = [
    ["errors"],
    ["network"],
    ["settings", "drawing"],
    ["endpoint", "fair_api"],
    ["endpoint_client", "fair_services"],
    ["backends"],
    ["text_to_image"],
    ["page"],
    ["app"],
]
_BELOW = {name: set(chain(*_LAYERS[:number])) for number, layer in enumerate(_LAYERS) for name in layer}
_ALLOWED = {
    **_BELOW,
    "page": _BELOW["page"] | {"demo_model"},  # which words of a prompt it knows
    "maintenance": _BELOW["page"] | {"demo_model", "tools"},  # the doctor looks at all that a page draws with
    "manage": {"errors", "maintenance"},
    "tools": set[str](),
    "fair_server": set[str](),
    "inference_server": {"demo_model"},  # for a server without a model
    "demo_model": set[str](),
}


def _imports(name: str) -> Iterator[str]:
    """The first words of all modules that a module or the modules of a package import, wherever the import stands."""
    for file in [REPOSITORY / f"{name}.py", *(REPOSITORY / name).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())) if file.is_file() else ():
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (module.partition(".")[0] for module in modules)


@pytest.mark.parametrize("name", _ALLOWED)
def test_imports_run_one_way(name: str) -> None:
    """A package imports nothing of this repository but what lies below it."""
    ours = {path.stem for path in REPOSITORY.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    imported = set(_imports(name))
    assert imported, f"there is no {name}"
    assert imported & ours - {name} <= _ALLOWED[name]
