"""What processes take of the machine, read from /proc."""

import os
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat behind the name: parent; user and system time, own and of ended children; when it began
_PARENT, _USED, _BORN = 1, slice(11, 15), 19


def family(pid: int) -> list[int]:
    """A process and all that it started and that still run."""
    parents = {int(path.name): int(stat[_PARENT]) for path in Path("/proc").glob("[0-9]*") if (stat := _stat(path))}
    found = [pid] if pid in parents else []
    for parent in found:  # grows meanwhile
        found += [child for child, of in parents.items() if of == parent]
    return found


def born(pid: int) -> str:
    """When a process began, in ticks; empty if it is no more."""
    stat = _stat(Path(f"/proc/{pid}"))
    return stat[_BORN] if stat else ""


def cpu_seconds(pid: int) -> float:
    """That the family has taken so far."""
    stats = [_stat(Path(f"/proc/{one}")) for one in family(pid)]
    return sum(int(ticks) for stat in stats for ticks in stat[_USED]) / _TICK


def machine_cpu_seconds() -> float:
    """That all processes have taken so far."""
    user, nice, system, _, _, *interrupts = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    return sum(map(int, (user, nice, system, *interrupts))) / _TICK


def memory_mib(pid: int) -> float:
    """Resident memory of the family.

    One process counts whole (RSS): what it shares with strangers depends on who else runs. Of several, a page that they share
    counts for each by its share (PSS), or it would count several times.
    """
    members = family(pid)
    return sum(_kib(one, "Pss" if len(members) > 1 else "Rss") for one in members) / 1024


def _stat(path: Path) -> list[str]:
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return []


def _kib(pid: int, measure: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{measure}:"))
