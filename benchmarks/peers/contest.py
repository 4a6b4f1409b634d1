"""Who is compared, and the rounds in which it is done."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from environments import Missing, set_up, set_up_common
from load import Broken, Conditions, in_process, running
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

CUTAWAY = cutaway.SERVER
PEERS = (torchserve.SERVER, kserve.SERVER, mlserver.SERVER, pytriton.SERVER, ray_serve.SERVER)
MARKS = (cutaway.OPEN, echo.SERVER, asyncio_ort.SERVER, serving_thread_ort.SERVER, bare.SERVER)
SERVERS = (CUTAWAY, *PEERS, *MARKS)
CALLERS = {"mnist": (1, 8, 32), "lite0": (1, 4, 16)}
CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # of mnist; Cutaway lets 256 wait
LONGEST_WARM_UP = 10  # measurements

Said = Callable[[str], None]
Found = dict[str, Any]


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


def hold(servers: tuple[Server, ...], networks: tuple[str, ...], conditions: Conditions, rounds: int) -> Iterator[Found]:
    """All servers in turn, round by round; every other round in the opposite order.

    Yields:
        What was found from each start of a server to its end.
    """
    for number in range(rounds):
        for network in networks:
            turns = [(server, engine) for server in servers if network in server.networks for engine in server.engines]
            for server, engine in turns[:: -1 if number % 2 else 1]:
                for callers in starts(server, network):
                    yield {"round": number, **measure(server, network, engine, callers, conditions)}
        if CUTAWAY in servers and "mnist" in networks:
            yield {"round": number, "curve": True, **measure(CUTAWAY, "mnist", CUTAWAY.engines[0], CURVE, conditions)}


def starts(server: Server, network: str) -> list[tuple[int, ...]]:
    """The numbers of callers that one start of a server is for."""
    alone = [(callers,) for of, callers in server.own_start if of == network]
    return [*alone, tuple(callers for callers in CALLERS[network] if (callers,) not in alone)]


def measure(server: Server, network: str, engine: str, callers: tuple[int, ...], conditions: Conditions) -> Found:
    """One start of a server; `failed` says why there are no figures, or not all."""
    found: Found = {"server": server.name, "network": network, "engine": engine, "runs": []}
    try:
        if server is bare.SERVER:
            found["runs"] = [in_process(server, network, engine, count, conditions) for count in callers]
            return found
        with running(server, network, engine, callers[0], conditions) as one:
            found["start_s"] = one.start_seconds
            if server.warm_up:
                one.load(max(callers), 0.1, min(server.warm_up, LONGEST_WARM_UP * conditions.seconds))
            found["runs"] += (one.load(count, conditions.seconds) for count in callers)
            found["memory_mib"] = memory_mib(one.process.pid)
    except (Broken, OSError, ValueError, subprocess.SubprocessError) as error:
        found["failed"] = str(error)
    return found


def words(found: Found) -> str:
    """A line about a start."""
    runs = "  ".join(f"{run['callers']}: {run['rps']:,.0f}/s" for run in found["runs"])
    about = f"round {found['round'] + 1}  {found['network']}  {found['server']} {found['engine']}"
    return f"{about}  {runs}  {found.get('failed', '')}".rstrip()
