"""Imported before Gradio, lets it start in half the time: it would compare type stubs of all its components each time.

While it is imported, Gradio (6.31) renders an editor's stub (`.pyi`) for each class of its components, parses the file
that lies beside its source, and writes it if they differ: 3.5 of 7 s of CPU time, for files that no program reads. It
has no setting for this. Where its modules have changed, or were imported before, nothing happens.
Source: gradio/component_meta.py, create_or_modify_pyi
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

MODULE, WRITER = "gradio.component_meta", "create_or_modify_pyi"


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if hasattr(module, WRITER):
            setattr(module, WRITER, lambda *_: None)


class _Finder(MetaPathFinder):
    """Finds the one module, where Python's own finder would."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder())
