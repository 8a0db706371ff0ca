"""Imported before diffusers, lets the engine start sooner: what few models need is imported when it is asked for.

diffusers imports much that hardly a drawing touches, and has no setting for it:
- bitsandbytes, which is for MEMORY_PLAN=nf4 alone and brings most of PyTorch's compiler along;
- scipy.stats, which is for schedulers whose noise levels follow a beta distribution.
Source: diffusers 0.42, quantizers/bitsandbytes/utils.py and schedulers/
"""

import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

LATE = ("bitsandbytes", "scipy.stats")
_loading = threading.RLock()


class _LateModule(ModuleType):
    """A module that is loaded when it is asked for what it does not have yet.

    `importlib.util.LazyLoader` loads at whatever it is asked for: a second import statement is enough.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):  # Python's own questions, such as for __wrapped__
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} yet")
        with _loading:  # another thread that asks meanwhile waits for the whole module
            if self.__spec__ is not None and isinstance(self.__spec__.loader, _LateLoader):
                self.__spec__.loader.load(self, self.__spec__)
        return object.__getattribute__(self, name)


class _LateLoader(Loader):
    def __init__(self, own: Loader) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _LateModule

    def load(self, module: ModuleType, spec: ModuleSpec) -> None:
        """Loads it as if it had been found so: what it imports may ask for what it has so far."""
        spec.loader = module.__loader__ = self._own
        try:
            self._own.exec_module(module)
        except BaseException:
            spec.loader = module.__loader__ = self  # whoever asks again reads the reason again
            raise
        module.__class__ = ModuleType


class _Finder(MetaPathFinder):
    """Finds these modules where Python's own finder would."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in LATE else None
        if spec is not None and spec.loader is not None:
            spec.loader = _LateLoader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
