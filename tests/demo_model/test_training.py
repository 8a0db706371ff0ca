"""Training the demo model; runs where demo_model/training/requirements.txt is installed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs demo_model/training/requirements.txt")
pytest.importorskip("cairosvg", reason="training needs demo_model/training/requirements.txt")
pytest.importorskip("wordfreq", reason="training needs demo_model/training/requirements.txt")

from demo_model.training import artwork, networks, samples, stopping  # noqa: E402 (only where torch is)
from demo_model.training.batches import Batches  # noqa: E402
from demo_model.training.concepts import concepts  # noqa: E402
from demo_model.training.muon import orthogonal  # noqa: E402
from demo_model.training.run_folder import RunFolder  # noqa: E402
from demo_model.training.scenes import SceneLottery  # noqa: E402
from demo_model.training.train import Plan, Training  # noqa: E402

pytestmark = pytest.mark.slow
SHAPE = (networks.LATENT_CHANNELS, networks.GRID, networks.GRID)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with one file of samples, their latents at random."""
    folder = RunFolder(tmp_path)
    folder.autoencoder.write_bytes(b"")
    folder.samples.mkdir()
    rng = np.random.default_rng(0)
    lottery = SceneLottery(concepts(), [True] * len(concepts()), rng)
    scenes = [lottery.draw() for _ in range(64)]
    latents = rng.normal(size=(64, *SHAPE)).astype(np.float16)
    samples._write(folder.samples / "00000.npz", samples.Samples(latents, scenes))
    (folder.samples / "own_colours.json").write_text(json.dumps([""] * len(concepts())))
    return folder


def plan(steps: int) -> Plan:
    return Plan(steps, None, 4, 1e-3, 2e-3, decay=0.5, averaging=0.9, seed=1, report_every_steps=1, save_every_s=600)


def test_samples_come_back_as_written(run: RunFolder) -> None:
    """A file of samples holds the scenes and the latents that were put in."""
    content = samples.read(run.samples / "00000.npz")
    lottery = SceneLottery(concepts(), [True] * len(concepts()), np.random.default_rng(0))
    assert content.scenes == [lottery.draw() for _ in range(64)]
    assert content.latents.shape == (64, *SHAPE)


def test_training_goes_on_where_it_stopped(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """A second start goes on from the kept state, takes up new samples, and its weights can be exported."""
    with stopping.running(run.pid) as stop:
        Training(run, plan(2), None).go(stop)
    (run.samples / "00001.npz").write_bytes((run.samples / "00000.npz").read_bytes())
    with stopping.running(run.pid) as stop:
        Training(run, plan(3), None).go(stop)
    printed = capsys.readouterr().out
    assert "64 samples, step 0, up to step 2" in printed
    assert "128 samples, step 2, up to step 3" in printed
    from safetensors.torch import load_file

    weights = load_file(run.checkpoint)
    unet = networks.make_unet()
    prefix = "ema.unet."
    unet.load_state_dict({key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)})
    assert not run.pid.exists()


def test_learning_rate_falls_to_zero() -> None:
    """The rate warms up, stays flat, and falls to zero at the last step."""
    long = plan(1000)
    assert long.rate(long.left(0, 0), 0) == pytest.approx(1 / 50)
    assert long.rate(long.left(400, 0), 400) == 1
    assert long.rate(long.left(750, 0), 750) == pytest.approx(0.5)
    assert long.rate(long.left(1000, 0), 1000) == 0


def test_training_can_be_given_its_time() -> None:
    """With hours instead of steps the rate falls to zero when they have passed, however many steps that made."""
    timed = replace(plan(10), hours=2.0)
    assert timed.rate(timed.left(500, 1800), 500) == 1
    assert timed.rate(timed.left(500, 5400), 500) == pytest.approx(0.5)
    assert timed.rate(timed.left(500, 7300), 500) == 0


def test_halves_of_pairs_make_new_pairs(run: RunFolder) -> None:
    """A pair is mostly shown with the right half of another pair in the same surroundings, all else as it is."""
    batches = Batches(run, 1, "cpu")
    scenes = batches._scenes
    partners = [(scene, scenes[batches._partner(number)]) for number, scene in enumerate(scenes)]
    assert all(scene == partner for scene, partner in partners if scene.kind != "pair")
    pairs = [(scene, partner) for scene, partner in partners if scene.kind == "pair"]
    assert any(scene != partner for scene, partner in pairs)
    assert all((one.kind, one.ground, one.place) == ("pair", two.ground, two.place) for one, two in pairs)


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 32, 288), (1, 300, 20)])
def test_muon_draws_singular_values_to_one(shape: tuple[int, int, int]) -> None:
    """Whatever the matrix, wide or tall, its update has singular values near 1."""
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_latents_and_back() -> None:
    """256 pixels become 16x16 latents, and these 256 pixels."""
    autoencoder = networks.make_autoencoder().eval()
    with torch.no_grad():
        mean, log_variance = autoencoder.latents(torch.zeros(1, 3, 256, 256))
        assert mean.shape == log_variance.shape == (1, *SHAPE)
        assert autoencoder.pictures(mean).shape == (1, 3, 256, 256)


def test_latents_are_normalised() -> None:
    """After normalising, the same pictures have latents of mean 0 and variance 1, and decode as before."""
    torch.manual_seed(0)
    autoencoder = networks.make_autoencoder().eval()
    pictures = torch.rand(4, 3, 256, 256) * 2 - 1
    with torch.no_grad():
        before = autoencoder.latents(pictures)[0]
        decoded = autoencoder.pictures(before)
        autoencoder.normalise(before)
        after = autoencoder.latents(pictures)[0]
        assert after.mean((0, 2, 3)).abs().max() < 1e-3
        assert (after.std((0, 2, 3)) - 1).abs().max() < 1e-3
        assert (autoencoder.pictures(after) - decoded).abs().max() < 1e-3


@pytest.mark.parametrize(("colour", "strongest"), [("blue", 2), ("green", 1), ("red", 0)])
def test_recolouring_turns_the_main_colour_alone(colour: str, strongest: int) -> None:
    """A yellow thing with a black spot becomes blue, and the spot stays black."""
    picture = np.zeros((artwork.SIZE, artwork.SIZE, 4), np.uint8)
    picture[40:200, 40:200] = (250, 210, 40, 255)
    picture[100:120, 100:120] = (20, 20, 20, 255)
    main = artwork.main_colour(picture)
    assert main.name() == "yellow"
    painted = artwork.recolour(picture, colour, main)
    assert int(painted[60, 60, :3].argmax()) == strongest
    assert (painted[110, 110] == picture[110, 110]).all()
    assert artwork.main_colour(painted) != main


def test_grey_things_can_be_coloured() -> None:
    """A grey elephant with a red blanket becomes a pink one, and the blanket stays red."""
    picture = np.zeros((artwork.SIZE, artwork.SIZE, 4), np.uint8)
    picture[40:200, 40:200] = (180, 182, 184, 255)
    picture[100:130, 100:130] = (220, 30, 30, 255)
    main = artwork.main_colour(picture)
    assert main.name() == "grey"
    painted = artwork.recolour(picture, "pink", main)
    red, green, blue = (int(part) for part in painted[60, 60, :3])
    assert red > blue > green
    assert (painted[110, 110] == picture[110, 110]).all()


def test_asked_to_stop_it_leaves_its_loop(tmp_path: Path) -> None:
    """SIGTERM ends the loop, not the process in the middle; the number's file goes, and the exit status says so."""
    code = (
        "import pathlib, sys, time\n"
        "from demo_model.training.stopping import running\n"
        "with running(pathlib.Path(sys.argv[1])) as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop: time.sleep(0.01)\n"
        "    print('state kept', flush=True)\n"
    )
    file = tmp_path / "train.pid"
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(int(file.read_text()), signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "state kept\n"
    assert process.returncode == 1
    assert not file.exists()
