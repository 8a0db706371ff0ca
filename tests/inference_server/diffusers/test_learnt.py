"""What was learnt of a model on a card is known to the next engine process."""

from pathlib import Path

import pytest

from inference_server.engines.diffusers.learnt import FILE, Learnt, LearntStore


def test_what_was_learnt_is_known_to_the_next_process(tmp_path: Path) -> None:
    """For the same card and model alone; a later finding is added to the earlier ones."""
    store = LearntStore(tmp_path, "card model")
    assert store.learn(max_area_px=4 * 512 * 512)
    assert store.learn(precision="bf16")
    assert LearntStore(tmp_path, "card model").known == Learnt(max_area_px=4 * 512 * 512, precision="bf16")
    assert LearntStore(tmp_path, "card other").known == Learnt()


def test_without_a_folder_it_is_known_to_this_process_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And so it is where the folder cannot be written, which the log says."""
    file = tmp_path / "file"
    file.write_text("")
    for folder in (None, file):
        store = LearntStore(folder, "card model")
        assert not store.learn(precision="bf16")
        assert store.known.precision == "bf16"
    assert "is not kept" in capfd.readouterr().out


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"card model": 3}', '{"card model": {"precision": 3, "x": 1}}'])
def test_a_file_of_another_kind_is_as_none(tmp_path: Path, content: str) -> None:
    """Nothing that stands there keeps a model from being loaded."""
    (tmp_path / FILE).write_text(content)
    store = LearntStore(tmp_path, "card model")
    assert store.known == Learnt()
    assert store.learn(precision="fp32")
