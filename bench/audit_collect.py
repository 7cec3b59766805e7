# SPDX-License-Identifier: Apache-2.0
"""What collecting costs: wall and CPU seconds on this machine, and wall seconds of many hosts over ssh.

The hosts are one sshd on the loopback under many names: collecting itself is done by this machine for all of them.
Needs root and sshd; the machine must be idle.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from donjon.audit.collect.collecting import collect, collect_many
from donjon.audit.collect.target import parse_target
from donjon.errors import DonjonError

LIMITS = {"wall": 5.0, "CPU": 1.0, "hosts": 30.0}


def alone(runs: int) -> tuple[float, float]:
    """Best wall and CPU seconds of collecting here."""
    best_wall = best_cpu = float("inf")
    for _ in range(runs):
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        collect(parse_target("local"), io.BytesIO())
        wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best_wall, best_cpu = min(best_wall, wall), min(best_cpu, cpu)
    return best_wall, best_cpu


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[list[str]]:
    """Names under which ssh finds an sshd of our own."""
    for key in ("host_key", "client_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/client_key.pub\nPermitRootLogin prohibit-password\nMaxStartups 200\n"
    )
    key = " ".join((folder / "host_key.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {key}\n")
    (folder / "config").write_text(
        f"Host host*\n HostName 127.0.0.1\n Port {port}\n IdentityFile {folder}/client_key\n IdentitiesOnly yes\n"
        f" IdentityAgent none\n UserKnownHostsFile {folder}/known_hosts\n"
    )
    (folder / "bin").mkdir()
    ssh = folder / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    ssh.chmod(0o755)
    os.environ["PATH"] = f"{ssh.parent}:{os.environ['PATH']}"
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    daemon = subprocess.Popen([shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-f", folder / "sshd_config"])
    try:
        time.sleep(0.5)
        yield [f"ssh://root@host{number}" for number in range(count)]
    finally:
        daemon.terminate()
        daemon.wait()


def many(count: int) -> tuple[float, int]:
    """Wall seconds of collecting from so many hosts, and how many of them failed."""
    with tempfile.TemporaryDirectory() as name, hosts(count, Path(name)) as names:
        into = Path(name) / "bundles"
        into.mkdir()
        begin = time.perf_counter()
        found = collect_many([parse_target(text) for text in names], into)
        wall = time.perf_counter() - begin
    return wall, sum(isinstance(result, DonjonError) for result in found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--runs", type=int, default=5, help="of collecting here; the best counts")
    options = parser.parse_args()
    wall, cpu = alone(options.runs)
    print(f"collect here, wall      {wall:6.2f} s   (limit {LIMITS['wall']:g})")
    print(f"collect here, CPU       {cpu:6.2f} s   (limit {LIMITS['CPU']:g})")
    wall, failed = many(options.hosts)
    print(f"{options.hosts:3d} hosts over ssh      {wall:6.2f} s   (limit {LIMITS['hosts']:g}), {failed} failed")


if __name__ == "__main__":
    main()
