# SPDX-License-Identifier: Apache-2.0
"""What a disk of 4 TiB costs that holds next to nothing: memory must not grow with the size of the disk."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path

from measure import BenchError
from peers import Place, donjon
from rounds import Bench, Sample, back_up, fresh_folder
from sparse import same_content

SIZE = 4 << 40
PIECE = 1 << 20
PIECES = 256


def measure_giant(bench: Bench) -> None:
    """Back up and restore the disk with donjon.

    Raises:
        BenchError: it failed, or did not give back what it was given.
    """
    place = Place(bench.place.folder / "giant", bench.place.donjon)
    within = Bench(place, bench.python)
    peer = donjon(place)
    with fresh_folder(place.folder):
        make_giant(place.image)
        back_up(within, 0, peer, "full")
        with fresh_folder(place.out):
            cost = within.measure(peer.restore, peer.repository)
            if not same_content(place.image, peer.restored):
                raise BenchError("donjon gave back something else for the disk of 4 TiB")
        within.add(Sample(0, peer.name, "restore", **asdict(cost)))
    bench.samples += [replace(sample, scenario=f"4 TiB, {sample.scenario}") for sample in within.samples]


def make_giant(path: Path) -> None:
    """1 MiB of noise every 16 GiB, aligned to pages only."""
    with path.open("wb", buffering=0) as image:
        os.truncate(image.fileno(), SIZE)
        for index in range(PIECES):
            os.pwrite(image.fileno(), os.urandom(PIECE), index * (SIZE // PIECES) + index * 4096)
