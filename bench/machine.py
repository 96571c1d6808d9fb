"""The machine that the figures were taken on."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path

from bench.server import CLIENT_CPUS, SERVER_CPUS


def describe() -> dict[str, str]:
    """Return the machine, the system and its limits."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1024**3
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {
        "cpu": f"{os.cpu_count()} cores of {cpu}",
        "pinned": f"servers on {sorted(SERVER_CPUS)}, load client on {sorted(CLIENT_CPUS)}",
        "memory": f"{memory:.0f} GiB",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "open files": f"{soft} (ulimit -n), at most {hard} (ulimit -Hn)",
        "somaxconn": Path("/proc/sys/net/core/somaxconn").read_text().strip(),
    }
