"""The process executor: the environment that it gives to programs. What else they get is in test_programs.py."""

from pathlib import Path

from fair_server.process_executor import program_environment


def test_program_environment(tmp_path: Path) -> None:
    """Secrets are withheld by their names unless asked for, the rest passes, PYTHONPATH depends on no folder."""
    own = {
        "PATH": "/bin",
        "TOKENIZERS_PARALLELISM": "1",
        "MODEL_ID": "m",
        "PYTHONPATH": "lib:/abs",
        "FAIRCOMPUTE_EMAIL": "e",
        "ENDPOINT_SECRET": "s",
        "HF_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "k",
        "db_password": "p",
    }
    assert program_environment(own, tmp_path) == {
        "PATH": "/bin",
        "TOKENIZERS_PARALLELISM": "1",
        "MODEL_ID": "m",
        "PYTHONPATH": f"{tmp_path}/lib:/abs:{tmp_path}",
    }
    passed = set(program_environment(own, tmp_path, ["HF_TOKEN", "NOT_SET"])) - set(program_environment(own, tmp_path))
    assert passed == {"HF_TOKEN"}
