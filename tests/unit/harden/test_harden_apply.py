# SPDX-License-Identifier: Apache-2.0
"""Plans are applied to a scratch host by the very scripts that real hosts get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from donjon import host_command
from donjon.audit.catalogue import FixClass
from donjon.errors import HostError, RefusedError
from donjon.harden.apply import OnHost, State, apply, confirm, pending, rollback
from donjon.harden.change import Change, Command, Document, Edit, Permissions
from donjon.harden.editors import assignments, whole
from donjon.harden.runner import Output, Runner
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
        Document(
            "guest", 'cat "$ROOT/etc/vm.xml"', 'cp "$FILE" "$ROOT/etc/vm.xml"', lambda xml: xml.replace("no", "yes")
        ),
    ),
    activate=('echo activated >>"$ROOT/var/log"',),
    tests=('grep -q polkit "$ROOT/etc/libvirt/libvirtd.conf"',),
)


@dataclass(frozen=True)
class AnotherProcess:
    """Whoever calls from another program than ours."""

    host: ScratchHost

    def run(self, script: bytes, *, timeout_s: float) -> Output:
        done = host_command.run(
            ["sh", "-c", "sh -s; exit $?"],
            input=script,
            timeout_s=timeout_s,
            check=False,
            env={"DONJON_ROOT": str(self.host.root)},
        )
        return Output(done.returncode, done.stdout, done.stderr)

    def fresh(self) -> Runner:
        return self


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
    assert (
        busy_host.at(CONF).read_text() == '# libvirt\n#auth_unix_rw = "none"\nauth_unix_rw = "polkit"\nlisten_tcp = 0\n'
    )
    assert (busy_host.at(CONF).stat().st_mode & 0o777, busy_host.at("/etc/key").stat().st_mode & 0o777) == (
        0o640,
        0o600,
    )
    assert busy_host.at("/etc/donjon.d/10-new.conf").read_text() == "it's new\n"
    assert busy_host.at("/etc/knob").read_text() == "2\n"
    assert busy_host.at("/etc/vm.xml").read_text() == "<vm secure='yes'/>\n"
    assert pending(busy_host.runner) == (OnHost(plan.id, State.CONFIRMED),)
    assert rollback(plan.id, busy_host.runner) is State.REVERTED
    busy_host.at("/var/log").write_text("")
    assert busy_host.snapshot() == before


def test_a_host_that_has_changed_since_is_left_alone(busy_host: ScratchHost) -> None:
    plan = busy_host.plan(EVERYTHING)
    for path, text, mode, says in (
        (CONF, "text", 0o640, f"when this was planned: {CONF}"),
        ("/etc/donjon.d/10-new.conf", "text", 0o600, "planned: /etc/donjon.d/10-new.conf"),
        ("/etc/knob", "text", 0o644, "planned: turn it"),
        ("/etc/vm.xml", "text", 0o644, "planned: guest"),
        ("/etc/key", "secret", 0o660, "planned: permissions of /etc/key"),
        ("/etc/machine-id", "text", 0o644, "another host"),
    ):
        file = busy_host.at(path)
        was = (file.read_bytes(), file.stat().st_mode & 0o7777) if file.exists() else None
        busy_host.write(path, text, mode)
        before = busy_host.snapshot()
        with pytest.raises(RefusedError, match=says):
            apply(plan, busy_host.runner)
        assert busy_host.snapshot() == before
        assert pending(busy_host.runner) == ()
        if was:
            busy_host.write(path, *was)
        else:
            file.unlink()


def test_a_guarded_change_needs_a_confirm_from_another_connection(busy_host: ScratchHost) -> None:
    plan = busy_host.plan(guarded(EVERYTHING))
    assert apply(plan, busy_host.runner) is State.WAITING
    with pytest.raises(RefusedError, match="this is the connection that applied it"):
        confirm(plan.id, busy_host.runner)
    assert confirm(plan.id, AnotherProcess(busy_host)) is State.CONFIRMED
    assert not busy_host.undecided
    assert busy_host.at("/etc/rc.local").read_text() == "#!/bin/sh\nexit 0\n"
    assert busy_host.at("/etc/knob").read_text() == "2\n"


def test_what_fails_in_the_middle_is_undone_at_once(busy_host: ScratchHost) -> None:
    before = busy_host.snapshot()
    broken = Command("break", "false\ntrue", ":")
    plan = busy_host.plan(EVERYTHING, Change("fails", (broken,)))
    with pytest.raises(HostError, match="step 6 failed: break; all of it was undone"):
        apply(plan, busy_host.runner)
    busy_host.at("/var/log").write_text("")
    assert busy_host.snapshot() == before


def test_a_self_test_that_fails_undoes_all(host: ScratchHost) -> None:
    before = host.snapshot()
    with pytest.raises(HostError, match="a self-test failed; all of it was undone"):
        apply(host.plan(Change("fails", EVERYTHING.wants[:1], tests=("grep -q nonsense /dev/null",))), host.runner)
    assert host.snapshot() == before
