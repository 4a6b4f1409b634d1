"""Cutaway beside the servers that one would otherwise take, in one run on one machine: the same networks and client, in turn.

Sets up what is missing, measures, and prints the tables of docs/peers.md. A run of all servers writes them there, with the charts.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contest import CUTAWAY, SERVERS, fill_engine_cache, measure, set_up_all, turns, words
from environments import Missing
from load import Broken, Conditions
from networks import CLASSES

RESULTS = "results.json"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [server.name for server in SERVERS]
    parser.add_argument("--setup", action="store_true", help="set up what is missing, and measure nothing")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of {', '.join(names)}; repeatable")
    parser.add_argument("--network", action="append", choices=list(CLASSES), help="repeatable (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    seconds = "of one measurement of mnist; one of EfficientNet-Lite0 lasts twice as long (default: %(default)s)"
    parser.add_argument("--seconds", type=float, default=1.3, help=seconds)
    parser.add_argument("--home", type=Path, default=Path(".cache/peers"), help="where all is set up (default: %(default)s)")
    wait = "that a measurement waits at most for other programs to leave the CPUs alone (default: %(default)s)"
    parser.add_argument("--wait", type=float, default=3, metavar="SECONDS", help=wait)
    parser.add_argument("--table", action="store_true", help="measure nothing; write page and charts again from the last results")
    parser.add_argument("--json", action="store_true", help="print results as JSON instead of tables")
    return parser.parse_args()


def measured(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Sets up, measures, and keeps in a file what was found so far.

    Raises:
        Missing: nothing can be measured.
    """
    servers = tuple(server for server in SERVERS if not options.only or server.name in options.only)
    missing = set_up_all(servers, home, say)
    about = {"rounds": options.rounds, "seconds": options.seconds, "machine": machine(), "missing": missing}
    results: dict[str, Any] = {**about, "found": []}
    if options.setup:
        return results
    there = tuple(server for server in servers if server.name not in missing)
    conditions = Conditions(home, {"mnist": options.seconds, "lite0": 2 * options.seconds}, options.wait)
    networks = tuple(options.network or CLASSES)
    if CUTAWAY in there and "lite0" in networks:
        try:
            fill_engine_cache(conditions)
        except Broken as error:
            say(f"Cutaway: {error}")
    planned = turns(there, networks, options.rounds)
    left = sum(turn.seconds(conditions) for turn in planned)
    say(f"{len(planned)} starts, {sum(len(turn.callers) for turn in planned)} measurements, about {left / 60:.0f} min")
    began = time.monotonic()
    for turn in planned:
        found = measure(turn, conditions)
        left -= turn.seconds(conditions)
        say(f"{max(left, 0) / 60:4.0f} min left  {words(found)}")
        results["found"].append(found)
        (home / RESULTS).write_text(json.dumps(results))
    say(f"measured for {(time.monotonic() - began) / 60:.0f} min")
    return results


def machine() -> dict[str, str]:
    cpu = next(
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    )
    versions = {name: version(name) for name in ("torch", "onnxruntime", "grpcio")}
    return {"CPUs": f"{len(os.sched_getaffinity(0))} of {cpu}", "Python": platform.python_version(), **versions}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    options = arguments()
    home = options.home.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("peers: told to end"))  # not without the server that runs
    if options.table:
        results = json.loads((home / RESULTS).read_text())
    else:
        try:
            results = measured(options, home)
        except Missing as error:
            raise SystemExit(f"peers: {error}") from error
        if options.setup:
            return
    from table import report, write

    print(json.dumps(results) if options.json else report(results))
    if options.table or not (options.only or options.network):
        from chart import draw  # here: matplotlib takes memory and a second

        draw(results)
        write(results)


if __name__ == "__main__":
    main()
