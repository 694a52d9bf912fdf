"""GPUs: what one is, and who may use which of them: whole ones for one job, shares of one for several."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

from fitness.mistakes import TooFewGpus
from fitness.target import Rung, Target

HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}  # what a process gets that wants none


@dataclass(frozen=True)
class Gpu:
    """A CUDA GPU that this process may use."""

    visible_as: str  # what CUDA_VISIBLE_DEVICES calls it: the number of nvidia-smi, or a UUID
    name: str
    memory_gb: float | None = None  # of 10**9 bytes; None: nobody says


class SlotsClosed(Exception):
    """A GPU was waited for when the engine ended."""


class GpuSlots:
    """Hands out GPUs, first come, first served: whoever wants many is not overtaken by those who want few.

    A job gets all that it wants at once or waits for all of it, so jobs that wait for each other cannot be. A share
    below 1 lies on the GPU with most left; whole ones are shared with nobody.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._free = dict.fromkeys(names, Fraction(1))
        self._line: deque[object] = deque()  # who waits, in the order of arrival
        self._changed = threading.Condition()
        self._closed = False

    @contextmanager
    def hold(self, wanted: float) -> Generator[tuple[str, ...]]:
        """Wait for `wanted` GPUs, or a share of one, and have them until the block ends; SlotsClosed after close()."""
        share = _share(wanted)
        names = self._take(wanted, share)
        try:
            yield names
        finally:
            with self._changed:
                for name in names:
                    self._free[name] += share
                self._changed.notify_all()

    def close(self) -> None:
        """Send everybody away who waits, now and later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, wanted: float, share: Fraction) -> tuple[str, ...]:
        count = math.ceil(wanted)
        assert count <= len(self._free), f"{wanted} of {len(self._free)} GPUs would be waited for in vain"
        if not count:
            return ()
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            self._changed.wait_for(lambda: self._closed or (self._line[0] is ticket and self._fits(count, share)))
            self._line.remove(ticket)
            self._changed.notify_all()  # the next in line may fit as well
            if self._closed:
                raise SlotsClosed
            names = self._best(count, share)
            for name in names:
                self._free[name] -= share
            return names

    def _fits(self, count: int, share: Fraction) -> bool:
        return len(self._best(count, share)) == count

    def _best(self, count: int, share: Fraction) -> tuple[str, ...]:
        """Return the `count` emptiest GPUs that have this share left, in the order they are listed."""
        fitting = sorted((name for name in self._free if self._free[name] >= share), key=lambda n: -self._free[n])
        chosen = set(fitting[:count])
        return tuple(name for name in self._free if name in chosen)


def visible(names: Sequence[str]) -> Mapping[str, str]:
    """Return the variables by which a process sees these GPUs and no others, numbered as nvidia-smi does."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if names else {}


def check_gpus(target: Target, gpus: Sequence[Gpu]) -> None:
    """Raise TooFewGpus for the first rung that wants more GPUs than there are."""
    for rung in target.rungs:
        if math.ceil(rung.gpus) > len(gpus):
            raise TooFewGpus(target.name, rung.name, math.ceil(rung.gpus), len(gpus))


def jobs_at_once(rungs: Sequence[Rung], n_gpus: int) -> int | None:
    """Return how many jobs the GPUs hold at most, of the rung that wants fewest; None if no rung wants any."""
    shares = [_share(rung.gpus) for rung in rungs if 0 < rung.gpus < 1]
    if shares:
        return n_gpus * max(1 // share for share in shares)
    counts = [int(rung.gpus) for rung in rungs if rung.gpus]
    return n_gpus // min(counts) if counts else None


def _share(wanted: float) -> Fraction:
    """Return what a job takes of each of its GPUs; 0.33 is a third less a little, 1/3 is one."""
    return Fraction(wanted).limit_denominator(1000) if wanted < 1 else Fraction(1)
