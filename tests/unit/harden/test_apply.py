# SPDX-License-Identifier: Apache-2.0
"""Plans are applied to a scratch host by the very scripts that real hosts get."""

from __future__ import annotations

import time
from contextlib import suppress
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


EVERYTHING_BUT_COMMANDS = Change(EVERYTHING.title, EVERYTHING.wants[:3])


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


def settled(host: ScratchHost) -> State:
    deadline = time.monotonic() + 60
    while (state := pending(host.runner)[0].state) in (State.WAITING, State.APPLYING) or host.undecided:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return state


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


@pytest.mark.parametrize(
    ("changed", "path", "mode", "says"),
    [
        ("text", CONF, 0o640, f"when this was planned: {CONF}"),
        ("text", "/etc/donjon.d/10-new.conf", 0o600, "planned: /etc/donjon.d/10-new.conf"),
        ("text", "/etc/knob", 0o644, "planned: turn it"),
        ("text", "/etc/vm.xml", 0o644, "planned: guest"),
        ("secret\xff\x00", "/etc/key", 0o660, "planned: permissions of /etc/key"),
        ("text", "/etc/machine-id", 0o644, "another host"),
    ],
)
def test_a_host_that_has_changed_since_is_left_alone(
    busy_host: ScratchHost, changed: str, path: str, mode: int, says: str
) -> None:
    plan = busy_host.plan(EVERYTHING)
    busy_host.write(path, changed, mode)
    before = busy_host.snapshot()
    with pytest.raises(RefusedError, match=says):
        apply(plan, busy_host.runner)
    assert busy_host.snapshot() == before
    assert pending(busy_host.runner) == ()


def test_a_guarded_change_needs_a_confirm_from_another_connection(busy_host: ScratchHost) -> None:
    plan = busy_host.plan(guarded(EVERYTHING))
    assert apply(plan, busy_host.runner) is State.WAITING
    with pytest.raises(RefusedError, match="this is the connection that applied it"):
        confirm(plan.id, busy_host.runner)
    assert confirm(plan.id, AnotherProcess(busy_host)) is State.CONFIRMED
    assert not busy_host.undecided
    assert busy_host.at("/etc/rc.local").read_text() == "#!/bin/sh\nexit 0\n"
    assert busy_host.at("/etc/knob").read_text() == "2\n"


def test_without_a_confirm_all_is_undone(host: ScratchHost) -> None:
    before = host.snapshot()
    plan = host.plan(guarded(EVERYTHING_BUT_COMMANDS))
    assert apply(plan, host.runner, confirm_after=0) is State.WAITING
    assert settled(host) is State.REVERTED
    assert host.snapshot() == before
    with pytest.raises(RefusedError, match="it was undone already"):
        confirm(plan.id, AnotherProcess(host))


def test_a_reboot_before_the_confirm_undoes_all(busy_host: ScratchHost) -> None:
    before = busy_host.snapshot()
    plan = busy_host.plan(guarded(EVERYTHING))
    apply(plan, busy_host.runner)
    busy_host.power_cut()
    assert busy_host.at("/etc/knob").read_text() == "2\n"
    host_command.run(["sh", busy_host.at("/etc/rc.local")], timeout_s=60, env={"DONJON_ROOT": str(busy_host.root)})
    assert settled(busy_host) is State.REVERTED
    busy_host.at("/var/log").write_text("")
    assert busy_host.snapshot() == before


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


def test_one_plan_waits_at_a_time(host: ScratchHost) -> None:
    first = host.plan(guarded(EVERYTHING_BUT_COMMANDS))
    second = host.plan(Change("other", (Edit("/etc/other", whole("x\n"), mode=0o644),)))
    apply(first, host.runner)
    with pytest.raises(RefusedError, match=f"plan {first.id} is not decided yet"):
        apply(second, host.runner)
    rollback(first.id, host.runner)
    assert apply(second, host.runner) is State.CONFIRMED


@pytest.mark.parametrize("path", [CONF, "/etc/knob", "/etc/vm.xml"])
def test_a_rollback_spares_what_somebody_changed_since(busy_host: ScratchHost, path: str) -> None:
    plan = busy_host.plan(EVERYTHING)
    apply(plan, busy_host.runner)
    busy_host.write(path, "mine now\n")
    with pytest.raises(RefusedError, match="not as it was when this was planned"):
        rollback(plan.id, busy_host.runner)
    assert busy_host.at(path).read_text() == "mine now\n"
    assert busy_host.at("/etc/donjon.d/10-new.conf").exists()


def test_a_daemon_whose_restart_ends_a_guest_is_put_back(
    host: ScratchHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    virsh = tmp_path / "bin/virsh"
    virsh.parent.mkdir()
    virsh.write_text('#!/bin/sh\ncat "$ROOT/etc/guests"\n')
    virsh.chmod(0o755)
    sleep = tmp_path / "bin/sleep"
    sleep.write_text("#!/bin/sh\nexec /bin/sleep 0.05\n")
    sleep.chmod(0o755)
    monkeypatch.setenv("PATH", f"{virsh.parent}:/usr/bin:/bin")
    before = host.snapshot()
    for restart, outcome in (("true", State.CONFIRMED), (": >$ROOT/etc/guests", State.REVERTED)):
        host.write("/etc/guests", "web\n")
        plan = host.plan(Change(outcome.value, EVERYTHING.wants[:1], activate=(f"with_guests eval '{restart}'",)))
        with suppress(HostError):
            apply(plan, host.runner)
        assert pending(host.runner)[0].state is outcome
        if outcome is State.CONFIRMED:
            rollback(plan.id, host.runner)
            host.at("/var/lib/donjon/harden").rename(host.root / "var/lib/donjon/seen")
    host.at("/etc/guests").unlink()
    assert host.snapshot() == before
