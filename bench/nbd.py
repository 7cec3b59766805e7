# SPDX-License-Identifier: Apache-2.0
"""donjon's NBD client against nbdcopy, both reading from qemu-nbd, and its server against qemu-nbd, read by nbdcopy.

`bench/run` measures it with all the rest; `python bench/nbd.py --help` alone.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import report
from measure import BenchError, Command
from peers import Place
from rounds import Bench, Sample
from sparse import digest, same_content

CLIENT, SERVER = "NBD client", "NBD server"
OURS = Path(__file__).with_name("nbd_ours.py")
NEEDED = ("nbdcopy", "qemu-nbd")
START_S = 30.0


def measure_nbd(bench: Bench, rounds: int) -> None:
    """Read the image through client and server, in turn with their peers; all of it is compared first.

    Raises:
        BenchError: something failed, or what was read is not the image.
    """
    if missing := [program for program in NEEDED if shutil.which(program) is None]:
        print(f"bench: without NBD: {', '.join(missing)} not installed", file=sys.stderr)
        return
    image, folder = bench.place.image, bench.place.folder
    theirs, ours = folder / "qemu-nbd.socket", folder / "donjon.socket"
    qemu = ["qemu-nbd", "-r", "-t", "-e", "16", "-f", "raw", "-k", str(theirs), str(image)]
    with started(qemu, theirs), started([str(bench.python), str(OURS), "serve", str(ours), str(image)], ours):
        compare(bench, theirs, ours)
        reading = {"donjon": [str(bench.python), str(OURS), "read", str(theirs)], "nbdcopy": copy_from(theirs)}
        serving = {"donjon": copy_from(ours), "qemu-nbd": copy_from(theirs)}
        for number in range(rounds):
            for scenario, peers in ((CLIENT, reading), (SERVER, serving)):
                for peer in sorted(peers, reverse=bool(number % 2)):
                    bench.add(Sample(number, peer, scenario, **asdict(bench.measure(Command(peers[peer]), image))))


def copy_from(path: Path, target: str = "null:") -> list[str]:
    """nbdcopy, which reads all that is not known to be zero."""
    return ["nbdcopy", f"nbd+unix:///?socket={path}", target]


def compare(bench: Bench, theirs: Path, ours: Path) -> None:
    """Read all of the image by our client, and from our server."""
    if bench.helper(OURS.name, "digest", theirs).strip() != digest(bench.place.image):
        raise BenchError("donjon's NBD client read something else than the image")
    copy = bench.place.folder / "nbd-copy"
    bench.measure(Command(copy_from(ours, str(copy))), bench.place.image)
    if not same_content(copy, bench.place.image):
        raise BenchError("donjon's NBD server served something else than the image")
    copy.unlink()


@contextmanager
def started(argv: Sequence[str], path: Path) -> Iterator[None]:
    """Keep a server running."""
    with subprocess.Popen(argv) as process:
        try:
            wait_for(process, path)
            yield
        finally:
            process.terminate()


def wait_for(process: subprocess.Popen[bytes], path: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.05)
    raise BenchError(f"cannot reach the server at {path}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/nbd.py", description="Measures donjon's NBD client and server.")
    parser.add_argument("--gib", type=float, default=4.0, help="size of the image (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--workdir", type=Path, help="default: a temporary folder; needs twice the image's size")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
        bench = Bench(Place(Path(folder), Path(sys.executable).with_name("donjon")), Path(sys.executable))
        bench.helper("image.py", "create", bench.place.image, "--gib", options.gib, "--seed", 1)
        try:
            measure_nbd(bench, options.rounds)
        except BenchError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        for scenario in (CLIENT, SERVER):
            print(f"\n### {scenario}\n\n{report.scenario_table(bench.samples, scenario)}")
            print(f"\n{report.ratio_table(bench.samples, scenario)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
