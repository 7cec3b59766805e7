# SPDX-License-Identifier: Apache-2.0
"""What it costs to look into a guest: wall and CPU seconds, and bytes read of its disk, that of a real dom0."""

from __future__ import annotations

import json
import resource
import time
from statistics import median

from donjon.audit.fact import Known
from donjon.audit.guest.inspect import SourceDisk, inspect_disks
from donjon.images.image import open_image
from donjon.images.inspection import probe
from lab.dom0_kit import dom0_kit

RUNS = 5
LEAST_PACKAGES = 150


class CountingDisk:
    """A disk that knows how much was read of it."""

    def __init__(self, disk: SourceDisk) -> None:
        self.size = disk.size
        self.got = 0
        self._disk = disk

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on."""
        self.got += length
        return self._disk.read(offset, length)


def cpu() -> float:
    """CPU seconds of this process and of those it waited for."""
    used = [resource.getrusage(whom) for whom in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Print the figures as JSON."""
    disk = dom0_kit().disk
    walls, cpus, read = [], [], 0
    for _ in range(RUNS):
        begin, used = time.perf_counter(), cpu()
        with open_image(probe(disk, "raw")) as image:
            counting = CountingDisk(SourceDisk(image))
            guest = inspect_disks([("disk", counting)])
        walls.append(time.perf_counter() - begin)
        cpus.append(cpu() - used)
        read = counting.got
        packages = guest.packages.all
        assert isinstance(packages, Known)
        assert len(packages.value) > LEAST_PACKAGES
    figures = {"wall s": round(median(walls), 2), "CPU s": round(median(cpus), 2), "read MiB": round(read / 2**20, 1)}
    print(json.dumps({"packages": len(packages.value), **figures}, indent=1))


if __name__ == "__main__":
    main()
