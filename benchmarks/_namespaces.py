"""Two machines in network namespaces, `home` and `space`, and the line between them. It needs root and iproute2."""

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import subprocess
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks._link import Quality, carry, open_tun

SPACE_ADDRESS, HOME_ADDRESS = "10.77.0.1", "10.77.0.2"  # the second until it changes
_COMMAND_S = 30
_PR_SET_PDEATHSIG = 1


def missing() -> str:
    """Why namespaces and a line between them cannot be had here; empty when they can."""
    if os.geteuid() != 0:
        return "this has to run as root: it makes network namespaces"
    if shutil.which("ip") is None:
        return "there is no `ip` on the PATH; on Debian, as root: apt-get install iproute2"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun: this kernel, or this container, has no TUN devices"
    try:
        name = f"try-{os.getpid()}"
        ip("netns", "add", name)
        ip("netns", "del", name)
    except RuntimeError as error:
        return f"no network namespace can be made here ({error})"
    return ""


def ip(*words: str) -> None:
    """Raises: RuntimeError with what `ip` said."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=_COMMAND_S)
    if done.returncode:
        raise RuntimeError(f"`ip {' '.join(words)}` failed: {done.stderr.strip()}")


class TwoMachines:
    """`home` and `space`: names of the namespaces, for `ip netns exec`. `cut` and `change_address` hurt the line."""

    def __init__(self, label: str, quality: Quality, seed: int) -> None:
        self.home, self.space = f"{label}-home", f"{label}-space"
        self._hosts = 1
        descriptors, devices = [], []
        try:
            for namespace, address in ((self.home, HOME_ADDRESS), (self.space, SPACE_ADDRESS)):
                device = f"t{abs(hash(namespace)) % 10**12}"
                ip("netns", "add", namespace)
                descriptors.append(open_tun(device))
                ip("link", "set", device, "netns", namespace)
                self._in(namespace, "link", "set", "lo", "up")
                self._in(namespace, "link", "set", device, "mtu", "1500", "up")
                self._in(namespace, "addr", "add", f"{address}/24", "dev", device)
                devices.append(device)
        except BaseException:
            self._remove()
            raise
        self._device, self._address = devices[0], HOME_ADDRESS
        self._orders, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_carry, args=(*descriptors, quality, seed, theirs), daemon=True)
        self._process.start()
        theirs.close()
        for descriptor in descriptors:
            os.close(descriptor)

    def cut(self, is_cut: bool) -> None:
        """Nothing passes, without either end being told; or all passes again."""
        self._orders.send(is_cut)

    def change_address(self) -> None:
        """The home's uplink has another address from now on; what was open from the old one is dead, silently."""
        self._hosts = self._hosts % 200 + 1
        new = f"10.77.0.{self._hosts + 2}"
        self._in(self.home, "addr", "add", f"{new}/24", "dev", self._device)
        self._in(self.home, "addr", "del", f"{self._address}/24", "dev", self._device)
        self._in(self.home, "addr", "replace", f"{new}/24", "dev", self._device)
        self._address = new

    def close(self) -> None:
        """Every program in the namespaces has ended before."""
        with contextlib.suppress(OSError):  # it has ended already
            self._orders.send(None)
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
        self._remove()

    def _remove(self) -> None:
        for namespace in (self.home, self.space):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, timeout=_COMMAND_S)

    def _in(self, namespace: str, *words: str) -> None:
        ip("-n", namespace, *words)


def _carry(near: int, far: int, quality: Quality, seed: int, orders: Connection) -> None:
    """In a process of its own, which ends with this one."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    carry(near, far, quality, seed, orders)
