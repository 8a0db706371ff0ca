"""`manage.py deploy`: this repository on a Space: created, told its settings, filled, followed until it answers."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from endpoint.credentials import new_secret
from maintenance.build import follow_build
from maintenance.console import Console, UsageError
from maintenance.env_file import ENV_FILE, SECRET, EnvFile, home_line, is_secret, keep_secret, read_env_file
from maintenance.hub import RESTING, Hub, HubError, SpaceState, git_hash
from tools.space_files import space_files

_SAME_COMMAND = "The same command again goes on from there."


@dataclass(frozen=True)
class DeployPlan:
    """What is to be done. `state`: the Space as it is, None where it is created; `variables`, `secrets`: what is set;
    `changed`, `gone`: paths that the Space has and that are replaced or removed; `left`: settings that only the Space
    has; `replaced`: names of settings whose values are replaced.
    """

    space: str
    secrets: dict[str, str] = field(repr=False)
    variables: dict[str, str]
    files: dict[str, Path]
    state: SpaceState | None = None
    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def overwrites(self) -> bool:
        """Whether anything that the Space has now is lost."""
        return bool(self.changed or self.gone or self.replaced)


def run(console: Console, *, space: str, dry_run: bool, yes: bool, timeout_s: float) -> None:
    """Does it all. Raises: SettingsError, UsageError, HubError, ServiceError."""
    console.check = "settings"
    env = read_env_file()
    secret = env.secret or (new_secret() if env.by_workers else None)
    wanted = {**env.for_the_space(), **({SECRET: secret} if secret else {})}
    secrets = {name: value for name, value in wanted.items() if is_secret(name)}
    variables = {name: value for name, value in wanted.items() if not is_secret(name)}
    plan = DeployPlan(space, secrets, variables, space_files())
    if dry_run:
        console.say(f"This would be done to the Space {space} (nothing is, and nobody is asked):")
        console.say()
        _tell(console, plan, env, known=False)
        return
    hub = Hub()
    plan = _look(console, hub, plan)
    console.say(f"\nThis will be done to the Space {space}:")
    console.say()
    _tell(console, plan, env, known=True)
    _agree(console, plan, yes=yes)
    console.say("")
    if secret:
        keep_secret(secret, None if env.space else space)
    commit, private = _carry_out(console, hub, plan)
    follow_build(console, hub, space, commit, timeout_s=timeout_s)
    if secret and env.by_workers:
        _tell_home(console, home_line(env, secret, space), private=private)
    console.say(f"\n`python manage.py doctor --space {space} --draw` looks at every link.")


def _look(console: Console, hub: Hub, plan: DeployPlan) -> DeployPlan:
    """The plan with what the Hub knows of the Space. Changes nothing."""
    console.begin("token", "asking the Hub whose token this is")
    account = hub.account()
    owner = plan.space.partition("/")[0]
    if account.role == "read":
        raise HubError(
            tried=f"prepare the upload to {plan.space}",
            came_back=f"the token of {account.name} may only read",
            next_step="Make one with write access in your settings at the Hub (Access Tokens), then `hf auth login`.",
            status=403,
        )
    repaired = ", without the invisible characters in it" if hub.token_was_repaired else ""
    console.ok("token", f"belongs to {account.name}{repaired}")
    console.begin("space", f"looking at {plan.space}")
    state = hub.space(plan.space)
    if state is None:
        if owner not in account.owners:
            raise HubError(
                tried=f"find the Space {plan.space}",
                came_back=f"there is none that {account.name} may see, nor may {account.name} create one for {owner}",
                next_step=f"Use --space {account.name}/{plan.space.partition('/')[2]}, or log in as {owner}.",
                status=404,
            )
        return DeployPlan(plan.space, plan.secrets, plan.variables, plan.files, new=tuple(plan.files))
    there = hub.files(plan.space)
    known_secrets, known_variables = hub.settings(plan.space)
    replaced = [name for name in plan.secrets if name in known_secrets]
    replaced += [name for name, value in plan.variables.items() if known_variables.get(name, value) != value]
    changed = [path for path, file in plan.files.items() if path in there and there[path] != git_hash(file)]
    return DeployPlan(
        plan.space,
        plan.secrets,
        {name: value for name, value in plan.variables.items() if known_variables.get(name) != value},
        plan.files,
        state,
        new=tuple(path for path in plan.files if path not in there),
        changed=tuple(changed),
        gone=tuple(sorted(set(there) - set(plan.files))),
        replaced=tuple(replaced),
        left=tuple(sorted((known_secrets | set(known_variables)) - set(plan.secrets) - set(plan.variables))),
    )


def _tell(console: Console, plan: DeployPlan, env: EnvFile, *, known: bool) -> None:
    """Says what will be done. `known`: the Hub was asked, else it is described without it."""
    state = plan.state
    if not known:
        console.plan("space", "it is created if it is missing: Gradio, public")
    elif state is None:
        console.plan("space", "it is created: Gradio, public")
    else:
        rests = state.stage in RESTING and not state.is_flagged
        console.plan("space", f"it exists ({state.stage}){' and is started again' if rests else ''}")
    console.plan("secrets", ", ".join(sorted(plan.secrets)) or "none")
    if SECRET in plan.secrets and not env.secret:
        console.plan("new secret", f"{SECRET} is made now and kept in {ENV_FILE}, which only you can read")
    console.plan("variables", ", ".join(f"{key}={value}" for key, value in sorted(plan.variables.items())) or "none")
    size_mb = sum(file.stat().st_size for file in plan.files.values()) / 1e6
    console.plan("files", f"{len(plan.files)} that a Space runs, {size_mb:.0f} MB{_difference(plan) if known else ''}")
    if plan.gone:
        console.plan("removed", _some(plan.gone), warn=True)
    elif not known:
        console.plan("removed", "what else the Space has")
    if plan.replaced:
        console.plan("replaced", f"{', '.join(plan.replaced)} on the Space, by what .env has", warn=True)
    if plan.left:
        console.plan("kept", f"only the Space has {', '.join(plan.left)}: that stays as it is", warn=True)
    if SECRET in plan.secrets and env.space not in (None, plan.space) and env.by_workers:
        told = (
            f"{SECRET} in .env is {env.space}'s: this Space will take the same worker's key, and each worker draws for "
            "the one Space that its SPACE names. A folder with an .env of its own keeps them apart"
        )
        console.plan("shared", told, warn=True)
    if env.repaired:
        told = f"{', '.join(env.repaired)} in .env holds invisible characters or line ends: they are left out"
        console.plan("cleaned", told, warn=True)


def _difference(plan: DeployPlan) -> str:
    same = len(plan.files) - len(plan.new) - len(plan.changed)
    parts = ((len(plan.new), "new"), (len(plan.changed), "changed"), (same, "as they are"))
    return ": " + ", ".join(f"{count} {what}" for count, what in parts if count)


def _some(paths: tuple[str, ...], count: int = 6) -> str:
    more = f" and {len(paths) - count} more" if len(paths) > count else ""
    return f"{', '.join(paths[:count])}{more}"


def _agree(console: Console, plan: DeployPlan, *, yes: bool) -> None:
    """Asks before anything is lost. Raises: UsageError without a yes."""
    if yes or not plan.overwrites:
        return
    console.check = "agreement"
    if console.as_json or not sys.stdin.isatty():
        raise UsageError(f"{plan.space} would be overwritten as told above, and nobody can be asked: add --yes.")
    console.say("")
    if input("Overwrite it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("Nothing was changed.")


def _carry_out(console: Console, hub: Hub, plan: DeployPlan) -> tuple[str, bool]:
    """Settings, then files: the new program starts with what it needs. Returns the commit, and if it is private."""
    space, state = plan.space, plan.state
    console.interrupted = f"{SECRET} is in {ENV_FILE}; of the rest nothing or a part was done. {_SAME_COMMAND}"
    if state is None:
        console.begin("space", "creating it with its settings")
        hub.create(space, plan.secrets, plan.variables)
        console.ok("space", "created")
        state = hub.space(space)
        there = set(hub.files(space))
    else:
        console.begin("settings", "setting secrets and variables")
        for name, value in plan.secrets.items():
            hub.set_secret(space, name, value)
        for name, value in plan.variables.items():
            hub.set_variable(space, name, value)
        there = set(plan.gone)
    console.ok("settings", _counted(plan))
    console.interrupted = f"The settings are set; the files are there wholly or not at all. {_SAME_COMMAND}"
    console.begin("files", "uploading them")
    before = state.commit if state else None
    gone = sorted(there - set(plan.files))
    if before and not (plan.new or plan.changed or gone):
        commit = before
        console.ok("files", "as they are already")
    else:
        commit = hub.commit(space, plan.files, gone, before)
        console.ok("files", f"uploaded, commit {commit[:8]}")
    if state and state.stage in RESTING and not state.is_flagged:
        hub.restart(space)
    return commit, bool(state and state.private)


def _counted(plan: DeployPlan) -> str:
    counts = ((len(plan.secrets), "secret"), (len(plan.variables), "variable"))
    return " and ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts if count) + " set"


def _tell_home(console: Console, line: str, *, private: bool) -> None:
    if console.as_json:
        console.row("ok", "worker", line, "Run it on the machine with the GPU. It holds the worker's key.")
        return
    console.say("\nNow the machine with the GPU. In a clone of this repository there, first:")
    console.say()
    console.verbatim("docker build -t draw inference_server")
    console.say(
        "\nThen this line. It holds the key, so keep it to yourself; `python manage.py worker-key` prints it again."
    )
    console.say()
    console.verbatim(line)
    if "=OWNER/MODEL " in line:
        console.say("\nPut a model's id at the Hub in place of OWNER/MODEL (or set MODEL_ID in .env).")
    if private:
        console.say("\nThe Space is private: add -e HF_TOKEN=... with a token that may read it.")
