"""Finds a single file that a setting names: a file or folder of this machine, `owner/repo` or `owner/repo/file` of the
Hub, which is downloaded as models are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inference_server.engines import ModelLoadError

_TOLD = 8  # of a repository's files


@dataclass(frozen=True)
class NamedFile:
    """What a setting says. `suffixes`: of the files that may be meant; `usual`: taken where there are several."""

    setting: str  # LORAS, MODEL_FILE
    source: str
    suffixes: tuple[str, ...]
    usual: str | None = None

    def find(self, report: Callable[[str], None]) -> Path:
        """The file, downloaded if need be. Raises: ModelLoadError."""
        path = Path(self.source).expanduser()
        if path.is_file():
            return path
        if path.is_dir():
            return path / self._choose(sorted(one.name for one in path.iterdir() if one.is_file()))
        parts = self.source.split("/")
        if path.is_absolute() or parts[0] in (".", "..", "~") or len(parts) < 2 or not all(parts):
            raise ModelLoadError(
                f"{self.setting} names {self.source!r}, which is no file here, and neither owner/repo nor "
                "owner/repo/file of the hub"
            )
        return self._fetched("/".join(parts[:2]), "/".join(parts[2:]), report)

    def _fetched(self, repo_id: str, name: str, report: Callable[[str], None]) -> Path:
        report(f"asking the hub for {repo_id}")
        try:
            from inference_server.engines.hub_download import HubDownloader, file_names

            name = name or self._choose(file_names(repo_id))
            folder = HubDownloader(report).snapshot(repo_id, allow_patterns=[name])
        except ImportError as exc:
            raise ModelLoadError(
                f"Fetching {self.source} ({self.setting}) needs the package {exc.name}, which is not installed"
            ) from exc
        except ModelLoadError as exc:
            told = ModelLoadError(f"Fetching {self.source} ({self.setting}) from the hub: {exc}")
            told.permanent = exc.permanent
            raise told from exc
        except Exception as exc:
            from inference_server.engines.hub_errors import explain

            raise ModelLoadError(
                f"Fetching {self.source} ({self.setting}) from the hub: {explain(exc, repo_id, setting=self.setting)}"
            ) from exc
        file = Path(folder) / name
        if not file.is_file():
            raise ModelLoadError(f"{self.setting} names {self.source!r}: {repo_id} has no file {name}")
        return file

    def _choose(self, names: Sequence[str]) -> str:
        """The only file that may be meant. Raises: ModelLoadError."""
        fitting = [name for name in names if name.endswith(self.suffixes)]
        if self.usual in fitting:
            return str(self.usual)
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            there = f"there is {', '.join(names[:_TOLD])}" if names else "it is empty"
            raise ModelLoadError(f"{self.setting}: {self.source} has no {' or '.join(self.suffixes)} file; {there}")
        raise ModelLoadError(
            f"{self.setting}: {self.source} has several files; name one as {self.source}/FILE: "
            f"{', '.join(fitting[:_TOLD])}{' ...' if len(fitting) > _TOLD else ''}"
        )
