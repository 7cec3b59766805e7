# SPDX-License-Identifier: Apache-2.0
"""Hardening on the command line: planned, shown, applied, confirmed and undone on a host that ssh reaches."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import msgspec
import pytest

from donjon.audit.catalogue import FixClass
from donjon.cli.commands.harden_result import PlanShown, PlansOnHost, Reached
from donjon.harden.change import Change, Edit
from donjon.harden.editors import whole
from donjon.harden.planning import save
from tests.unit.cli.bundles import bundle, fake_ssh, host, waivers
from tests.unit.cli.conftest import Cli
from tests.unit.harden.scratch_host import MACHINE, ScratchHost

KEY = "/etc/pki/libvirt/private/serverkey.pem"
THERE = ("--host", "ssh://root@kvm1")


@pytest.fixture
def kvm1(home: Path, monkeypatch: pytest.MonkeyPatch) -> ScratchHost:
    """A host with a private key that everybody may read."""
    monkeypatch.setenv("PATH", f"{fake_ssh(home)}:{os.environ['PATH']}")
    modes = {"/etc/pki/libvirt/private/": "755", KEY: "644"}
    bundle(home / "kvm1.tar", host(machine_id=MACHINE), modes=modes)
    scratch = ScratchHost(home / "kvm1")
    scratch.write(KEY, "key\n", 0o644)
    return scratch


@pytest.fixture
def guarded(kvm1: ScratchHost, home: Path) -> Path:
    """A plan whose change is undone unless it is confirmed."""
    change = Change("a rule", (Edit("/etc/rule", whole("new\n"), mode=0o600),), fix_class=FixClass.GUARDED)
    save(kvm1.plan(change), home / "a plan.json")
    return home / "a plan.json"


def mode(kvm1: ScratchHost) -> int:
    return kvm1.at(KEY).stat().st_mode & 0o777


def test_what_fails_is_planned_applied_and_rolled_back(fresh: Cli, kvm1: ScratchHost, home: Path) -> None:
    planned = fresh("harden", "plan", *THERE, "--control", "CFG-04", "-o", "plan.json")
    assert planned.exit_code == 0, planned.err
    assert f"permissions of {KEY}: 644 0 0 -> 600" in planned.out
    assert planned.out.endswith(
        "written: plan.json; nothing was changed. Next: donjon harden apply plan.json --host ssh://root@kvm1\n"
    )
    assert mode(kvm1) == 0o644
    shown = fresh("harden", "show", "plan.json")
    assert shown.out == planned.out.partition("\nwritten:")[0]
    as_json = fresh("harden", "show", "plan.json", "--json")
    assert msgspec.json.encode(msgspec.json.decode(as_json.raw, type=PlanShown)) == as_json.raw.strip()
    applied = fresh("harden", "apply", "plan.json", *THERE, "--json")
    assert (applied.exit_code, applied.json["state"], applied.json["next"]) == (0, "confirmed", None)
    assert msgspec.json.encode(msgspec.json.decode(applied.raw, type=Reached)) == applied.raw.strip()
    assert mode(kvm1) == 0o600
    pending = fresh("harden", "pending", *THERE)
    assert pending.out.endswith(" is done\n")
    as_json = fresh("harden", "pending", *THERE, "--json")
    assert msgspec.json.encode(msgspec.json.decode(as_json.raw, type=PlansOnHost)) == as_json.raw.strip()
    undone = fresh("harden", "rollback", "plan.json", *THERE)
    assert "was undone: all is as it was" in undone.out
    assert mode(kvm1) == 0o644


def test_what_is_guarded_waits_for_the_command_that_is_printed(fresh: Cli, kvm1: ScratchHost, guarded: Path) -> None:
    outcome = fresh("harden", "apply", guarded, *THERE, "--confirm-after", "60")
    assert outcome.exit_code == 0, outcome.err
    assert "unless this is done within 60 s, all of it is undone:" in outcome.out
    command = shlex.split(outcome.out.splitlines()[-1])
    assert command == ["donjon", "harden", "confirm", str(guarded), *THERE]
    assert kvm1.at("/etc/rule").read_text() == "new\n"
    assert "is done" in fresh(*command[1:]).out
    assert kvm1.at("/etc/rule").read_text() == "new\n"


def test_confirmed_at_once_nothing_waits(fresh: Cli, kvm1: ScratchHost, guarded: Path) -> None:
    outcome = fresh("harden", "apply", guarded, *THERE, "--confirm")
    assert (outcome.exit_code, "is done" in outcome.out, kvm1.undecided) == (0, True, False)


def test_this_machine_is_not_confirmed_by_who_applied_it(fresh: Cli, guarded: Path) -> None:
    outcome = fresh("harden", "apply", guarded, "--confirm")
    assert (outcome.exit_code, "that must come from another process" in outcome.err) == (1, True)


def test_a_host_that_has_changed_since_is_left_alone(fresh: Cli, kvm1: ScratchHost, guarded: Path) -> None:
    kvm1.write("/etc/rule", "somebody else's\n")
    outcome = fresh("harden", "apply", guarded, *THERE)
    assert (outcome.exit_code, "hint: make a new plan" in outcome.err) == (1, True)
    assert kvm1.at("/etc/rule").read_text() == "somebody else's\n"
    assert fresh("harden", "pending", *THERE).out == "none\n"


def test_what_is_waived_is_not_planned(fresh: Cli, kvm1: ScratchHost, home: Path) -> None:
    file = waivers(home, "CFG-04")
    file.write_text(file.read_text().replace('"web*"', '"*"'))
    words = ("harden", "plan", *THERE, "--control", "CFG-04", "--waivers", file, "-o", "plan.json", "--json")
    outcome = fresh(*words)
    assert (outcome.exit_code, outcome.json["plan"]["changes"], outcome.json["next"]) == (0, [], None)
    nothing = fresh("harden", "apply", "plan.json", *THERE)
    assert (nothing.exit_code, "there is nothing to do in it" in nothing.err) == (1, True)
    assert mode(kvm1) == 0o644


def test_what_could_not_be_seen_is_not_taken_for_done(fresh: Cli, kvm1: ScratchHost, home: Path) -> None:
    bundle(home / "kvm1.tar", host(machine_id=MACHINE, baseline_hashes="cut off"))
    outcome = fresh("harden", "plan", *THERE, "--control", "LOG-01", "-o", "plan.json")
    assert "could not be seen, so nothing is planned for it: LOG-01\n" in outcome.out
    assert fresh("harden", "plan", *THERE, "--control", "LOG-01", "-o", "2", "--json").json["unseen"] == ["LOG-01"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("plan", "-o", "kvm1.tar"), "it exists"),
        (("plan", "-o", "missing/plan"), "no directory missing"),
        (("plan", "-o", "plan", "--control", "XYZ"), "no such control"),
        (("plan", "-o", "plan", "--profile", "missing"), "name a TOML file"),
        (("plan", "-o", "plan", "--host", "ssh://dead"), "cannot collect from ssh://dead"),
        (("apply", "missing"), "No such file"),
        (("apply", "kvm1.tar"), "kvm1.tar"),
        (("apply", "missing", "--confirm-after", "0"), "say at least 1"),
        (("show", "kvm1.tar"), "kvm1.tar"),
    ],
)
def test_what_makes_no_sense_is_refused(fresh: Cli, kvm1: ScratchHost, words: tuple[str, ...], reason: str) -> None:
    before = kvm1.snapshot()
    outcome = fresh("harden", *words)
    assert (outcome.exit_code, reason in outcome.err) == (1, True), outcome.err
    assert kvm1.snapshot() == before


def test_a_plan_that_was_edited_is_refused(fresh: Cli, kvm1: ScratchHost, guarded: Path) -> None:
    guarded.write_text(guarded.read_text().replace("new", "bad"))
    assert fresh("harden", "apply", guarded, *THERE).exit_code == 1
    assert not kvm1.at("/etc/rule").exists()
