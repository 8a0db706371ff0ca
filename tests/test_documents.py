"""The commands in docs/: each is run by a test, which is named here."""

import pytest

from tests.support.processes import REPOSITORY
from tests.support.swarm_guide import documented_commands

GUIDE, MACHINES = "tests/machines/test_guide.py", "tests/machines/test_machines.py"
SET_UP, MAINTENANCE = "tests/support/swarm_guide.py", "tests/maintenance"
RUN_BY = {
    "docs/swarm.md": {
        "python manage.py fair init --vm 203.0.113.7 --box gpu-box --space you/draw": SET_UP,
        "docker swarm init": SET_UP,  # as that prints it, as the next ones
        "docker build -t draw inference_server": "tests/inference_server/test_image_draws.py",
        "docker swarm join-token worker": SET_UP,
        "docker swarm join-token --rotate worker": SET_UP,
        "docker node ls": SET_UP,
        "python manage.py deploy --space you/draw": f"{MAINTENANCE}/test_deploy.py",
        "python manage.py doctor --space you/draw --draw": f"{MAINTENANCE}/test_doctor.py",
        "docker stack deploy --compose-file fair_server/stack.yaml fair": GUIDE,
        "docker restart fair": GUIDE,
        "docker node update --availability pause gpu-box": GUIDE,
        "docker node update --availability drain gpu-box": MACHINES,
        "docker node update --availability active gpu-box": MACHINES,
        "docker service ls": GUIDE,
        "docker node rm": GUIDE,
        "docker system prune": MACHINES,
    },
    "docs/security.md": {
        "python manage.py rotate --space OWNER/NAME": f"{MAINTENANCE}/test_secrets.py",
        "docker run": "tests/inference_server/test_image_draws.py",  # names the line of README
        "python -m fair_server hash EMAIL": GUIDE,
        "python manage.py fair init": f"{MAINTENANCE}/test_fair_init.py",
        "docker swarm join-token --rotate worker": SET_UP,
        "docker node ls": SET_UP,
    },
}


@pytest.mark.parametrize("document", sorted(RUN_BY))
def test_every_command_is_run(document: str) -> None:
    """A command that is added to a document, or changed there, needs a test that runs it."""
    assert set(documented_commands(document)) == set(RUN_BY[document])
    assert all((REPOSITORY / test).is_file() for test in RUN_BY[document].values())
