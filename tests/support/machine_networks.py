"""The networks of three machines in tests: a Space that reaches ports 80, 443 and 8080 alone, a public VM, a GPU box
behind NAT. Each is a network namespace; a fourth one stands for the internet, a fifth for the router at home, which
lets nothing in.
"""

from tests.support.docker_engines import Namespace, connect, forget_name_servers

VM, HOME = "203.0.113.7", "198.51.100.2"  # the first is that of docs/swarm.md
PORTS_OF_A_SPACE = "80,443,8080"
# Registries on the internet: one that refuses, and one that lets nobody in and does not say so.
REFUSING, SILENT = "198.51.100.1:5000", "198.51.100.1:5001"


def lay_cables(internet: Namespace, space: Namespace, vm: Namespace, router: Namespace, home: Namespace) -> None:
    connect(internet, "192.0.2.1/24", space, "192.0.2.2/24")
    connect(internet, "203.0.113.1/24", vm, f"{VM}/24")
    connect(internet, "198.51.100.1/24", router, f"{HOME}/24")
    connect(router, "192.168.77.1/24", home, "192.168.77.2/24")
    for machine, gateway in (
        (space, "192.0.2.1"),
        (vm, "203.0.113.1"),
        (router, "198.51.100.1"),
        (home, "192.168.77.1"),
    ):
        machine.run("ip", "route", "add", "default", "via", gateway)
    forget_name_servers(vm, home)
    for machine in (internet, router):
        machine.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    _allow_outwards_only(router, end_of_cable(router, internet))
    internet.run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", SILENT.partition(":")[2], "-j", "DROP")
    for rule in (
        "-A OUTPUT -o lo -j ACCEPT",
        f"-A OUTPUT -p tcp -m multiport --dports {PORTS_OF_A_SPACE} -j ACCEPT",
        "-P OUTPUT DROP",
    ):
        space.run("iptables", *rule.split())


def _allow_outwards_only(router: Namespace, outside: str) -> None:
    """NAT: what is inside may call out; nothing that comes from outside unasked gets in, or an answer."""
    for rule in (
        f"-t nat -A POSTROUTING -o {outside} -j MASQUERADE",
        f"-A FORWARD -i {outside} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        f"-A FORWARD -i {outside} -j DROP",
        f"-A INPUT -i {outside} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        f"-A INPUT -i {outside} -j DROP",
    ):
        router.run("iptables", *rule.split())


def end_of_cable(machine: Namespace, other: Namespace) -> str:
    """The name of the machine's end of the cable to the other."""
    return f"{machine.name[-6:]}-{other.name[-6:]}"[:15]
