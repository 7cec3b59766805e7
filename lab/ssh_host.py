# SPDX-License-Identifier: Apache-2.0
"""A host that is hardened: namespaces with a network cable, a file system of its own, a firewall, and a real sshd.

It can be reached by ssh only, and can lose its power. Source: network_namespaces(7), pid_namespaces(7): when process 1
of a namespace dies, the kernel kills all others there.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lab import LabError
from lab.programs import SEARCH_PATH, require, run

SCRIPT = Path(__file__).with_suffix(".sh")
CONTROLLER, ADDRESS = "10.91.7.1", "10.91.7.2"
SSHD_CONFIG = """\
Include /etc/ssh/sshd_config.d/*.conf
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin yes
PidFile /run/sshd.pid
UsePAM no
"""
SSH_CONFIG = """\
Host *
    User root
    IdentityFile {folder}/key
    UserKnownHostsFile {folder}/known_hosts
    ConnectTimeout 2
    ServerAliveInterval 1
    ServerAliveCountMax 2
    ControlMaster auto
    ControlPath {folder}/m
    ControlPersist 60
"""


class SshHost:
    """The host; whoever wants to reach it needs `ssh_config`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ssh_config = folder / "ssh_config"
        self._process: subprocess.Popen[bytes] | None = None
        self._link = f"dj{os.getpid()}"
        self._prepare()

    def at(self, path: str) -> Path:
        """Where a path below its /etc or /var/lib is seen from outside."""
        return self.folder / path.removeprefix("/var").lstrip("/")

    def boot(self) -> None:
        """Power on, up to when sshd answers. Raises LabError."""
        (self.folder / "booted").unlink(missing_ok=True)
        namespaces = ("unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        with (self.folder / "console").open("ab") as console:
            self._process = subprocess.Popen(
                [*namespaces, "sh", str(SCRIPT), str(self.folder), f"{ADDRESS}/30"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={"PATH": SEARCH_PATH, "LC_ALL": "C"},
            )
        self._until((self.folder / "booted").exists)
        inside = self._first_process()
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", inside)
        run("ip", "address", "add", f"{CONTROLLER}/30", "dev", self._link)
        run("ip", "link", "set", self._link, "up")
        self._until(lambda: self.answers(22))

    def cut_power(self) -> None:
        """Everything on it ends at once; /run, its kernel's firewall and all connections are gone."""
        if self._process:
            os.kill(self._first_process(), signal.SIGKILL)
            self._process.wait()
            self._process = None
        # The kernel takes the cable away with the namespace, some time.
        subprocess.run(["ip", "link", "delete", self._link], capture_output=True, check=False)
        self._until(lambda: not Path("/sys/class/net", self._link).exists())
        (self.folder / "m").unlink(missing_ok=True)

    def answers(self, port: int) -> bool:
        """Whether somebody new gets a connection to a port."""
        try:
            with socket.create_connection((ADDRESS, port), timeout=1):
                return True
        except OSError:
            return False

    def does(self, command: str) -> str:
        """What a command prints, run from the host's own console; the network is not needed. Raises LabError."""
        inside = self._first_process()
        return run("nsenter", "--target", inside, "--mount", "--net", "--uts", "--pid", "sh", "-c", command)

    def _first_process(self) -> int:
        assert self._process
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="ascii")
        return int(children.split()[0])

    def _prepare(self) -> None:
        ssh = self.folder / "template/ssh"
        ssh.mkdir(parents=True)
        for folder in (self.folder, ssh.parent, ssh):
            folder.chmod(0o755)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "key")
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "ssh_host_ed25519_key")
        (ssh / "sshd_config").write_text(SSHD_CONFIG, encoding="utf-8")
        (ssh / "authorized_keys").write_text((self.folder / "key.pub").read_text(encoding="utf-8"), encoding="utf-8")
        public = (ssh / "ssh_host_ed25519_key.pub").read_text(encoding="utf-8")
        (self.folder / "known_hosts").write_text(f"{ADDRESS} {public}", encoding="utf-8")
        self.ssh_config.write_text(SSH_CONFIG.format(folder=self.folder), encoding="utf-8")

    def _until(self, done: object, timeout_s: float = 60) -> None:
        assert callable(done)
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                said = (self.folder / "console").read_text(encoding="utf-8", errors="replace")[-1000:]
                raise LabError(f"the host is not ready within {timeout_s:.0f} s; it said {said}")
            time.sleep(0.05)


@contextmanager
def ssh_host() -> Iterator[SshHost]:
    """A host that runs, and is gone in the end.

    Raises:
        LabUnavailableError: this machine cannot run it.
    """
    require({"sshd": "openssh-server", "nft": "nftables", "ip": "iproute2", "unshare": "util-linux"})
    with TemporaryDirectory(prefix="donjon-") as folder:
        host = SshHost(Path(folder))
        rc_local = host.folder / "template/rc.local"
        rc_local.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
        rc_local.chmod(0o755)
        try:
            host.boot()
            yield host
        finally:
            host.cut_power()
