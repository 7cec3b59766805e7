# SPDX-License-Identifier: Apache-2.0
"""A plan is killed at every program it runs: the host is as it was, or as it should be, and can go back."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from donjon import host_command
from donjon.audit.catalogue import FixClass
from donjon.errors import HostError
from donjon.harden.apply import State, apply, confirm, pending, rollback
from donjon.harden.change import Change, Command, Edit, Permissions
from donjon.harden.editors import assignments, whole
from donjon.harden.plan import CommandStep, Plan, named
from donjon.harden.runner import Output, Runner
from tests.unit.harden.scratch_host import ScratchHost

# All that changes a file is one of these, or is done by one of the shells between two of them.
PROGRAMS = ("chmod", "chown", "cp", "ln", "mkdir", "mv", "rm", "rmdir", "sync", "sed")
SHIM = """\
#!/bin/sh
if ! grep -qa deadman "/proc/$PPID/cmdline"; then
    echo >>"$KILL_COUNT"
    [ "$(wc -l <"$KILL_COUNT")" != "$KILL_AT" ] || kill -9 0
fi
exec {program} "$@"
"""
CHANGE = Change(
    "everything",
    (
        Edit("/etc/one.conf", assignments({"key": "new"})),
        Permissions("/etc/two", at_most=0o600),
        Edit("/etc/new.d/three", whole("three\n"), mode=0o600),
        Command("knob", 'echo 2 >"$ROOT/etc/knob"', 'cat "$BEFORE" >"$ROOT/etc/knob"', 'cat "$ROOT/etc/knob"'),
    ),
    fix_class=FixClass.AUTOMATIC,
)


@dataclass(frozen=True)
class DyingRunner:
    """Runs scripts that are killed with all they have started when they call the n-th program."""

    root: Path
    folder: Path
    kill_at: int

    def run(self, script: bytes, *, timeout_s: float) -> Output:
        environment = {
            "DONJON_ROOT": str(self.root),
            "PATH": f"{self.folder}/shims:{os.environ['PATH']}",
            "KILL_COUNT": str(self.root.parent / "count"),
            "KILL_AT": str(self.kill_at),
        }
        # The shell in front makes it another caller than ourselves.
        argv = ["sh", "-c", "sh -s; exit $?"]
        done = host_command.run(argv, input=script, timeout_s=timeout_s, check=False, env=environment)
        return Output(done.returncode, done.stdout, done.stderr)

    def fresh(self) -> Runner:
        return self


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "shims").mkdir()
    for name in PROGRAMS:
        shim = folder / "shims" / name
        shim.write_text(SHIM.format(program=shutil.which(name)))
        shim.chmod(0o755)
    return folder


def new_host(folder: Path, name: str) -> ScratchHost:
    (folder / name).mkdir()
    host = ScratchHost(folder / name / "root")
    host.write("/etc/one.conf", "a = 1\nkey = old\nb = 2", 0o640)
    host.write("/etc/two", b"\xff\x00", 0o4755)
    host.write("/etc/knob", "1\n")
    return host


def settled(host: ScratchHost, timeout_s: float = 60) -> State | None:
    """What has become of its plan once nobody works on it any more; None: the host has never heard of it."""
    deadline = time.monotonic() + timeout_s
    journals = host.at("/var/lib/donjon/harden")
    while plans := pending(host.runner):
        (plan,) = plans
        decided = os.path.lexists(journals / plan.plan / "decision")
        if plan.state is State.WAITING and not decided:
            return plan.state
        if plan.state in (State.REVERTED, State.CONFIRMED) and not host.undecided:
            return plan.state
        if not list(journals.glob("*/deadman")):
            return rollback(plan.plan, host.runner)
        assert time.monotonic() < deadline, plan
        time.sleep(0.1)
    return None


def guarded_plan(host: ScratchHost) -> Plan:
    """The same, to be confirmed, and a last step that is done only then."""
    plan = host.plan(Change(CHANGE.title, CHANGE.wants, fix_class=FixClass.GUARDED))
    nothing = hashlib.sha256(b"").hexdigest()
    kept = CommandStep("keep", 'echo kept >"$ROOT/etc/kept"', 'rm -f "$ROOT/etc/kept"', ":", nothing, at_confirm=True)
    return named(msgspec.structs.replace(plan, steps=(*plan.steps, kept)))


def kill_applying(folder: Path, kill_at: int) -> State | None:
    host = new_host(folder, f"applying-{kill_at}")
    before = host.snapshot()
    plan = host.plan(CHANGE)
    with suppress(HostError):
        apply(plan, DyingRunner(host.root, folder, kill_at))
    if kill_at == 0:
        return None
    state = settled(host)
    assert state in (None, State.REVERTED, State.CONFIRMED), (kill_at, state)
    if state is State.CONFIRMED:
        assert host.at("/etc/new.d/three").read_text() == "three\n"
        assert host.at("/etc/knob").read_text() == "2\n"
        rollback(plan.id, host.runner)
    assert host.snapshot() == before, kill_at
    assert apply(plan, host.runner) is State.CONFIRMED, kill_at
    return state


def kill_confirming(folder: Path, kill_at: int) -> State | None:
    host = new_host(folder, f"confirming-{kill_at}")
    before = host.snapshot()
    plan = guarded_plan(host)
    assert apply(plan, host.runner, confirm_after=600) is State.WAITING
    with suppress(HostError):
        confirm(plan.id, DyingRunner(host.root, folder, kill_at))
    state = settled(host)
    assert state in (State.WAITING, State.CONFIRMED), (kill_at, state)
    assert host.at("/etc/kept").exists() is (state is State.CONFIRMED), kill_at
    assert rollback(plan.id, host.runner) is State.REVERTED
    assert host.snapshot() == before, kill_at
    return state


def kill_undoing(folder: Path, kill_at: int) -> State | None:
    host = new_host(folder, f"undoing-{kill_at}")
    before = host.snapshot()
    plan = host.plan(CHANGE)
    apply(plan, host.runner)
    with suppress(HostError):
        rollback(plan.id, DyingRunner(host.root, folder, kill_at))
    (left,) = pending(host.runner)
    assert rollback(plan.id, host.runner) is State.REVERTED
    assert host.snapshot() == before, kill_at
    return left.state


@pytest.mark.parametrize(
    ("kill", "outcomes"),
    [
        (kill_applying, {None, State.REVERTED, State.CONFIRMED}),
        (kill_confirming, {State.WAITING, State.CONFIRMED}),
        (kill_undoing, {State.CONFIRMED, State.UNDOING, State.REVERTED}),
    ],
)
def test_whoever_is_killed_leaves_nothing_half_done(
    folder: Path, kill: Callable[[Path, int], State | None], outcomes: set[State | None]
) -> None:
    kill(folder, 0)
    (count,) = folder.glob(f"{kill.__name__.removeprefix('kill_')}-0/count")
    calls = len(count.read_text())
    assert calls > 10
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda at: kill(folder, at), range(1, calls + 1))) == outcomes
