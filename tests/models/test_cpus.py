"""How many CPUs there are for us: what the container may use, not what the host has."""

import os
from pathlib import Path

import pytest

from cutaway_server.models.threads import available_cpus

ALLOWED = len(os.sched_getaffinity(0))


def system(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, ALLOWED),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "90000000 100000\n"}, ALLOWED),
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "100000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 1),
        # a container that sees its host's path, while its own cgroup is what is mounted
        ("0::/kubepods/pod1\n", {"sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        # the older cgroups
        (
            "4:cpu,cpuacct:/\n",
            {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000"},
            1,
        ),
        ("1:cpu:/\n", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, ALLOWED),
        ("3:cpuset:/\n2:memory:/x\n", {}, ALLOWED),
    ],
)
def test_quotas(tmp_path: Path, cgroup: str, files: dict[str, str], expected: int) -> None:
    assert available_cpus(system(tmp_path, cgroup, files)) == min(expected, ALLOWED)


def test_a_system_without_cgroups(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == ALLOWED
