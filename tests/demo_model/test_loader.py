"""The demo model: unpacked once, whole or not at all, with a clear sentence where that cannot be."""

import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import demo_model
from demo_model import loader
from demo_model.loader import CHECKSUM_NAME, CONTENTS_NAME, WEIGHTS
from demo_model.training.pack import pack, tar_of

PARTS = ("model_index.json", "unet/openvino_model.xml", "text_encoder", "vae_decoder", "tokenizer", "scheduler")
FIRST_PART = f"{loader.ARCHIVE_NAME}.b64.00"
REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def small_weights(tmp_path: Path) -> Path:
    """A packed model of two small files, quick to unpack and free to damage."""
    model = tmp_path / "small_model"
    (model / "unet").mkdir(parents=True)
    (model / "model_index.json").write_text("{}")
    (model / "unet" / "openvino_model.bin").write_bytes(bytes(range(256)))
    pack(model, tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def full_disk() -> Iterator[Path]:
    """A folder on a file system of 1 MB."""
    place = Path("/dev/shm") / f"demo-model-test-{os.getpid()}"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        place.rmdir()
        pytest.skip("mounting a small file system takes root")
    yield place
    subprocess.run(["umount", place], check=True)
    place.rmdir()


def names(place: Path) -> set[str]:
    """Returns the names in a folder, hidden ones included."""
    return {entry.name for entry in place.iterdir()}


def test_unpacks_a_whole_model(tmp_path: Path) -> None:
    """The packed files unpack to a model folder with its defaults, named by the archive's checksum."""
    folder = demo_model.folder(tmp_path)
    assert all((folder / part).exists() for part in PARTS)
    assert json.loads((folder / "defaults.json").read_text()) == {
        "height": 256,
        "width": 256,
        "num_inference_steps": 20,
        "guidance_scale": 2.0,
        "side_multiple_px": 64,
    }
    assert folder.name.removeprefix("demo-model-") in (WEIGHTS / CHECKSUM_NAME).read_text()
    assert names(tmp_path) == {folder.name}


def test_unpacks_once(small_weights: Path, tmp_path: Path) -> None:
    """A second call returns the same folder and writes nothing."""
    first = demo_model.folder(tmp_path / "cache", weights=small_weights)
    before = first.stat()
    (small_weights / FIRST_PART).unlink()  # the packed text is not even read again
    assert demo_model.folder(tmp_path / "cache", weights=small_weights) == first
    assert first.stat() == before


@pytest.mark.slow
def test_several_processes_at_once(tmp_path: Path) -> None:
    """Processes that start together all get the same whole folder, and leave no half-written one behind."""
    code = "import demo_model, pathlib, sys; print(demo_model.folder(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    started = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {process.communicate(timeout=120)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0] * 4
    assert len(answers) == 1
    assert {str(tmp_path / "cache" / name) for name in names(tmp_path / "cache")} == answers


def test_unfinished_folder_does_not_count(small_weights: Path, tmp_path: Path) -> None:
    """What a process left that was killed while unpacking is not taken for a model."""
    complete = demo_model.folder(tmp_path / "cache", weights=small_weights)
    left = complete.with_name(f".{complete.name}.killed")
    complete.rename(left)
    (left / "model_index.json").unlink()
    assert (demo_model.folder(tmp_path / "cache", weights=small_weights) / "model_index.json").is_file()


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "emptied", "without contents"])
def test_a_damaged_folder_is_unpacked_anew(small_weights: Path, tmp_path: Path, damage: str) -> None:
    """Whatever became of the unpacked files, the next call gives them as they were, and leaves nothing beside them."""
    folder = demo_model.folder(tmp_path / "cache", weights=small_weights)
    weights = folder / "unet" / "openvino_model.bin"
    if damage == "emptied":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage == "without contents":
        (folder / CONTENTS_NAME).write_text("")
    elif damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes({"changed": bytes(256), "cut": bytes(range(100))}[damage])
    assert demo_model.folder(tmp_path / "cache", weights=small_weights) == folder
    assert weights.read_bytes() == bytes(range(256))
    assert names(tmp_path / "cache") == {folder.name}


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "no base64", "checksum gone", "checksum empty"])
def test_damaged_files(small_weights: Path, tmp_path: Path, damage: str) -> None:
    """Damaged packed files are an error in one sentence, and nothing is unpacked."""
    part, checksum_file = small_weights / FIRST_PART, small_weights / CHECKSUM_NAME
    text = part.read_text()
    if damage == "missing":
        part.unlink()
    elif damage == "checksum gone":
        checksum_file.unlink()
    elif damage == "checksum empty":
        checksum_file.write_text("")
    else:
        changed = {"changed": "A" + text[1:] if text[0] != "A" else "B" + text[1:], "cut": text[:80], "no base64": "A"}
        part.write_text(changed[damage])
    with pytest.raises(demo_model.DemoModelError, match=r"^The demo model.* check the files out again\.$"):
        demo_model.folder(tmp_path / "cache", weights=small_weights)
    assert not (tmp_path / "cache").exists()


def test_archive_may_not_leave_its_folder(tmp_path: Path) -> None:
    """A link in the archive is refused, and the unpacked rest is taken away again."""
    with pytest.raises(demo_model.DemoModelError, match="no plain file"):
        loader._unpack(_archive_with_a_link(), tmp_path / "cache", "demo-model-x")
    assert names(tmp_path / "cache") == set()


def _archive_with_a_link() -> bytes:
    tar_bytes = io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w") as tar:
        entry = tarfile.TarInfo("unet")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/tmp"
        tar.addfile(entry)
    return lzma.compress(tar_bytes.getvalue())


def test_user_cache_that_cannot_be_written(
    small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the user's cache cannot be written, a private temporary folder serves, and one log line says so."""
    (tmp_path / "no_folder").write_text("a file stands where the cache should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no_folder"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = demo_model.folder(weights=small_weights)
    assert (folder / "model_index.json").is_file()
    assert folder.parent.parent == tmp_path
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert [str(folder) in record.getMessage() for record in caplog.records] == [True]
    assert demo_model.folder(weights=small_weights) == folder
    assert len(caplog.records) == 1


def test_another_users_temporary_folder_is_not_used(
    small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary folder that others could have prepared is not trusted."""
    (tmp_path / "no_folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no_folder"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    prepared = tmp_path / f"stable-diffusion-space-{os.getuid()}"
    prepared.mkdir()
    prepared.chmod(0o777)
    with pytest.raises(demo_model.DemoModelError, match="XDG_CACHE_HOME"):
        demo_model.folder(weights=small_weights)
    assert names(prepared) == set()


def test_full_disk(full_disk: Path) -> None:
    """A full disk is an error in one sentence that names the folder, and leaves nothing behind."""
    with pytest.raises(demo_model.DemoModelError, match=f"{full_disk}.*No space left on device.*XDG_CACHE_HOME"):
        demo_model.folder(full_disk)
    assert names(full_disk) == set()


def test_packing_is_reproducible(tmp_path: Path) -> None:
    """Packing the unpacked model again gives this repository's archive (the tar in it: versions of liblzma differ)."""
    folder = demo_model.folder(tmp_path)
    packed = loader._read_archive(WEIGHTS, loader._expected_checksum(WEIGHTS))
    assert tar_of(folder) == lzma.decompress(packed)


def test_packing_twice_gives_the_same_files(small_weights: Path, tmp_path: Path) -> None:
    """Times and the order on the disk leave no trace in the packed files."""
    model = shutil.copytree(tmp_path / "small_model", tmp_path / "copy")
    os.utime(model / "model_index.json", (0, 0))
    (model / "unet").chmod(0o700)
    pack(model, tmp_path / "again")
    assert names(tmp_path / "again") == names(small_weights)
    for name in names(small_weights):
        assert (tmp_path / "again" / name).read_bytes() == (small_weights / name).read_bytes()


def test_known_words_go_with_the_weights(tmp_path: Path) -> None:
    """The list of words of a packed model lies beside its weights, and is what known_words reads."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text("{}")
    (model / "words.txt").write_text("zebra\nblue cheese\n")
    pack(model, tmp_path / "weights")
    words = tmp_path / "weights" / "words.txt"
    assert demo_model.known_words("Two zebras, an apple and blue cheese", words=words) == ["zebras", "blue cheese"]
