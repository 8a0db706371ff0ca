"""Logins while somebody guesses passwords, on a clock that the test moves."""

import asyncio
from collections.abc import Callable, Coroutine

from fair_server.authentication import Accounts
from fair_server.errors import ApiError
from fair_server.login_queue import LoginQueue


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


class PlainAccounts(Accounts):
    """Accounts of which `right` is everybody's password, verified at once."""

    verified = 0

    def _is_right(self, email: str, password: str) -> bool:
        self.verified += 1
        return password == "right"


async def guesses(accounts: Accounts, count: int, address: str) -> list[int]:
    """The statuses of wrong logins, all at once."""

    async def guess() -> int:
        try:
            await accounts.check("me@example.org", "wrong", address)
        except ApiError as error:
            return error.status
        return 200

    return await asyncio.gather(*(guess() for _ in range(count)))


def given(scenario: Callable[[PlainAccounts, Clock], Coroutine[None, None, None]]) -> None:
    """Runs the scenario with accounts on a clock."""
    clock = Clock()
    asyncio.run(scenario(PlainAccounts({}, LoginQueue(lambda: clock.now, clock.sleep)), clock))


def test_fifty_at_once() -> None:
    """Fifty wrong logins at once are all told that they are wrong, without a pause."""

    async def scenario(accounts: PlainAccounts, clock: Clock) -> None:
        assert await guesses(accounts, 50, "192.0.2.1") == [401] * 50
        assert clock.slept == []

    given(scenario)


def test_guessing_is_slow() -> None:
    """After fifty wrong ones an address has one verified a second, and few may wait; after minutes it is forgiven."""

    async def scenario(accounts: PlainAccounts, clock: Clock) -> None:
        await guesses(accounts, 50, "192.0.2.1")
        told = await guesses(accounts, 20, "192.0.2.1")
        assert (told.count(401), told.count(503)) == (8, 12)
        assert clock.slept == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
        assert accounts.verified == 58
        clock.now += 600
        assert await guesses(accounts, 40, "192.0.2.1") == [401] * 40

    given(scenario)


def test_right_passwords_pass() -> None:
    """A right password from elsewhere waits for no guess; one that was right before passes from the same address."""

    async def scenario(accounts: PlainAccounts, clock: Clock) -> None:
        await guesses(accounts, 70, "192.0.2.1")
        clock.slept.clear()
        assert await accounts.check("Me@example.org", "right", "192.0.2.2") == "me@example.org"
        verified = accounts.verified
        assert await accounts.check("me@example.org", "right", "192.0.2.1") == "me@example.org"
        assert (clock.slept, accounts.verified) == ([], verified)
        assert await guesses(accounts, 1, "192.0.2.2") == [401], "another password is another login"

    given(scenario)


def test_addresses() -> None:
    """The addresses of one IPv6 network are one; those of IPv4 are not."""

    async def scenario(accounts: PlainAccounts, clock: Clock) -> None:
        await guesses(accounts, 60, "2001:db8::1")
        await guesses(accounts, 2, "2001:db8::2")
        assert clock.slept
        clock.slept.clear()
        await guesses(accounts, 2, "2001:db8:0:1::1")
        await guesses(accounts, 2, "192.0.2.9")
        assert clock.slept == []

    given(scenario)
