"""`python -m fair_server`: the command line."""

import argparse
import getpass
import logging
import sys
from pathlib import Path

from fair_server.accounts import hash_line
from fair_server.errors import ConfigError
from fair_server.server import Options, serve
from fair_server.tokens import DEFAULT_TTL_S


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fair_server", description="A Fair server that runs programs on this machine."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, choices=range(65536), metavar="PORT", default=8000, help="0: a free one")
    parser.add_argument("--nodes", type=Path, metavar="FILE", help="TOML: [[node]] tables; without it a node `local`")
    parser.add_argument(
        "--accounts",
        type=Path,
        metavar="FILE",
        help="lines email:hash; without it FAIRCOMPUTE_EMAIL and FAIRCOMPUTE_PASSWORD",
    )
    parser.add_argument("--executor", choices=["process", "swarm"], default="process", help="what runs programs")
    parser.add_argument("--token-ttl-s", type=float, default=DEFAULT_TTL_S, metavar="S", help="life of a token (12 h)")
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
    if arguments.executor == "swarm":
        raise ConfigError("The swarm executor is not built yet. Use --executor process.")
    if arguments.token_ttl_s <= 0:
        raise ConfigError("--token-ttl-s must be above 0.")
    return Options(
        host=arguments.host,
        port=arguments.port,
        nodes=arguments.nodes,
        accounts=arguments.accounts,
        token_ttl_s=arguments.token_ttl_s,
        until_stdin_closes=arguments.until_stdin_closes,
        pass_on=tuple(arguments.pass_on),
    )


def _read_password() -> str:
    if sys.stdin.isatty():
        return getpass.getpass("Password: ")
    return sys.stdin.readline().rstrip("\r\n")


if __name__ == "__main__":
    main()
