"""Where a training run keeps its files: outside the repository, so that a later run goes on from them."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

DEFAULT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stable-diffusion-space-training"


@dataclass(frozen=True)
class RunFolder:
    """The files of one training run."""

    path: Path = DEFAULT

    @property
    def npm(self) -> Path:
        """The artwork: `npm install` of `demo_model/package.json` in `npm/`."""
        return self.path / "npm" / "node_modules"

    @property
    def autoencoder(self) -> Path:
        return self.path / "autoencoder.safetensors"

    @property
    def autoencoder_state(self) -> Path:
        """Everything that training the autoencoder needs to go on."""
        return self.path / "autoencoder_state.pt"

    @property
    def samples(self) -> Path:
        """The samples that this very autoencoder has encoded: another one has its own."""
        return self.path / f"samples-{hashlib.sha256(self.autoencoder.read_bytes()).hexdigest()[:8]}"

    @property
    def checkpoint(self) -> Path:
        """The averaged weights and the raw ones, half precision: what is exported."""
        return self.path / "checkpoint.safetensors"

    @property
    def state(self) -> Path:
        """Everything that training needs to go on."""
        return self.path / "state.pt"

    @property
    def flat_state(self) -> Path:
        """The state when the learning rate began to fall: a longer run goes on from here."""
        return self.path / "state_flat.pt"

    @property
    def pid(self) -> Path:
        """The number of the process that trains, so that it can be stopped for a while (`kill -STOP`, `kill -CONT`)."""
        return self.path / "train.pid"

    @property
    def samples_pid(self) -> Path:
        """The same of the process that makes samples: it may run beside."""
        return self.path / "samples.pid"
