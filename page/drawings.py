"""What one Draw asks for: one picture or several, each a drawing of its own with a seed of its own.

Not one request for several pictures: so visitors take turns between them, several workers share them, each picture is
kept as soon as it is there, and one that fails takes no other with it.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from drawing.jobs import Job
from drawing.models import SEED_MAX
from errors import BusyError
from page.visitor import Visitor
from text_to_image import TextToImage

PICTURES_MOST = 4
_NEXT, _TOKEN_FOLLOWS = " ", "."  # no id and no token has one of them


@dataclass(frozen=True)
class Drawings:
    """The jobs of one Draw, in the order of their seeds. `refused`: why there are no more of them, where that is so;
    `tokens`: the cancel tokens that a browser has shown for them.
    """

    jobs: tuple[Job, ...]
    refused: BusyError | None = None
    tokens: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every one of them has ended."""
        return all(job.finished for job in self.jobs)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the visitor asked, until the last one has ended."""
        return max(job.elapsed_s for job in self.jobs)

    @property
    def name(self) -> str:
        """What a browser remembers, to find them and to cancel them."""
        return _NEXT.join(f"{job.id}{_TOKEN_FOLLOWS}{job.cancel_token}" for job in self.jobs)

    @property
    def may_cancel(self) -> bool:
        """Whether the browser that named them may cancel them: who was given a link to one has no token."""
        return all(job.may_cancel(token) for job, token in zip(self.jobs, self.tokens, strict=True))

    def cancel(self) -> None:
        """Ends those that are not finished."""
        for job in self.jobs:
            job.cancel()


def find(service: TextToImage, name: object) -> Drawings | None:
    """The drawings that a browser remembers by this name, or the one with this id; None where all are forgotten."""
    parts = name.split(_NEXT)[:PICTURES_MOST] if isinstance(name, str) else []
    named = [part.partition(_TOKEN_FOLLOWS)[::2] for part in parts if part]
    found = [(job, token) for job_id, token in named if (job := service.job(job_id))]
    return Drawings(tuple(job for job, _ in found), tokens=tuple(token for _, token in found)) if found else None


def start(service: TextToImage, parameters: dict[str, Any], count: int, visitor: Visitor) -> Drawings:
    """Begins to draw `count` pictures, as many of them as the visitor may have under way.

    `parameters`: of GenerationRequest. The seed is the first one's, the next ones follow it, as diffusers has it for
    `num_images_per_prompt`.
    Raises: what TextToImage.submit raises, for the first one.
    """
    if count > 1 and parameters.get("seed") is None:
        parameters = {**parameters, "seed": secrets.randbelow(SEED_MAX + 1)}
    jobs: list[Job] = []
    refused = None
    try:
        for _ in range(count):
            first = jobs[0].request.seed if jobs else None
            seed = {} if first is None else {"seed": (first + len(jobs)) % (SEED_MAX + 1)}
            job = service.submit(**parameters | seed, visitor=visitor.name, address=visitor.address, nearest=True)
            jobs.append(job)
    except BusyError as error:
        if not jobs:
            raise
        refused = error
    except BaseException:
        for job in jobs:
            job.cancel()
        raise
    return Drawings(tuple(jobs), refused, tuple(job.cancel_token for job in jobs))


def count_of(value: object) -> int:
    """How many pictures a page's field asks for; 1 where it holds no such number."""
    try:
        return max(1, min(PICTURES_MOST, int(str(value))))
    except ValueError:
        return 1
