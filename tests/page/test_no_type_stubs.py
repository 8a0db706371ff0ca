"""Gradio's start is not spent on type stubs that no program reads."""

import ast
import importlib
from pathlib import Path

import pytest

from tests.support.processes import REPOSITORY

_COMPONENT = "import gradio as gr\n\n\nclass Mine(gr.Textbox):\n    pass\n"


def test_gradio_writes_no_stub_beside_a_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A component is defined, with all its events, and no `.pyi` of it is rendered."""
    source = tmp_path / "component_of_a_test.py"
    source.write_text(_COMPONENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert callable(importlib.import_module(source.stem).Mine.submit)
    assert not source.with_suffix(".pyi").exists()


def test_the_page_asks_for_it_before_all_else() -> None:
    """It must be imported before Gradio is: it comes first of this repository's modules in `app.py`."""
    nodes = ast.parse((REPOSITORY / "app.py").read_text()).body
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert names[-1] == "page.no_type_stubs"
    first = next(i for i, node in enumerate(nodes) if isinstance(node, ast.ImportFrom))
    assert all(not isinstance(node, ast.Import) for node in nodes[first:])
