"""A process that gets a chain ready as a Space does, whenever it is told to: a line on stdin, one of JSON on stdout.

Its argument is JSON: the chain's settings, and by how many seconds its clock is wrong.
"""

import functools
import json
import sys
import time

from backends.fair_chain import FairChain
from errors import SpaceError
from fair_api.client import DeadlineFairClient
from fair_services import ChainSettings
from tests.support.fair_servers import EMAIL, PASSWORD
from tests.support.reconcile_bench import QUICK, SECRET


def main() -> None:
    given = json.loads(sys.argv[1])
    real_time = time.time
    time.time = lambda: real_time() + given["clock_off_s"]
    connect = functools.cache(lambda: DeadlineFairClient(given["url"], EMAIL, PASSWORD))
    chain = FairChain(ChainSettings(**given["chain"]), connect, secret=SECRET, kind="fair", timing=QUICK)
    print("up", flush=True)
    for _ in sys.stdin:
        chain._ready.clear()  # as a drawing does that fails
        try:
            chain.ensure(lambda event: None, lambda: False)
            outcome = "ready"
        except SpaceError as error:
            outcome = type(error).__name__
        print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
