"""What a node's GPU may be used for in a day: how much of it programs have used, and what is refused beyond it.

A day is one of UTC. Counted are the minutes in which programs with `runtime: nvidia` run, drawing or not, and how many
of them were started; what the server knows of ended programs is kept for 48 hours, so a restart forgets nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from fair_server.nodes import Node
from fair_server.program_state import Program

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Spent:
    """What a node's GPU was used for since the day began."""

    gpu_minutes: float = 0.0
    wake_ups: int = 0


def spent_today(programs: Iterable[Program], node: Node, now: datetime) -> Spent:
    """Counts the programs of the node; one that starts is a wake-up, one that never ran is none."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    minutes, wake_ups = timedelta(), 0
    for program in programs:
        if program.node.id != node.id or not _needs_gpu(program):
            continue
        began, ended = program.started_at, program.ended_at or now
        if began is None:
            wake_ups += program.starting and program.ended_at is None
            continue
        wake_ups += began >= midnight
        minutes += max(timedelta(), min(ended, now) - max(began, midnight))
    return Spent(minutes / timedelta(minutes=1), wake_ups)


def refusal(program: Program, spent: Spent, now: datetime) -> str | None:
    """Why the program's node wakes no GPU for it today, and when it will; None where it does."""
    node = program.node
    if not _needs_gpu(program):
        return None
    if _has_no_minutes(node, spent):
        return _used_up(node, f"{node.max_gpu_minutes_per_day:g} GPU minutes", "max_gpu_minutes_per_day", now)
    if node.max_wake_ups_per_day is not None and spent.wake_ups >= node.max_wake_ups_per_day:
        return _used_up(node, f"{node.max_wake_ups_per_day} wake-ups", "max_wake_ups_per_day", now)
    return None


def why_unwanted(program: Program, is_drained: bool, spent: Spent, now: datetime) -> str | None:
    """Why a program that starts or runs is to end; None where it may go on."""
    if not program.starting or program.ended_at is not None:
        return None
    if is_drained:
        return f"Node {program.node.name} is drained by its owner."
    if _needs_gpu(program) and _has_no_minutes(program.node, spent):
        return refusal(program, spent, now)
    return None


def _needs_gpu(program: Program) -> bool:
    return program.request.container.runtime == "nvidia"


def _has_no_minutes(node: Node, spent: Spent) -> bool:
    return node.max_gpu_minutes_per_day is not None and spent.gpu_minutes >= node.max_gpu_minutes_per_day


def _used_up(node: Node, used: str, setting: str, now: datetime) -> str:
    tomorrow = f"{now + _DAY:%d %B} 00:00 UTC"
    return f"Node {node.name} has used its {used} of today. It is woken again on {tomorrow}; {setting} bounds it."
