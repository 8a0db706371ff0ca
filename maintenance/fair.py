"""`manage.py fair init`: files for fair_server on a VM, settings for the Space, and the commands for both machines.

The VM becomes the manager of a Docker swarm which the GPU's machine joins by an outbound connection. fair_server gets a
certificate of its own, which the Space knows by its SHA-256: the VM needs no name, nothing vouches for it.
"""

import hashlib
import ipaddress
import json
import secrets
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dotenv import set_key

from endpoint.credentials import new_secret
from maintenance.console import Console, UsageError
from maintenance.env_file import ENV_FILE, SECRET, read_env_file
from network.addresses import is_host

_ROOT = Path(__file__).resolve().parent.parent
_VALID = timedelta(days=10 * 365)
_HASH_S = 60
_VM_NODE = "vm"


def run(
    console: Console, *, space: str | None, action: str, vm: str, box: str, image: str, email: str, folder: Path
) -> None:
    """Writes the folder and `.env`, prints the rest. Raises: UsageError, SettingsError: nothing was written."""
    console.check = f"fair {action}"
    if not is_host(vm):
        raise UsageError(f"--vm {vm!r} is no host name and no IP address.")
    if box == _VM_NODE:
        raise UsageError(f"--box {box!r} is how the VM is called here: give the GPU's machine another host name.")
    if folder.exists():
        raise UsageError(f"{folder} is there already: move it away, or give another --folder.")
    env = read_env_file()
    given = [name for name in ("FAIRCOMPUTE_PASSWORD", "ENDPOINT_URL") if name in env.values]
    if given:
        raise UsageError(f"{ENV_FILE.resolve()} has {', '.join(given)} already: take it out, or run this elsewhere.")
    password = secrets.token_urlsafe(24)
    account = _account_line(email, password)
    folder.mkdir(mode=0o700, parents=True)
    sha256 = _write_certificate(folder, vm)
    _write(folder / "accounts", account)
    _write(folder / "nodes.toml", nodes_file(vm, box, image, env.settings.tunnel_image))
    console.ok("files", f"{folder.resolve()}: nodes.toml, accounts, tls.crt, tls.key")
    settings = {
        "FAIRCOMPUTE_EMAIL": email,
        "FAIRCOMPUTE_PASSWORD": password,
        "FAIRCOMPUTE_SERVER_ADDRESS": f"https://{vm}",
        "FAIRCOMPUTE_CERT_SHA256": sha256,
        "INFERENCE_NODE": box,
        "TUNNEL_NODE": _VM_NODE,
        "INFERENCE_IMAGE": image,
        SECRET: env.secret or new_secret(),
    }
    ENV_FILE.touch(mode=0o600)
    ENV_FILE.chmod(0o600)
    for name, value in settings.items():
        set_key(ENV_FILE, name, value, quote_mode="never", follow_symlinks=True)
    console.ok("settings", f"{ENV_FILE.resolve()}: the Fair account, its certificate's SHA-256, the nodes")
    _print_commands(console, vm, folder, space)


def nodes_file(vm: str, box: str, image: str, tunnel_image: str) -> str:
    """The nodes file: the VM for the tunnel's public end, the GPU's machine for the rest."""
    tunnel = json.dumps(tunnel_image)
    return f"""\
# What fair_server may run, and where. fair_server/README.md explains the keys.
[[node]]
name = "{_VM_NODE}"
swarm_node = "manager"
host_address = {json.dumps(vm)}
images = {{ {tunnel} = [] }}

[[node]]
name = {json.dumps(box)}
gpus = 1

[node.images]
{tunnel} = []
{json.dumps(image)} = {{ volumes = ["/data"] }}
"""


def _print_commands(console: Console, vm: str, folder: Path, space: str | None) -> None:
    box_daemon = '{"default-runtime": "nvidia", "node-generic-resources": ["NVIDIA-GPU=GPU-..."]}'
    for title, lines in (
        (
            "1. On the VM, whose firewall lets in TCP 443, 2377, 2333 and 8080:",
            [
                f"docker swarm init --advertise-addr {vm}",
                "docker build -t fair-server fair_server                  # in a clone of this repository",
            ],
        ),
        ("2. Here:", [f"scp -rp {folder} root@{vm}:/etc/fair"]),
        (
            "3. On the VM:",
            [
                "docker run -d --name fair --restart unless-stopped --network host "
                "-v /var/run/docker.sock:/var/run/docker.sock -v /etc/fair:/etc/fair:ro fair-server",
                "docker swarm join-token worker                           # prints the line for step 4",
            ],
        ),
        (
            "4. On the GPU's machine, once nvidia-container-toolkit is there and /etc/docker/daemon.json has "
            f"{box_daemon} (`nvidia-smi -L` prints the GPU's name):",
            ["docker build -t draw inference_server", f"docker swarm join --token SWMTKN-... {vm}:2377"],
        ),
        (
            "5. On the VM, once `docker node ls` shows both: the token ends to be valid.",
            ["docker swarm join-token --rotate --quiet worker > /dev/null"],
        ),
        ("6. Here:", [f"python manage.py deploy --space {space or 'OWNER/NAME'}"]),
    ):
        console.say()
        console.say(title)
        for line in lines:
            console.verbatim(f"  {line}")


def _account_line(email: str, password: str) -> str:
    """What fair_server's accounts file holds. Raises: UsageError where the email is none."""
    done = subprocess.run(
        [sys.executable, "-m", "fair_server", "hash", email],
        cwd=_ROOT,
        input=password,
        capture_output=True,
        text=True,
        timeout=_HASH_S,
        check=False,
    )
    if done.returncode:
        raise UsageError(done.stderr.strip().removeprefix("fair_server: "))
    return done.stdout


def _write_certificate(folder: Path, vm: str) -> str:
    """Writes tls.crt and tls.key; returns the certificate's SHA-256 in hexadecimal digits."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fair_server")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([_alternative_name(vm)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(folder / "tls.crt", certificate.public_bytes(serialization.Encoding.PEM).decode())
    unencrypted = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
    _write(folder / "tls.key", pem.decode())
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def _alternative_name(vm: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(vm))
    except ValueError:
        return x509.DNSName(vm)


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
