# SPDX-License-Identifier: Apache-2.0
"""Collecting from real hosts: this machine, and the same behind an sshd of its own on the loopback."""

from __future__ import annotations

import contextlib
import getpass
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.collecting import collect, collect_many
from donjon.audit.collect.script import assembled, script
from donjon.audit.collect.target import Target, parse_target
from donjon.audit.fact import Known, Unknown
from donjon.audit.facts.host import read_host
from donjon.errors import CancelledError, DonjonError, HostError

pytestmark = [pytest.mark.system, pytest.mark.root]

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


class Loopback:
    """An sshd on the loopback with keys of its own, and an ssh_config that knows it as `host`."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        for key in ("host_key", "client_key"):
            if not (folder / key).exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        (folder / "authorized_keys").write_text((folder / "client_key.pub").read_text())
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder}/host_key\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPermitRootLogin prohibit-password\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n" + "\n".join(settings)
        )
        self.know(self.host_key)

    @property
    def host_key(self) -> str:
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    @property
    def target(self) -> Target:
        return parse_target(f"ssh://{getpass.getuser()}@host:{self.port}")

    def know(self, key: str) -> None:
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}\n" if key else "")

    @contextmanager
    def running(self) -> Iterator[None]:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", self.folder / "sshd_config"], stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                        break
                time.sleep(0.05)
            yield
        finally:
            daemon.terminate()
            daemon.wait(10)


@contextmanager
def ssh_config(folder: Path, key: str = "client_key") -> Iterator[None]:
    """An `ssh` in PATH that reads this configuration, as the operator's own would be."""
    (folder / "config").write_text(
        f"Host host\n HostName 127.0.0.1\n IdentityFile {folder}/{key}\n IdentitiesOnly yes\n IdentityAgent none\n"
        f" UserKnownHostsFile {folder}/known_hosts\n GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking no\n"
    )
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')
    wrapper.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{wrapper.parent}:{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[Loopback]:
    host = Loopback(tmp_path)
    with host.running(), ssh_config(tmp_path):
        yield host


def failure(target: Target) -> HostError:
    with pytest.raises(HostError) as caught:
        collect(target, io.BytesIO(), time_limit_s=30)
    return caught.value


def test_this_machine_is_collected_and_its_facts_are_true() -> None:
    into = io.BytesIO()
    collect(parse_target("local"), into)
    into.seek(0)
    bundle = read_bundle(into)
    host = read_host(bundle)
    assert host.platform.name == os.uname().nodename
    assert host.platform.kernel == Known(os.uname().release, "cmd/uname")
    assert bundle.text("/etc/os-release") == Known(Path("/etc/os-release").read_text(), "/etc/os-release")
    assert bundle.manifest.probes == tuple(bundle.commands)


def test_over_ssh_the_same_arrives(loopback: Loopback) -> None:
    into = io.BytesIO()
    collect(loopback.target, into)
    into.seek(0)
    assert read_bundle(into).output("uname") == Known(" ".join(os.uname()) + " GNU/Linux\n", "cmd/uname")


def test_what_a_login_script_prints_is_not_taken_for_the_bundle(tmp_path: Path) -> None:
    host = Loopback(tmp_path, 'ForceCommand echo Welcome to this host; sh -c "$SSH_ORIGINAL_COMMAND"')
    into = io.BytesIO()
    with host.running(), ssh_config(tmp_path):
        collect(host.target, into)
    assert into.getvalue().startswith(b"manifest.json\0")


def test_an_unknown_host_key_is_never_accepted(loopback: Loopback) -> None:
    loopback.know("")
    error = failure(loopback.target)
    assert "Host key verification failed" in str(error)
    assert error.hint
    assert "console" in error.hint
    assert (loopback.folder / "known_hosts").read_text() == ""


def test_a_wrong_host_key_is_not_accepted(loopback: Loopback) -> None:
    loopback.know(" ".join((loopback.folder / "client_key.pub").read_text().split()[:2]))
    assert "Host key verification failed" in str(failure(loopback.target))


def test_a_host_that_does_not_let_us_in_says_so(loopback: Loopback) -> None:
    (loopback.folder / "authorized_keys").write_text("")
    error = failure(loopback.target)
    assert "Permission denied" in str(error)
    assert error.hint
    assert "agent" in error.hint


def test_a_host_that_answers_something_else_is_refused(tmp_path: Path) -> None:
    host = Loopback(tmp_path, "ForceCommand echo This account is not available.")
    with host.running(), ssh_config(tmp_path):
        assert "This account is not available." in str(failure(host.target))


def test_a_slow_host_is_given_up(tmp_path: Path) -> None:
    host = Loopback(tmp_path, "ForceCommand sleep 20")
    with host.running(), ssh_config(tmp_path), pytest.raises(HostError, match="timed out"):
        collect(host.target, io.BytesIO(), time_limit_s=2)


def test_a_host_that_never_stops_talking_is_given_up(tmp_path: Path) -> None:
    host = Loopback(tmp_path, "ForceCommand yes")
    with host.running(), ssh_config(tmp_path):
        assert "no bundle" in str(failure(host.target))


def test_of_many_hosts_one_that_fails_stops_no_other(loopback: Loopback, tmp_path: Path) -> None:
    into = tmp_path / "bundles"
    into.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = parse_target(f"ssh://host:{probe.getsockname()[1]}")
    targets = [loopback.target, closed, parse_target("local")]
    told: list[Target] = []
    found = collect_many(targets, into, parallel=2, on_progress=lambda target, error: told.append(target))
    assert list(found) == targets
    assert set(told) == set(targets)
    bundles = [path for path in found.values() if isinstance(path, Path)]
    assert isinstance(found[closed], DonjonError)
    assert sorted(into.iterdir()) == sorted(bundles)
    assert [path.stat().st_mode & 0o777 for path in bundles] == [0o600, 0o600]
    assert {read_bundle(path).manifest.host for path in bundles} == {os.uname().nodename}


def test_cancelled_it_ends_at_once(tmp_path: Path) -> None:
    host = Loopback(tmp_path, "ForceCommand sleep 20")
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with host.running(), ssh_config(tmp_path), pytest.raises(CancelledError):
        collect(host.target, io.BytesIO(), cancelled=stop)


def test_when_time_is_up_the_rest_is_unknown_and_what_was_seen_arrives() -> None:
    fragment = "probe first 5 echo here\nshell slow 9 'sleep 2'\nprobe late 5 echo here\ncopy /etc/passwd\nlook /etc"
    script = assembled([fragment]).replace("TOTAL_S=120", "TOTAL_S=1").encode()
    bundle = read_bundle(io.BytesIO(subprocess.run(["sh", "-s"], input=script, capture_output=True, check=True).stdout))
    assert bundle.output("first") == Known("here\n", "cmd/first")
    assert bundle.output("late") == Unknown("cmd/late: timed out")
    assert bundle.text("/etc/passwd") == Unknown("/etc/passwd: timed out")
    assert bundle.paths.at("/etc") == Unknown("/etc: timed out")


def test_killed_it_leaves_nothing(tmp_path: Path) -> None:
    """Whatever kills it: its folder and its probe go with it, if need be a second later."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen(["dash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
            assert shell.stdin
            shell.stdin.write(assembled([f'echo "$work" >{tmp_path}/name\nprobe slow 60 sleep 61']).encode())
            shell.stdin.close()
            until(lambda: (tmp_path / "name").exists() and (tmp_path / "name").read_text() != "")
            work = Path((tmp_path / "name").read_text().strip())
            shell.send_signal(number)
        (tmp_path / "name").unlink()
        until(lambda work=work: not work.exists() and not runs("sleep", "61"))  # type: ignore[misc]


def runs(*words: str) -> bool:
    commands = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            commands.append(process.read_bytes())
    return "".join(f"{word}\0" for word in words).encode() in commands


def until(happened: Callable[[], bool]) -> None:
    for _ in range(500):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


CHANGES = (
    "creat,mkdir,mkdirat,unlink,unlinkat,rename,renameat,renameat2,chmod,fchmodat,chown,lchown,fchownat,symlink,"
    "symlinkat,link,linkat,truncate,mknod,mknodat,mount,setxattr,utimensat,rmdir"
)


def test_collecting_changes_nothing_but_its_own_folder(tmp_path: Path) -> None:
    """Every system call that could change a file, of every process the collector starts."""
    trace = tmp_path / "trace"
    with trace.open("wb") as log:
        subprocess.run(
            [
                "strace",
                "-f",
                "-y",
                "-e",
                f"trace=chdir,open,openat,{CHANGES}",
                "-o",
                f"/dev/fd/{log.fileno()}",
                "sh",
                "-s",
            ],
            input=script().encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[log.fileno()],
            cwd="/",
            check=True,
        )
    changed = list(changed_paths(trace.read_text(errors="replace").splitlines()))
    own = [path for path in changed if re.match(r"/(?:run|dev/shm|tmp)/donjon\.", path)]
    assert len(own) > 100
    assert sorted({path for path in changed if path not in own} - {"/dev/null", "/dev/tty"}) == []


def changed_paths(trace: list[str]) -> Iterator[str]:
    """What these calls changed, or opened for writing; folders that `mkdir -p` walks through are followed."""
    folders: dict[str, str] = {}
    for line in trace:
        call = re.match(r'(\d+) +(\w+)\((?:\w+<([^>]*)>, )?"((?:[^"\\]|\\.)*)"(.*)', line)
        if not call or " = -1 E" in line:
            continue
        process, name, folder, path, rest = call.groups()
        path = os.path.normpath(os.path.join(folder or folders.get(process, "/"), path))
        if name == "chdir":
            folders[process] = path
        elif not name.startswith("open") or re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", rest):
            yield path
