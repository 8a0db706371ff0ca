"""Logins and tokens: how passwords are checked, and how long a token is good."""

import asyncio
import threading

from fair_server.authentication import Accounts, Tokens


def test_logins_are_checked_off_the_event_loop() -> None:
    """However long passwords take to be checked, the server goes on with all else."""
    begun, go_on = threading.Event(), threading.Event()

    class SlowAccounts(Accounts):
        def _is_right(self, email: str, password: str) -> bool:
            begun.set()
            in_time = go_on.wait(60)
            go_on.set()  # where that failed the others need not wait, too
            return in_time

    async def scenario() -> None:
        accounts = SlowAccounts({})
        logins = [asyncio.create_task(accounts.check("one", "password")) for _ in range(50)]
        assert await asyncio.to_thread(begun.wait, 60)
        go_on.set()
        assert await asyncio.gather(*logins) == ["one"] * 50

    asyncio.run(scenario())


def test_tokens_expire() -> None:
    """A token names its account until its time is over."""
    now = 0.0
    tokens = Tokens(ttl_s=10, clock=lambda: now)
    token = tokens.issue("one")
    now = 9.9
    assert tokens.account_of(token) == "one"
    now = 10.0
    assert tokens.account_of(token) is None
    assert tokens.account_of(tokens.issue("two")) == "two"
