"""The maintainer's commands: put this repository on a Space, look at every link, hand over the worker's key.

`python manage.py --help` lists them; each is a module in `maintenance/`.
"""

import argparse
import os
import re
import sys
from importlib import import_module
from pathlib import Path

DESCRIPTION = """\
Your GPU at home draws for a public page on a Hugging Face Space. These commands
set that up and look after it:

  hf auth login                               once: who you are at the Hub
  python manage.py deploy --space you/draw    puts the page on the Space, prints
                                              the line for the GPU's machine
  python manage.py doctor --space you/draw    looks at every link, says what to
                                              do about one that does not hold

Settings and the one secret are in the file .env of the current folder."""

DEPLOY = """\
Puts this repository on a Space, or brings the one that is there up to date:

  1. creates the Space if there is none (that takes a PRO account);
  2. tells it the settings in .env, the secret ones as secrets; makes an
     ENDPOINT_SECRET if .env has none, and keeps it there;
  3. uploads what a Space runs, and removes whatever else it has;
  4. follows the build until the page answers, and prints the line for the
     machine with the GPU.

It says all that before it does it, and asks before anything that the Space has
is lost. It may be stopped (Ctrl-C) at any time: run again, it goes on."""

DOCTOR = """\
Looks at every link in turn: the settings, then the Space, its settings, log and
page, and what draws for it: machines that connect, Fair and its nodes, or a
fixed endpoint. Each is ok, a warning, or failed with what to do. What lies
behind a failed link is not looked at. It starts and stops nothing; --draw asks
for one picture, as a visitor would. Without --space it looks at what `make run`
would use here."""

WORKER_KEY = """\
Prints the line that is run on the machine with the GPU. It holds the worker's
key, which is made from ENDPOINT_SECRET in .env: whoever has it can connect to
your Space as its GPU. Nothing but that line is on stdout."""

ROTATE = """\
Makes a new ENDPOINT_SECRET, in .env and (with --space) on the Space, for when
the old one or a worker's line may have been seen. Every worker then needs its
new line, which is printed. Where the Space cannot be told, nothing changes."""

FAIR = """\
fair init: for the road with a VM of your own (docs/swarm.md). Writes the folder
that fair_server needs on the VM (its certificate and key, an account, the
nodes), writes the settings into .env, and prints the commands for both
machines. Nothing is sent anywhere."""

EXIT_STATUS = "Exit status: 0 all is well, 1 something failed, 2 wrong use or setting."


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    given = vars(_parser().parse_args(arguments))
    name, as_json = given.pop("command"), given.pop("json")
    try:
        from errors import SettingsError, SpaceError
        from maintenance.console import Console, UsageError

        command = import_module(f"maintenance.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        return _elsewhere(error)
    except KeyboardInterrupt:
        return 1
    console = Console(as_json=as_json)
    try:
        command.run(console, **given)
    except (SettingsError, UsageError) as error:
        console.refuse(error)
        return 2
    except SpaceError as error:
        console.failure(error)
    except (KeyboardInterrupt, EOFError):
        console.row("failed", console.check, "stopped by you", console.interrupted)
    return 1 if console.has_failed else 0


def _parser() -> argparse.ArgumentParser:
    def layout(prog: str) -> argparse.HelpFormatter:
        return argparse.RawDescriptionHelpFormatter(prog, max_help_position=22)

    parser = argparse.ArgumentParser(
        "manage.py",
        usage="manage.py COMMAND ...",
        description=DESCRIPTION,
        epilog=EXIT_STATUS,
        formatter_class=layout,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(
        prog="manage.py", title="commands", dest="command", required=True, metavar="ONE OF THESE"
    )

    def add(name: str, summary: str, text: str, *, needs_space: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=summary, description=text, epilog=EXIT_STATUS, formatter_class=layout, allow_abbrev=False
        )
        command.add_argument(
            "--space", type=_space, required=needs_space, metavar="OWNER/NAME", help="the Space, as in its address"
        )
        command.add_argument("--json", action="store_true", help="rows of check, status, detail, fix; one JSON a line")
        return command

    deploy = add("deploy", "put this repository on a Space", DEPLOY, needs_space=True)
    deploy.add_argument("--dry-run", action="store_true", help="only say what would be done; needs no account")
    deploy.add_argument("--yes", action="store_true", help="overwrite without asking")
    deploy.add_argument(
        "--timeout", dest="timeout_s", type=float, default=1800, metavar="S", help="for build and start (1800 s)"
    )
    doctor = add("doctor", "look at every link, say what to do", DOCTOR)
    doctor.add_argument("--draw", action="store_true", help="ask for one picture, too")
    worker_key = add("worker-key", "print the line for the machine with the GPU", WORKER_KEY)
    worker_key.add_argument("--key", dest="bare", action="store_true", help="print the key alone, for a script")
    add("rotate", "make a new secret, say what to restart", ROTATE)
    fair = add("fair", "set up a VM and a GPU's machine as a swarm", FAIR)
    fair.add_argument("action", choices=["init"])
    fair.add_argument("--vm", required=True, metavar="ADDRESS", help="where the VM is reached from everywhere")
    fair.add_argument("--box", required=True, metavar="NAME", help="the host name of the GPU's machine")
    fair.add_argument("--image", default="draw", metavar="IMAGE", help="the inference server's there (draw)")
    fair.add_argument("--email", default="owner@localhost", help="name of the account (owner@localhost)")
    fair.add_argument(
        "--folder", type=Path, default=Path("etc-fair"), metavar="FOLDER", help="what is to be /etc/fair (etc-fair)"
    )
    return parser


def _space(text: str) -> str:
    """`owner/name`; a Space's address in the browser is understood as well."""
    name = text.strip().rstrip("/").rpartition("/spaces/")[2]
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OWNER/NAME")
    return name


def _elsewhere(error: ModuleNotFoundError) -> int:
    """Runs the same with the Python that `make` has set up, where this one lacks a package."""
    folder = Path(__file__).resolve().parent
    python = folder / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != python.parent.parent.resolve():
        os.execv(python, [str(python), __file__, *sys.argv[1:]])  # noqa: S606  # our own arguments, no shell
    print(
        f"{sys.executable} has no package {error.name}. Install what this needs, for example with `make run` (Ctrl-C "
        "once it is there), or: pip install -r requirements.txt",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
