# SPDX-License-Identifier: Apache-2.0
"""Plans are applied to a scratch host by the very scripts that real hosts get."""

from __future__ import annotations

from pathlib import Path

import pytest

from donjon.audit.catalogue import FixClass
from donjon.errors import HostError, RefusedError
from donjon.harden.apply import OnHost, State, apply, confirm, pending, rollback
from donjon.harden.change import Change, Command, Document, Edit, Permissions
from donjon.harden.editors import assignments, whole
from tests.unit.harden.scratch_host import ScratchHost

CONF = "/etc/libvirt/libvirtd.conf"


@pytest.fixture
def host(tmp_path: Path) -> ScratchHost:
    host = ScratchHost(tmp_path / "host")
    host.write(CONF, '# libvirt\n#auth_unix_rw = "none"\nlisten_tcp = 1', 0o640)
    host.write("/etc/key", b"secret\xff\x00", 0o664)
    return host


EVERYTHING = Change(
    "all kinds of change",
    (
        Edit(CONF, assignments({"auth_unix_rw": '"polkit"', "listen_tcp": "0"})),
        Permissions("/etc/key", at_most=0o600),
        Edit("/etc/donjon.d/10-new.conf", whole("it's new\n"), mode=0o600),
        Command("turn it", 'echo 2 >"$ROOT/etc/knob"', 'cat "$BEFORE" >"$ROOT/etc/knob"', 'cat "$ROOT/etc/knob"'),
        Document("guest", 'cat "$ROOT/etc/vm.xml"', 'cp "$FILE" "$ROOT/etc/vm.xml"', lambda xml: xml.replace("no", "yes")),
    ),
    activate=('echo activated >>"$ROOT/var/log"',),
    tests=('grep -q polkit "$ROOT/etc/libvirt/libvirtd.conf"',),
)


@pytest.fixture
def busy_host(host: ScratchHost) -> ScratchHost:
    host.write("/etc/knob", "1\n")
    host.write("/etc/vm.xml", "<vm secure='no'/>\n")
    host.write("/var/log", "")
    return host


def guarded(change: Change) -> Change:
    return Change(change.title, change.wants, change.activate, change.tests, fix_class=FixClass.GUARDED)


def test_a_plan_is_applied_and_rolled_back_to_the_very_bytes_and_modes(busy_host: ScratchHost) -> None:
    before = busy_host.snapshot()
    plan = busy_host.plan(EVERYTHING)
    assert busy_host.snapshot() == before
    assert apply(plan, busy_host.runner) is State.CONFIRMED
    assert busy_host.at(CONF).read_text() == '# libvirt\n#auth_unix_rw = "none"\nauth_unix_rw = "polkit"\nlisten_tcp = 0\n'
    assert (busy_host.at(CONF).stat().st_mode & 0o777, busy_host.at("/etc/key").stat().st_mode & 0o777) == (0o640, 0o600)
    assert busy_host.at("/etc/donjon.d/10-new.conf").read_text() == "it's new\n"
    assert busy_host.at("/etc/knob").read_text() == "2\n"
    assert busy_host.at("/etc/vm.xml").read_text() == "<vm secure='yes'/>\n"
    assert pending(busy_host.runner) == (OnHost(plan.id, State.CONFIRMED),)
    assert rollback(plan.id, busy_host.runner) is State.REVERTED
    busy_host.at("/var/log").write_text("")
    assert busy_host.snapshot() == before


def test_a_host_that_has_changed_since_is_left_alone(host: ScratchHost) -> None:
    plan = host.plan(EVERYTHING_BUT_COMMANDS)
    host.at("/etc/key").chmod(0o660)
    before = host.snapshot()
    with pytest.raises(RefusedError, match="permissions of /etc/key is not as it was"):
        apply(plan, host.runner)
    assert host.snapshot() == before
    assert pending(host.runner) == ()


EVERYTHING_BUT_COMMANDS = Change(EVERYTHING.title, EVERYTHING.wants[:3])
