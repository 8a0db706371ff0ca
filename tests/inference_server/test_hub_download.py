"""A model's way from a Hub on loopback: what breaks off goes on, what is refused is told with what to do."""

import errno
import hashlib
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from inference_server.engine_config import EngineConfig
from inference_server.engines import ModelLoadError, hub_download, model_folder
from inference_server.engines.hub_download import HubDownloader
from inference_server.engines.named_files import NamedFile
from tests.support.model_hub import ModelHub, running_model_hub
from tests.support.processes import free_port

MODEL_ID = "owner/model"
WEIGHTS = random.Random(1).randbytes(3_000_000)
SECOND = random.Random(2).randbytes(1_000_000)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """A Hub with one model of two large files and a small one; this process takes it for the Hub."""
    model = tmp_path / "model"
    (model / "unet").mkdir(parents=True)
    (model / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (model / "unet" / "weights.bin").write_bytes(WEIGHTS)
    (model / "vae.bin").write_bytes(SECOND)
    with running_model_hub(MODEL_ID, model, token=None) as running:
        _point(monkeypatch, running.url, tmp_path / "cache")
        yield running


def _point(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    for module in ("huggingface_hub.constants", "huggingface_hub.hf_api"):
        monkeypatch.setattr(f"{module}.ENDPOINT", url, raising=False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", "")


def fetch(stages: list[str] | None = None, *, stall_s: float = 30.0, **config: Any) -> Path:
    """The model's folder, as the engine finds it; with waits that suit a test."""

    def bring(config: EngineConfig, report: Callable[[str], None]) -> Path:
        downloader = HubDownloader(report, stall_s=stall_s, retry_s=0.02)
        return Path(downloader.snapshot(str(config.model_id), revision=config.model_revision))

    told = stages if stages is not None else []
    return model_folder.find(EngineConfig(**{"model_id": MODEL_ID, **config}), told.append, bring).folder


def refused(**config: Any) -> str:
    """The sentence of a download that does not come about."""
    with pytest.raises(ModelLoadError) as error:
        fetch(**config)
    return str(error.value)


def is_whole(folder: Path) -> bool:
    return (folder / "unet" / "weights.bin").read_bytes() == WEIGHTS and (folder / "vae.bin").read_bytes() == SECOND


def test_it_is_told_how_far_it_is(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stages count the bytes of all large files; every file is there, each fetched once."""
    monkeypatch.setattr(hub_download, "_TELL_S", 0.0)
    stages: list[str] = []
    assert is_whole(fetch(stages))
    told = [stage for stage in stages if stage.startswith("Downloading the model: ")]
    assert told[0] < told[-1]
    assert told[-1] == "Downloading the model: 4.0 of 4.0 MB (checking what came)"
    assert hub.sent_bytes == len(WEIGHTS) + len(SECOND)


def test_gigabytes() -> None:
    """A large model is told in GB with one decimal, at most once a second and never twice the same."""
    stages: list[str] = []
    progress = hub_download._Progress(stages.append, 5_130_000_000, 1_200_000_000)
    progress.add(1000)
    progress.add(90_000_000)
    progress.tell(now=True)
    progress.tell(now=True)
    assert stages == ["Downloading the model: 1.2 of 5.1 GB", "Downloading the model: 1.3 of 5.1 GB"]


def test_a_line_that_breaks_goes_on(hub: ModelHub) -> None:
    """Cut off again and again it goes on where it was: nothing is sent twice, and it is told."""
    hub.trouble.cuts = [1_000_000, 1_500_000]
    stages: list[str] = []
    assert is_whole(fetch(stages))
    assert any("the line broke, going on from there" in stage for stage in stages)
    assert hub.sent_bytes == len(WEIGHTS) + len(SECOND)
    assert hub.starts == [0, 1_000_000, 2_500_000, 0]


def test_a_process_that_ends_goes_on(hub: ModelHub) -> None:
    """What an earlier process had brought, that was ended in mid-file, is not fetched again."""
    blobs = Path(constants.HF_HUB_CACHE) / "models--owner--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}.part").write_bytes(WEIGHTS[:2_000_000])
    assert is_whole(fetch())
    assert hub.sent_bytes == len(WEIGHTS) - 2_000_000 + len(SECOND)
    assert list(blobs.glob("*.part")) == []


def test_a_hub_that_says_not_now(hub: ModelHub) -> None:
    """503 and 429 are waited out."""
    hub.trouble.statuses = [503, 429, 500]
    assert is_whole(fetch())


def test_a_hub_without_ranges(hub: ModelHub) -> None:
    """Where the Hub sends the whole file again, it is taken from its beginning, and the count is right."""
    hub.trouble.cuts, hub.trouble.without_ranges = [1_000_000], True
    stages: list[str] = []
    assert is_whole(fetch(stages))
    assert stages[-1].startswith("Downloading the model: 4.0 of 4.0 MB")


def test_a_file_that_ends_early(hub: ModelHub) -> None:
    """A file that the Hub ends early, again and again, is refused; what came of it is kept, and completed later."""
    hub.trouble.short_by = 500_000
    told = refused(stall_s=0.3)
    assert told.startswith(f"Fetching {MODEL_ID} from the hub: the download stalled at ")
    assert "no new byte for" in told
    assert "the next try goes on from there" in told
    hub.trouble.short_by, already = 0, hub.sent_bytes
    assert is_whole(fetch())
    assert hub.sent_bytes - already < len(WEIGHTS)


def test_a_hub_that_stalls(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte comes for a while: the line is made anew, that is told, and it is given up with a reason."""
    monkeypatch.setattr(hub_download, "_READ_S", 0.1)
    hub.trouble.hold = threading.Event()
    told = refused(stall_s=0.3)
    assert "the download stalled at 1.5 of 4.0 MB: no new byte for" in told
    assert "ReadTimeout" in told
    hub.trouble.hold.set()
    assert is_whole(fetch())


def test_what_was_changed_on_the_way(hub: ModelHub) -> None:
    """Bytes with another hash than the Hub's are refused and not kept; the next try fetches them anew."""
    hub.trouble.changed = True
    assert "SHA-256 differs" in refused()
    hub.trouble.changed = False
    assert is_whole(fetch())


REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "gated": ({"refusal": (403, "GatedRepo")}, {}, ("it answered 403", "gated", "Accept its terms at", "HF_TOKEN")),
    "gated-nobody": ({"refusal": (401, "GatedRepo")}, {}, ("it answered 401", "gated", "HF_TOKEN")),
    "misspelt": ({}, {"model_id": "owner/modle"}, ("no such model", "Check the spelling of MODEL_ID=owner/modle")),
    "revision": ({}, {"model_revision": "v9"}, ("no revision 'v9'", "Check MODEL_REVISION")),
    "wrong-token": ({"refusal": (401, "")}, {}, ("it answered 401", "HF_TOKEN")),
    "too-many": ({"refusal": (429, "")}, {}, ("429", "too many requests")),
    "hub-fails": ({"refusal": (500, "")}, {}, ("it answered 500", "the fault is at http://127.0.0.1")),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_the_hub_refuses(hub: ModelHub, refusal: str) -> None:
    """Each refusal is one sentence: the model, what came back, what to do."""
    trouble, config, words = REFUSALS[refusal]
    for name, value in trouble.items():
        setattr(hub.trouble, name, value)
    told = refused(**config)
    assert told.startswith("Fetching owner/mod")
    assert [word for word in words if word not in told] == []


def test_a_hub_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers: the address and what to check."""
    _point(monkeypatch, f"http://127.0.0.1:{free_port()}", tmp_path)
    told = refused()
    assert "nobody answers at http://127.0.0.1" in told
    assert "Check this machine's network and HF_ENDPOINT" in told


def test_a_model_that_is_there_needs_no_hub(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once everything is here, a Hub that is away is no trouble."""
    folder = fetch()
    hub.trouble.refusal = (503, "")
    assert fetch() == folder


def test_no_room_for_it(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with less room than the model needs is told before anything is fetched."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    told = refused()
    assert "4 MB are still to come and 2 MB are free at" in told
    assert "Make room there" in told
    assert hub.sent_bytes == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_up(hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of 5 MB that something else fills meanwhile: told with what to do, and gone on with once there is room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=5m tmpfs {disk}"):
        pytest.skip("no tmpfs can be mounted here")
    try:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(disk))
        monkeypatch.setattr(hub_download._Progress, "require_room", lambda *_: None)  # there was room when it began
        (disk / "other").write_bytes(bytes(3_000_000))
        told = refused()
        assert f"the disk at {disk} is full after" in told
        assert "Make room there" in told
        (disk / "other").unlink()
        sent = hub.sent_bytes
        assert is_whole(fetch())
        assert hub.sent_bytes - sent < len(WEIGHTS) + len(SECOND)
    finally:
        os.system(f"umount {disk}")


def test_a_disk_that_may_not_be_written(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is read-only names the folder and the volume that is missing."""

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    told = refused()
    assert "cannot be written (Read-only file system)" in told
    assert "-v draw:/data" in told


def named(source: str, *suffixes: str, usual: str | None = None) -> NamedFile:
    return NamedFile("LORAS", source, suffixes or (".bin",), usual)


def test_a_named_file_comes_alone_and_goes_on_after_a_cut(hub: ModelHub) -> None:
    """`owner/repo/file` brings that file and no other, by ranges; it is the Hub's, bit for bit."""
    hub.trouble.cuts = [400_000]
    told: list[str] = []
    file = named(f"{MODEL_ID}/vae.bin").find(told.append)
    assert file.read_bytes() == SECOND
    assert hub.starts == [0, 400_000]
    assert not any("unet" in path for path in hub.asked if "/resolve/" in path)
    assert any("Downloading the model" in stage for stage in told)


def test_a_repository_alone_means_its_only_file(hub: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several fit they are listed; where the Hub is away, what came before is found."""
    assert named(MODEL_ID, usual="vae.bin").find(print).read_bytes() == SECOND
    assert named(MODEL_ID, ".json").find(print).name == "model_index.json"
    with pytest.raises(ModelLoadError, match=r"unet/weights\.bin, vae\.bin"):
        named(MODEL_ID).find(print)
    with pytest.raises(ModelLoadError, match=r"LORAS: owner/model has no \.gguf file; there is "):
        named(MODEL_ID, ".gguf").find(print)
    hub.trouble.refusal = (503, "")
    assert named(f"{MODEL_ID}/vae.bin").find(print).read_bytes() == SECOND
    assert named(MODEL_ID, usual="vae.bin").find(print).read_bytes() == SECOND


def test_a_file_on_this_machine_is_taken_where_it_lies(tmp_path: Path) -> None:
    """A path, or a folder with one such file; what is neither file nor repository is told with the setting's name."""
    (tmp_path / "a.bin").write_bytes(b"1")
    assert named(str(tmp_path / "a.bin")).find(print) == tmp_path / "a.bin"
    assert named(str(tmp_path)).find(print) == tmp_path / "a.bin"
    for wrong in (str(tmp_path / "b.bin"), "./b.bin", "b.bin", "owner//b.bin"):
        with pytest.raises(ModelLoadError, match=r"LORAS names .*which is no file here"):
            named(wrong).find(print)


@pytest.mark.parametrize("source", ["owner/misspelt/a.bin", "owner/misspelt", f"{MODEL_ID}/none.bin"])
def test_a_misspelt_named_file_is_told_with_its_setting(hub: ModelHub, source: str) -> None:
    """The sentence says LORAS, not MODEL_ID."""
    with pytest.raises(ModelLoadError) as raised:
        named(source).find(print)
    assert "LORAS" in str(raised.value)
    assert "MODEL_ID" not in str(raised.value)
