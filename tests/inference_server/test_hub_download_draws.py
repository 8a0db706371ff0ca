"""A server whose model comes from the Hub over a bad line, with real processes: told, resumed, drawn with."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import demo_model
from tests.support.inference_process import running, wait_until
from tests.support.model_hub import running_model_hub
from tests.support.processes import REPOSITORY
from tests.support.tiny_pipelines import save_sd

pytestmark = [pytest.mark.slow]
MODEL_ID, TOKEN = "owner/model", "hf_of_the_test"


def test_a_server_that_is_killed_in_mid_download_goes_on(tmp_path: Path) -> None:
    """The healthcheck and a visitor's event say how far it is; the next server begins there, and draws."""
    with running_model_hub(MODEL_ID, demo_model.folder(), TOKEN) as hub:
        settings: dict[str, Any] = {"MODEL_ID": MODEL_ID, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
        with running(**settings, HF_TOKEN="") as refused:
            reason = refused.wait_failed()["reason"]
            assert "it answered 401, the model is gated. Accept its terms at" in reason
        settings["HF_TOKEN"] = TOKEN
        hub.trouble.hold = threading.Event()
        with running(**settings) as first:
            wait_until(lambda: first.health().get("stage", "").startswith("Downloading the model: "), "a stage")
            stages = (event.get("stage", "") for event in first.stream({"prompt": "a red apple"}))
            assert " of " in next(stage for stage in stages if stage.startswith("Downloading the model: "))
            first.stop(signal.SIGKILL)
        hub.trouble.hold.set()
        hub.trouble.hold, hub.trouble.cuts = None, [50_000]
        with running(**settings) as second:
            second.wait_ready()
            assert second.post({"prompt": "a red apple", "num_inference_steps": 2}).json()["image_base64"]
            assert TOKEN not in second.log()
        assert sum(start > 0 for start in hub.starts) >= 2


def test_diffusers_files_come_the_same_way(tmp_path: Path) -> None:
    """An image's build fetches what diffusers' pipeline needs, past a line that breaks and a server's error."""
    model = save_sd(tmp_path / "model")
    (model / "unet" / "unused.bin").write_bytes(bytes(200_000))
    with running_model_hub(MODEL_ID, model, TOKEN) as hub:
        hub.trouble.cuts, hub.trouble.statuses = [50_000], [503]
        command = [sys.executable, "-m", "inference_server.download", "--engine", "diffusers", "--model-id", MODEL_ID]
        done = subprocess.run(
            [*command, str(tmp_path / "models")],
            cwd=REPOSITORY,
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": TOKEN},
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, done.stderr
        assert "Downloading the model: " in done.stdout
        assert 50_000 in hub.starts
    (folder,) = (tmp_path / "models").iterdir()
    assert (folder / "model_index.json").is_file()
    assert not (folder / "unet" / "unused.bin").exists()
