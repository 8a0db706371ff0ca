"""Finds the family of a model: the first row of the table whose class, name pattern and distillation fit."""

import re
from collections.abc import Mapping
from typing import Any

from inference_server.engines.diffusers.family import Family
from inference_server.engines.diffusers.family_rows import FAMILIES

_UNDISTILLED = re.compile(r"(?:^|[-_. ])(?:raw|base)(?:$|[-_. ])", re.IGNORECASE)


def find(index: Mapping[str, Any], name: str) -> Family | None:
    """The family of a model by its model_index.json and its name (an id of the hub, a folder, a file); None: unknown.

    A copy of a model on this disk may be called anything: where it came from counts too (`_name_or_path`).
    """
    names = " ".join(_last(str(one)) for one in (name, index.get("_name_or_path") or ""))
    distilled = _is_distilled(index.get("is_distilled"), names)
    for family in FAMILIES:
        fits = index.get("_class_name") in family.pipelines
        fits = fits and (family.pattern is None or bool(re.search(family.pattern, names, re.IGNORECASE)))
        if fits and family.distilled in (None, distilled):
            return family
    return None


def _is_distilled(told: Any, names: str) -> bool:
    """What the index says; the name, where it says nothing."""
    return told if isinstance(told, bool) else not _UNDISTILLED.search(names)


def _last(name: str) -> str:
    """`owner/name` and a path without what stands in front of the model's own name."""
    return name.rstrip("/").rpartition("/")[2]
