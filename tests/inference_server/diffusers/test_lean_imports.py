"""What the diffusers engine leaves out when it starts, and that it is there when it is asked for."""

import subprocess
import sys

import pytest

from tests.support import tiny_pipelines
from tests.support.processes import REPOSITORY

pytestmark = [pytest.mark.slow]

# One process for both: its start is what takes long. All schedulers that the model offers were tried in it.
_PROGRAM = """
import sys
from inference_server import engines
from inference_server.engine_config import EngineConfig

engine = engines.load(EngineConfig(engine="diffusers", model_id=sys.argv[1], device="cpu"), print)
engine.warm_up()
heavy = ("bitsandbytes.nn", "scipy.stats.distributions", "torch._inductor.compile_fx")
print("loaded:", [name for name in heavy if name in sys.modules])

import bitsandbytes, diffusers, torch
from diffusers.utils import is_bitsandbytes_available

print("quantised:", is_bitsandbytes_available(), issubclass(bitsandbytes.nn.Linear4bit, torch.nn.Linear))
scheduler = diffusers.EulerDiscreteScheduler(use_beta_sigmas=True)
scheduler.set_timesteps(4)
print("beta:", len(scheduler.sigmas))
"""


@pytest.mark.timeout(300)
def test_the_engine_draws_without_and_has_it_later() -> None:
    """A first picture loads neither the quantiser nor the statistics; both work when they are asked for."""
    program = [sys.executable, "-c", _PROGRAM, str(tiny_pipelines.folder("sd"))]
    done = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, timeout=250, check=False)
    told = [line for line in done.stdout.splitlines() if line.startswith(("loaded:", "quantised:", "beta:"))]
    assert told == ["loaded: []", "quantised: True True", "beta: 5"], done.stdout + done.stderr
