"""How torch's threads wait for each other: they spin, or give their cores away; settled before torch is loaded.

Torch's CPU build uses GCC's OpenMP (libgomp), whose threads spin at every barrier. Beside another busy process a thread
that has lost its core then keeps the others spinning, and a step takes many times as long. With a short spin they sleep
instead. The order of sums is the same, and so is every byte. libgomp reads the environment once, when it is loaded;
processes that are started later inherit it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

Waiting = Literal["auto", "spin", "yield"]
SPIN_COUNT = "GOMP_SPINCOUNT"
SHORT_SPIN = "1000"
"""Rounds of a spin before a thread sleeps, a few microseconds."""
OWN_SETTINGS = (SPIN_COUNT, "OMP_WAIT_POLICY")
"""Environment variables by which users settle the matter themselves."""
LOOK_SECONDS = 0.2
"""How long is looked at what the cores do; the kernel counts in hundredths of a second."""
STATISTICS = Path("/proc/stat")
CoreTimes = dict[int, tuple[int, int]]
"""Core -> (idle time, all time), in the kernel's ticks since the start of the machine."""


def settle_waiting(waiting: Waiting, *, threads: int, busy: Callable[[], float | None] | None = None) -> str | None:
    """Set the environment for the libgomp that torch is going to load.

    Args:
        waiting: `spin`, `yield`, or `auto`: spin if as many cores are idle as there are threads, else yield.
        threads: of torch; 0: one a core.
        busy: number of cores that others keep busy, None where that is unknown; by default `busy_cores`.

    Returns: what was settled and why, one line for people; None where there is nothing to settle: torch is loaded
        already, or there is no libgomp.
    """
    if sys.platform != "linux" or "torch" in sys.modules:
        return None
    own = [f"{name}={os.environ[name]}" for name in OWN_SETTINGS if name in os.environ]
    if own:
        return f"waiting threads do as {' and '.join(own)} says"
    chosen, why = waiting, "runtime.waiting"
    if waiting == "auto":
        chosen, why = _by_idle_cores((busy or busy_cores)(), threads=threads)
    if chosen == "yield":
        os.environ[SPIN_COUNT] = SHORT_SPIN
    return f"waiting threads {chosen} ({why})"


def _by_idle_cores(taken: float | None, *, threads: int) -> tuple[Waiting, str]:
    """How threads should wait, and why, where others keep `taken` cores busy."""
    cores = len(os.sched_getaffinity(0))
    needed = min(threads or cores, cores)
    if taken is None:
        return "yield", f"what the cores do is unknown, threads: {needed}"
    idle, state = cores - round(taken), f"{taken:.1f} of {cores} cores are busy, threads: {needed}"
    if idle >= needed:
        return "spin", state
    if idle > 0:  # not chosen here: fewer threads add up in another order, and weights get other bytes
        state += f"; runtime.threads={idle} is likely faster now, and its weights are others in the last digits"
    return "yield", state


def busy_cores(seconds: float = LOOK_SECONDS) -> float | None:
    """How many of the cores that this process may use are busy while it sleeps; None where the kernel does not say."""
    before = _core_times()
    time.sleep(seconds)
    after = _core_times()
    passed = {core: after[core][1] - before[core][1] for core in before.keys() & after.keys()}
    if not passed or not all(passed.values()):
        return None
    return sum(1 - (after[core][0] - before[core][0]) / ticks for core, ticks in passed.items())


def _core_times() -> CoreTimes:
    """Times of the cores that this process may use. Fields: user, nice, system, idle, iowait and others (proc(5))."""
    try:
        lines = STATISTICS.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return {}
    times: CoreTimes = {}
    for name, *fields in (line.split() for line in lines if line.startswith("cpu")):
        number, ticks = name.removeprefix("cpu"), [int(field) for field in fields[:8]]
        if number.isdigit() and int(number) in os.sched_getaffinity(0):
            times[int(number)] = (ticks[3] + ticks[4], sum(ticks))
    return times
