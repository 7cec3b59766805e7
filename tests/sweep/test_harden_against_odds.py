# SPDX-License-Identifier: Apache-2.0
"""Whatever happens around a plan, nothing unconfirmed survives, and nobody else's work is lost."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from donjon import host_command
from donjon.audit.catalogue import FixClass
from donjon.errors import DonjonError, HostError, RefusedError
from donjon.harden.apply import OnHost, State, apply, confirm, pending, rollback
from donjon.harden.change import Change, Command, Edit, Permissions, Want
from donjon.harden.compile import call_script
from donjon.harden.editors import assignments, whole
from donjon.harden.plan import Plan
from tests.unit.harden.scratch_host import ScratchHost

EDIT = Edit("/etc/one.conf", assignments({"key": "new"}))
OTHER = Change("other", (Edit("/etc/other", whole("x\n"), mode=0o644),))
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ScratchHost]:
    host = ScratchHost(tmp_path / "host")
    host.write("/etc/one.conf", "key = old\n", 0o640)
    host.write("/etc/knob", "1\n")
    yield host
    host.power_cut()


def guarded(*wants: Want) -> Change:
    return Change("guarded", wants, fix_class=FixClass.GUARDED)


def undone(host: ScratchHost, plan: Plan) -> None:
    """Wait until it is."""
    deadline = time.monotonic() + 60
    while OnHost(plan.id, State.REVERTED) not in pending(host.runner) or host.undecided:
        assert time.monotonic() < deadline, pending(host.runner)
        time.sleep(0.1)


def boot(host: ScratchHost) -> None:
    host_command.run(["sh", host.at("/etc/rc.local")], timeout_s=60, env={"DONJON_ROOT": str(host.root)})


def test_what_cannot_be_noted_as_waiting_is_undone_and_never_confirmed(host: ScratchHost) -> None:
    before = host.snapshot()
    plan = host.plan(guarded(EDIT, Command("in the way", 'mkdir "$JOURNAL/.status.$(cat "$JOURNAL/apply")"', ":")))
    with pytest.raises(HostError):
        apply(plan, host.runner, confirm_after=600)
    undone(host, plan)
    assert host.snapshot() == before


@AS_ROOT
def test_a_disk_that_is_full_keeps_nothing_from_being_undone(tmp_path: Path) -> None:
    host = ScratchHost(tmp_path / "host")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k,mode=755", "none", host.root], check=True)
    try:
        for path, text in (("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"), ("/etc/one.conf", "key = old\n")):
            host.write(path, text, 0o640)
        host.write("/etc/rc.local", "#!/bin/sh\nexit 0\n", 0o755)
        plan = host.plan(guarded(EDIT, Command("fill", 'cat /dev/zero >"$ROOT/etc/fill" 2>/dev/null || :', ":")))
        with pytest.raises(HostError):
            apply(plan, host.runner, confirm_after=600)
        assert host.at("/etc/one.conf").read_text() == "key = old\n"
        host.at("/etc/fill").unlink()
        undone(host, plan)
        assert host.at("/etc/one.conf").stat().st_mode & 0o777 == 0o640
    finally:
        host.power_cut()
        subprocess.run(["umount", "-l", host.root], check=True)


def test_what_somebody_writes_before_the_confirm_is_kept_beside(host: ScratchHost) -> None:
    plan = host.plan(guarded(EDIT))
    apply(plan, host.runner)
    host.write("/etc/one.conf", "mine = 1\n", 0o640)
    assert rollback(plan.id, host.runner) is State.REVERTED
    assert host.at("/etc/one.conf").read_text() == "key = old\n"
    assert host.at(f"/var/lib/donjon/harden/{plan.id}/1/theirs").read_text() == "mine = 1\n"


def test_a_plan_is_not_rolled_back_under_another_that_waits(host: ScratchHost) -> None:
    confirmed = host.plan(OTHER)
    apply(confirmed, host.runner)
    waiting = host.plan(guarded(EDIT))
    apply(waiting, host.runner, confirm_after=600)
    with pytest.raises(RefusedError, match=f"plan {waiting.id} is not decided yet"):
        rollback(confirmed.id, host.runner)
    host.power_cut()
    boot(host)
    undone(host, waiting)
    assert host.at("/etc/one.conf").read_text() == "key = old\n"
    assert rollback(confirmed.id, host.runner) is State.REVERTED


def test_an_undo_does_not_follow_a_link_that_was_put_there(host: ScratchHost) -> None:
    host.write("/etc/shadow", "secret\n", 0o600)
    key = host.write("/srv/key", "x", 0o666)
    plan = host.plan(guarded(Permissions("/srv/key", at_most=0o600)))
    apply(plan, host.runner, confirm_after=600)
    key.unlink()
    key.symlink_to(host.at("/etc/shadow"))
    with pytest.raises(HostError, match="cannot be undone: permissions of /srv/key"):
        rollback(plan.id, host.runner)
    assert host.at("/etc/shadow").stat().st_mode & 0o777 == 0o600


@AS_ROOT
def test_a_rollback_spares_an_owner_that_somebody_gave_since(host: ScratchHost) -> None:
    key = host.write("/srv/key", "x", 0o666)
    plan = host.plan(Change("private", (Permissions("/srv/key", at_most=0o600),)))
    apply(plan, host.runner)
    os.chown(key, 65534, 65534)
    with pytest.raises(RefusedError, match="permissions of /srv/key"):
        rollback(plan.id, host.runner)
    assert key.stat().st_uid == 65534


def test_what_is_undone_is_not_undone_again_at_each_boot(host: ScratchHost) -> None:
    plan = host.plan(guarded(EDIT, Command("one way", "true", "false")))
    apply(plan, host.runner, confirm_after=600)
    host.power_cut()
    with pytest.raises(HostError, match="step 2 cannot be undone: one way"):
        rollback(plan.id, host.runner)
    assert host.at("/etc/one.conf").read_text() == "key = old\n"
    host.write("/etc/one.conf", "later = 1\n", 0o640)
    boot(host)
    assert host.at("/etc/one.conf").read_text() == "later = 1\n"


def test_two_controllers_with_one_plan_do_it_once(host: ScratchHost) -> None:
    before = host.snapshot()
    slow = Command(
        "turn it", 'echo 2 >"$ROOT/etc/knob"', 'cat "$BEFORE" >"$ROOT/etc/knob"', 'sleep 0.2; cat "$ROOT/etc/knob"'
    )
    plan = host.plan(Change("slow", (slow,)))

    def one(_: int) -> str:
        try:
            return apply(plan, host.runner).value
        except DonjonError as error:
            return type(error).__name__

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(one, range(3))) == ["RefusedError", "RefusedError", "confirmed"]
    assert host.at("/etc/knob").read_text() == "2\n"
    rollback(plan.id, host.runner)
    assert host.snapshot() == before


def test_a_plan_that_is_applied_anew_has_all_its_time(host: ScratchHost) -> None:
    plan = host.plan(guarded(EDIT))
    apply(plan, host.runner, confirm_after=1)
    rollback(plan.id, host.runner)
    apply(plan, host.runner, confirm_after=600)
    time.sleep(4)
    assert pending(host.runner)[0].state is State.WAITING
    rollback(plan.id, host.runner)


@pytest.mark.parametrize("folder", ["/var/lib/donjon", "/var/lib"])
def test_no_program_is_put_where_others_can_change_it(host: ScratchHost, folder: str) -> None:
    plan = host.plan(OTHER)
    host.at("/var/lib/donjon").mkdir(parents=True)
    host.at(folder).chmod(0o777)
    with pytest.raises(RefusedError, match="others can write to a folder on the way"):
        apply(plan, host.runner)
    assert not host.at("/etc/other").exists()


@dataclass(frozen=True)
class _Turn:
    number: int

    @property
    def command(self) -> Command:
        knob = f'"$ROOT/etc/knob{self.number}"'
        return Command(f"turn {self.number}", f"touch {knob}", f"sleep 0.5; rm -f {knob}")


def test_a_rollback_goes_on_when_its_connection_dies(host: ScratchHost) -> None:
    before = host.snapshot()
    plan = host.plan(Change("turns", tuple(_Turn(number).command for number in range(3))))
    apply(plan, host.runner)
    script = f"DONJON_ROOT={host.root}\nexport DONJON_ROOT\n".encode() + call_script(plan.id, "rollback")
    with subprocess.Popen(
        ["sh", "-s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0, bufsize=0
    ) as caller:
        assert caller.stdin
        caller.stdin.write(script)
        while host.at("/etc/knob2").exists():
            time.sleep(0.05)
        os.killpg(caller.pid, 9)
    undone(host, plan)
    assert host.snapshot() == before


def test_one_plan_waits_at_a_time(host: ScratchHost) -> None:
    first, second = host.plan(guarded(EDIT)), host.plan(OTHER)
    apply(first, host.runner)
    with pytest.raises(RefusedError, match=f"plan {first.id} is not decided yet"):
        apply(second, host.runner)
    rollback(first.id, host.runner)
    assert apply(second, host.runner) is State.CONFIRMED


def test_without_a_confirm_all_is_undone(host: ScratchHost) -> None:
    before = host.snapshot()
    plan = host.plan(guarded(EDIT, _Turn(1).command))
    assert apply(plan, host.runner, confirm_after=0) is State.WAITING
    undone(host, plan)
    assert host.snapshot() == before
    with pytest.raises(RefusedError, match="it was undone already"):
        confirm(plan.id, host.runner)


def test_a_reboot_before_the_confirm_undoes_all(host: ScratchHost) -> None:
    before = host.snapshot()
    plan = host.plan(guarded(EDIT, _Turn(1).command))
    apply(plan, host.runner)
    host.power_cut()
    assert host.at("/etc/knob1").exists()
    boot(host)
    undone(host, plan)
    assert host.snapshot() == before


@pytest.mark.parametrize("path", ["/etc/one.conf", "/etc/knob"])
def test_a_rollback_spares_what_somebody_changed_since(host: ScratchHost, path: str) -> None:
    knob = Command("knob", 'echo 2 >"$ROOT/etc/knob"', 'cat "$BEFORE" >"$ROOT/etc/knob"', 'cat "$ROOT/etc/knob"')
    plan = host.plan(Change("two", (EDIT, knob, *OTHER.wants)))
    apply(plan, host.runner)
    host.write(path, "mine now\n")
    with pytest.raises(RefusedError, match="not as it was when this was planned"):
        rollback(plan.id, host.runner)
    assert host.at(path).read_text() == "mine now\n"
    assert host.at("/etc/other").exists()
