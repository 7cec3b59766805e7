# SPDX-License-Identifier: Apache-2.0
"""A Xen dom0 that runs under emulation, with a PV guest; commands are run in it by ssh.

QEMU loads Xen itself as a multiboot kernel, with the dom0's kernel and initramfs as its modules; no boot loader is
needed. Source: QEMU "Direct Linux Boot", Xen misc/efi and xl.cfg(5).
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from lab import LabError
from lab.dom0_kit import Dom0Kit
from lab.programs import require, run

PROGRAMS = {"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "ssh": "openssh-client"}
# Without AVX and SMAP, which crash PV kernels under QEMU's emulation; AMD's virtualisation is emulated, too.
CPU = "Opteron_G3,+svm,+npt"
MEMORY_MIB = 1536
XEN_OPTIONS = "dom0_mem=768M,max:768M console=com1 com1=115200,8n1 sched=credit"
LINUX_OPTIONS = "root=/dev/vda rw console=hvc0 net.ifnames=0 systemd.show_status=0"
BOOT_TIME_S = 420
STOP_TIME_S = 20


@dataclass(frozen=True, slots=True)
class Dom0:
    """A dom0 that runs; `console` is the file that gets what Xen and the kernel say."""

    port: int
    key: Path
    console: Path

    def run(self, command: str, stdin: str = "", timeout_s: float = 120) -> str:
        """What a shell command writes to its standard output. Raises LabError if it fails."""
        return run(*self.ssh, command, stdin=stdin, timeout_s=timeout_s)

    def fetch(self, script: str, into: Path, timeout_s: float = 600) -> None:
        """Run a shell script that prints bytes; they become the file `into`. Raises LabError if it fails."""
        with into.open("wb") as file:
            try:
                argv = [*self.ssh, "sh -s"]
                done = subprocess.run(argv, input=script.encode(), stdout=file, timeout=timeout_s, check=False)
            except subprocess.TimeoutExpired as error:
                raise LabError(f"the script does not end: {error}") from error
        if done.returncode != 0:
            raise LabError(f"the script failed with exit status {done.returncode}")

    @property
    def ssh(self) -> list[str]:
        """The command line that runs another one in the dom0, as root."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "15",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-F", "/dev/null", *words, "-i", str(self.key), "-p", str(self.port), "root@127.0.0.1"]

    def start_guest(self) -> None:
        """Start the PV guest "web". Raises LabError."""
        self.run("xl create -q /etc/xen/web.cfg", timeout_s=240)


@contextmanager
def running_dom0(kit: Dom0Kit, xen_options: str = "", linux_options: str = "mitigations=off") -> Iterator[Dom0]:
    """A dom0 of its own, until the block is left; nothing that it writes stays.

    Args:
        kit: what it boots.
        xen_options: further ones for the hypervisor.
        linux_options: further ones for the dom0's kernel.

    Raises:
        LabError: it does not start, or does not let anybody in.
    """
    require(PROGRAMS)
    with TemporaryDirectory(prefix="donjon-dom0-") as name:
        folder = Path(name)
        disk = folder / "disk.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", kit.disk, disk)
        dom0 = Dom0(_free_port(), kit.key, folder / "console")
        with (folder / "qemu.log").open("w") as log:
            qemu = subprocess.Popen(
                _command(kit, dom0, disk, f"{XEN_OPTIONS} {xen_options}", f"{LINUX_OPTIONS} {linux_options}"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            _wait_until_up(dom0, qemu)
            yield dom0
        finally:
            _stop(qemu)


def _command(kit: Dom0Kit, dom0: Dom0, disk: Path, xen_options: str, linux_options: str) -> list[str]:
    modules = f"{kit.kernel} {linux_options},{kit.initramfs}"
    options = {
        "-machine": "q35",
        "-accel": "tcg,thread=multi",
        "-cpu": CPU,
        "-smp": "2",
        "-m": str(MEMORY_MIB),
        "-kernel": str(kit.xen),
        "-append": xen_options,
        "-initrd": modules,
        "-drive": f"file={disk},if=virtio,cache=unsafe",
        "-netdev": f"user,id=wan,restrict=on,hostfwd=tcp:127.0.0.1:{dom0.port}-:22",
        "-device": "virtio-net-pci,netdev=wan",
        "-serial": f"file:{dom0.console}",
        "-display": "none",
        "-monitor": "none",
    }
    return ["qemu-system-x86_64", "-nodefaults", *(word for pair in options.items() for word in pair)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _wait_until_up(dom0: Dom0, qemu: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + BOOT_TIME_S
    while True:
        try:
            dom0.run("xl info >/dev/null", timeout_s=30)
        except LabError as error:
            if qemu.poll() is not None or time.monotonic() > deadline:
                said = dom0.console.read_text(errors="replace")[-500:] if dom0.console.exists() else ""
                raise LabError(f"the dom0 does not come up: {error}; it said {said!r}") from error
            time.sleep(1)
        else:
            return


def _stop(qemu: subprocess.Popen[bytes]) -> None:
    qemu.terminate()
    with suppress(subprocess.TimeoutExpired):
        qemu.wait(STOP_TIME_S)
    if qemu.poll() is None:
        qemu.kill()
        qemu.wait()
