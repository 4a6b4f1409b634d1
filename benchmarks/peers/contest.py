"""Who is compared, and the rounds in which it is done."""

import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments import Missing, set_up, set_up_common
from load import WARM_UP, Broken, Conditions, in_process, running
from processes import memory_mib
from server import Server
from servers import (
    asyncio_ort,
    cutaway,
    echo,
    kserve,
    mlserver,
    pytriton,
    ray_serve,
    serving_thread_ort,
    torchserve,
)
from servers import in_process as bare

CUTAWAY, FIRST, NARROW = cutaway.SERVER, cutaway.FIRST, cutaway.NARROW
PEERS = (torchserve.SERVER, kserve.SERVER, mlserver.SERVER, pytriton.SERVER, ray_serve.SERVER)
MARKS = (cutaway.OPEN, echo.SERVER, asyncio_ort.SERVER, serving_thread_ort.SERVER, bare.SERVER)
SERVERS = (CUTAWAY, FIRST, *PEERS, *MARKS, NARROW)
IN_TURN = (CUTAWAY, NARROW, *MARKS, *PEERS, FIRST)  # what a run that is broken off should have, first
CALLERS = {"mnist": (1, 8, 32), "lite0": (1, 4, 16)}
CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # callers of mnist
CURVED = ((CUTAWAY.name, "auto"), (torchserve.SERVER.name, "eager"))  # the peer that many callers do best with
OVERLOAD = 512  # callers of Cutaway, which lets 256 wait
BESIDE = 1.0  # seconds that a measurement takes besides load: waiting for quiet, connecting, ending

Said = Callable[[str], None]
Found = dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """One start of a server, and the numbers of callers that it then meets, in this order."""

    round: int
    server: Server
    network: str
    engine: str
    callers: tuple[int, ...]

    def seconds(self, conditions: Conditions) -> float:
        """That it takes, about."""
        one = conditions.seconds[self.network] + WARM_UP + BESIDE
        return self.server.start + self.server.warm_up_seconds(self.network) + one * len(self.callers)


def set_up_all(servers: tuple[Server, ...], home: Path, say: Said) -> dict[str, str]:
    """Sets up what is missing, one after the other.

    Returns:
        Why servers cannot be started, by name.
    Raises:
        Missing: none can.
    """
    missing = {}
    set_up_common(home)
    for server in servers:
        say(f"setting up {server.name}")
        try:
            set_up(home, server)
        except (Missing, OSError) as error:
            missing[server.name] = f"not set up: {error}"
            say(f"  {missing[server.name]}")
    return missing


def turns(servers: Iterable[Server], networks: Iterable[str], rounds: int) -> list[Turn]:
    """All servers in turn, network by network, round by round; every other round in the opposite order."""
    found = []
    for number in range(rounds):
        for network in networks:
            once = [
                Turn(number, server, network, engine, callers)
                for server in IN_TURN
                if server in servers and network in server.networks
                for engine in server.engines
                for callers in starts(server, network, engine)
            ]
            found += once[:: -1 if number % 2 else 1]
    return found


def starts(server: Server, network: str, engine: str) -> list[tuple[int, ...]]:
    """The numbers of callers that one start of a server is for: the usual ones, then those of the curve."""
    if server is NARROW:
        return [CURVE[-1:]]
    alone = [(callers,) for of, callers in server.own_start if of == network]
    usual = tuple(callers for callers in CALLERS[network] if (callers,) not in alone)
    if network == "mnist" and (server.name, engine) in CURVED:
        usual += tuple(callers for callers in CURVE if callers not in CALLERS[network])
        usual += (OVERLOAD,) if server is CUTAWAY else ()
    return [*alone, usual]


def fill_engine_cache(conditions: Conditions) -> None:
    """Cutaway chooses its engine for the folder anew, once for the whole run.

    Raises:
        Broken: it does not start.
    """
    shutil.rmtree(cutaway.engine_cache(conditions.home), ignore_errors=True)
    with running(CUTAWAY, "lite0", "auto", 1, conditions):
        pass


def measure(turn: Turn, conditions: Conditions) -> Found:
    """One start of a server; `failed` says why there are no figures, or not all."""
    server, network, engine = turn.server, turn.network, turn.engine
    found: Found = {"round": turn.round, "server": server.name, "network": network, "engine": engine, "runs": []}
    runs = found["runs"]
    try:
        if server is bare.SERVER:
            runs += (in_process(server, network, engine, count, conditions) for count in turn.callers)
            return found
        with running(server, network, engine, turn.callers[0], conditions) as one:
            found["start_s"] = one.start_seconds
            usual = [count for count in turn.callers if count in CALLERS[network]]
            if warm_up := server.warm_up_seconds(network):
                one.load(max(usual), 0.1, warm_up)
            runs += (one.load(count, conditions.seconds[network]) for count in usual)
            if CALLERS[network][-1] in usual:
                found["memory_mib"] = memory_mib(one.process.pid)
            runs += (one.load(count, conditions.seconds[network]) for count in turn.callers if count not in usual)
    except (Broken, OSError, ValueError, subprocess.SubprocessError) as error:
        found["failed"] = str(error)
    return found


def words(found: Found) -> str:
    """A line about a start."""
    runs = "  ".join(f"{run['callers']}: {run['rps']:,.0f}/s" for run in found["runs"])
    about = f"round {found['round'] + 1}  {found['network']}  {found['server']} {found['engine']}"
    return f"{about}  {runs}  {found.get('failed', '')}".rstrip()
