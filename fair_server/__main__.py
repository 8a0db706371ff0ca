"""`python -m fair_server`: the command line."""

import argparse
import getpass
import logging
import math
import sys
from pathlib import Path
from typing import NoReturn

from fair_server.authentication import DEFAULT_TTL_S, hash_line, not_utf_8
from fair_server.errors import ConfigError
from fair_server.program_runner import UPLOAD_WAIT_S
from fair_server.server import Options, serve


def main() -> None:
    """Runs the server, or prints the line of an account. Exit status 2: wrong use."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    arguments = _parser().parse_args()
    try:
        if arguments.action == "hash":
            print(hash_line(arguments.email, _read_password()))
        else:
            serve(_options(arguments))
    except ConfigError as exc:
        print(f"fair_server: {exc}", file=sys.stderr)
        sys.exit(2)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fair_server: {message}. --help lists the options.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m fair_server",
        description="A Fair server: it runs programs on this machine, or on the nodes of a Docker swarm.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=_port, metavar="PORT", default=8000, help="0: a free one")
    parser.add_argument("--nodes", type=Path, metavar="FILE", help="TOML: [[node]] tables; without it a node `local`")
    parser.add_argument(
        "--accounts",
        type=Path,
        metavar="FILE",
        help="lines email:hash; without it FAIRCOMPUTE_EMAIL and FAIRCOMPUTE_PASSWORD",
    )
    parser.add_argument("--executor", choices=["process", "swarm"], default="process", help="what runs programs")
    parser.add_argument(
        "--docker-socket", metavar="PATH", default="/var/run/docker.sock", help="of the swarm's manager (%(default)s)"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM: the server speaks HTTPS with it")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM: the certificate's private key")
    parser.add_argument(
        "--token-ttl-s", type=_seconds, default=DEFAULT_TTL_S, metavar="S", help="life of a token (12 h)"
    )
    parser.add_argument(
        "--upload-wait-s",
        type=_seconds,
        default=UPLOAD_WAIT_S,
        metavar="S",
        help="how long a program waits for a client that puts no more of its files (30 s)",
    )
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end, with all programs, when standard input does"
    )
    parser.add_argument(
        "--pass-on",
        action="append",
        default=[],
        metavar="NAME",
        help="a variable of the server's environment that every program gets although it is named like a secret",
    )
    hashing = parser.add_subparsers(dest="action").add_parser(
        "hash", help="read a password from standard input and print the account's line"
    )
    hashing.add_argument("email")
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key go together: give both.")
    return Options(
        host=arguments.host,
        port=arguments.port,
        nodes=arguments.nodes,
        accounts=arguments.accounts,
        token_ttl_s=arguments.token_ttl_s,
        upload_wait_s=arguments.upload_wait_s,
        until_stdin_closes=arguments.until_stdin_closes,
        pass_on=tuple(arguments.pass_on),
        executor=arguments.executor,
        docker_socket=arguments.docker_socket,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
    )


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:  # nan is not
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _read_password() -> str:
    """Returns the first line of standard input, in UTF-8 whatever the locale: so do clients send it.

    Raises:
        ConfigError: it is not in UTF-8.
    """
    try:
        if sys.stdin.isatty():
            return getpass.getpass("Password: ")
        return sys.stdin.buffer.readline().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise not_utf_8() from None  # the first error quotes the password


if __name__ == "__main__":
    main()
