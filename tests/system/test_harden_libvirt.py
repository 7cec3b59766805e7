# SPDX-License-Identifier: Apache-2.0
"""Definitions of VMs are hardened through a real libvirt, and come back as they were."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from donjon.errors import HostError
from donjon.harden.apply import State, apply, rollback
from donjon.harden.change import Change, Edit
from donjon.harden.editors import assignments
from donjon.harden.hunks import diff
from donjon.harden.plan import DocumentStep, encode
from donjon.harden.services import libvirt_restarted
from lab import LabError
from lab.guest import define, virsh
from lab.libvirt_host import Host
from tests.unit.harden.scratch_host import ScratchHost, finding

pytestmark = pytest.mark.system

# What a service manager's script is to the lab's libvirt: the daemon is killed and started anew by whoever listens.
INIT = """\
#!/bin/sh
case $1 in
status) ;;
restart) cp "$DONJON_ROOT"/etc/libvirt/*.conf {folder}/etc/ && echo restart >{ask} &&
    read -r answer <{answer} && [ "$answer" = done ] ;;
esac
"""

NAME = "web & db's"
UUID = "6a0a5b6e-3f54-4ea0-9d5c-1f0c7c1f8a11"
DEFINITION = f"""\
<domain type='qemu'>
  <name>web &amp; db's</name>
  <uuid>{UUID}</uuid>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <graphics type='vnc' autoport='yes' listen='0.0.0.0' passwd='hunter2'/>
    <video><model type='vga'/></video>
  </devices>
</domain>
"""


def test_a_console_is_taken_off_the_network_and_given_back(
    libvirt_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", libvirt_uri)
    define(libvirt_uri, DEFINITION)
    try:
        before = virsh(libvirt_uri, "dumpxml", "--inactive", "--security-info", UUID)
        host = ScratchHost(tmp_path / "host")
        plan = host.plan(findings=[finding("GST-01", UUID, NAME)])
        assert plan.guarded
        (step,) = plan.steps
        assert isinstance(step, DocumentStep)
        assert "0.0.0.0" in diff(step.hunks)
        assert b"hunter2" not in encode(plan)
        assert apply(plan, host.runner) is State.WAITING
        hardened = virsh(libvirt_uri, "dumpxml", "--inactive", "--security-info", UUID)
        assert hardened == before.replace("0.0.0.0", "127.0.0.1")
        assert rollback(plan.id, host.runner) is State.REVERTED
        assert virsh(libvirt_uri, "dumpxml", "--inactive", "--security-info", UUID) == before
    finally:
        virsh(libvirt_uri, "undefine", UUID)


@contextmanager
def managed(host: Host, scratch: ScratchHost) -> Iterator[list[str]]:
    """The lab's libvirt daemon has its configuration in the scratch host, whose service it is; gives its restarts."""
    ask, answer = scratch.root.parent / "ask", scratch.root.parent / "answer"
    restarts: list[str] = []

    def serve() -> None:
        while (word := ask.read_text().strip()) == "restart":
            restarts.append(word)
            said = "failed\n"
            with suppress(LabError):
                host.restart_libvirtd()
                said = "done\n"
            answer.write_text(said)

    for pipe in (ask, answer):
        os.mkfifo(pipe)
    for conf in (host.folder / "etc").glob("*.conf"):
        scratch.write(f"/etc/libvirt/{conf.name}", conf.read_bytes(), 0o600)
    scratch.write("/etc/init.d/libvirtd", INIT.format(folder=host.folder, ask=ask, answer=answer), 0o755)
    server = threading.Thread(target=serve)
    server.start()
    try:
        yield restarts
    finally:
        ask.write_text("end\n")
        server.join()


def guest(name: str) -> str:
    return f"""\
<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
</domain>"""


def test_libvirt_is_restarted_under_a_guest_that_never_notices(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", host.uri)
    scratch = ScratchHost(tmp_path / "host")
    define(host.uri, guest("steady"))
    try:
        virsh(host.uri, "start", "steady")
        process, mode = host.qemu_pid("steady"), host.socket.stat().st_mode & 0o777
        with managed(host, scratch) as restarts:
            before = scratch.snapshot()
            edit = Edit("/etc/libvirt/libvirtd.conf", assignments({"unix_sock_rw_perms": '"0700"'}))
            plan = scratch.plan(Change("the socket is root's", (edit,), activate=(libvirt_restarted(),)))
            assert apply(plan, scratch.runner) is State.CONFIRMED
            assert (len(restarts), host.qemu_pid("steady")) == (1, process)
            assert host.socket.stat().st_mode & 0o777 == 0o700 != mode
            assert virsh(host.uri, "domstate", "steady").strip() == "running"
            assert rollback(plan.id, scratch.runner) is State.REVERTED
            assert (len(restarts), host.qemu_pid("steady")) == (2, process)
            assert host.socket.stat().st_mode & 0o777 == mode
            assert scratch.snapshot() == before
    finally:
        virsh(host.uri, "destroy", "steady")
        virsh(host.uri, "undefine", "steady")


def test_a_restart_that_fails_its_test_or_ends_a_guest_is_taken_back(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", host.uri)
    scratch = ScratchHost(tmp_path / "host")
    define(host.uri, guest("steady"))
    try:
        virsh(host.uri, "start", "steady")
        process = host.qemu_pid("steady")
        with managed(host, scratch):
            before = scratch.snapshot()
            ended = "with_guests eval 'service_does restart libvirtd && virsh destroy steady >/dev/null 2>&1 || :'"
            change = Change(
                "libvirt is restarted",
                (Edit("/etc/libvirt/libvirtd.conf", assignments({"audit_level": "1"})),),
                activate=(libvirt_restarted(),),
                tests=("virsh list --name | grep -qx nobody",),
            )
            with pytest.raises(HostError, match="a self-test failed; all of it was undone"):
                apply(scratch.plan(change), scratch.runner)
            assert scratch.snapshot() == before
            assert host.qemu_pid("steady") == process
            fatal = Change(change.title, change.wants, activate=(ended,))
            with pytest.raises(HostError, match="not the same guests run as before"):
                apply(scratch.plan(fatal), scratch.runner)
            assert scratch.snapshot() == before
    finally:
        scratch.power_cut()
        with suppress(LabError):
            virsh(host.uri, "destroy", "steady")
        virsh(host.uri, "undefine", "steady")
