# SPDX-License-Identifier: Apache-2.0
"""A plan says what will change and nothing else, and cannot be changed behind donjon's back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from donjon.audit.catalogue import FixClass, catalogue
from donjon.audit.fact import Unseen
from donjon.errors import ConfigError, HostError
from donjon.harden.apply import State, apply, rollback
from donjon.harden.change import Change, Command, Edit, Permissions, words
from donjon.harden.editors import assignments, whole
from donjon.harden.fixes import fixes
from donjon.harden.hunks import diff
from donjon.harden.plan import AccessStep, FileStep
from donjon.harden.planning import SO_ALREADY, load, save
from tests.unit.harden.scratch_host import ScratchHost, finding

CONF = "/etc/libvirt/qemu.conf"


@pytest.fixture
def host(tmp_path: Path) -> ScratchHost:
    return ScratchHost(tmp_path / "host")


def test_edits_of_one_file_become_one_step_and_its_secrets_stay_on_the_host(host: ScratchHost) -> None:
    host.write(CONF, 'vnc_password = "hunter2"\na = 1\n')
    one = Change("one", (Edit(CONF, assignments({"a": "2"})),), activate=("true",))
    two = Change("two", (Edit(CONF, assignments({"b": "3"})),), activate=("true",))
    plan = host.plan(one, two)
    (step,) = plan.steps
    assert isinstance(step, FileStep)
    assert diff(step.hunks) == "@@ -2,1 +2,2 @@\n-a = 1\n+a = 2\n+b = 3"
    assert step.after == hashlib.sha256(b'vnc_password = "hunter2"\na = 2\nb = 3\n').hexdigest()
    assert [change.steps for change in plan.changes] == [(1,), (1,)]
    assert plan.activations == ("true",)
    assert b"hunter2" not in msgspec.json.encode(plan)


def test_a_line_that_is_no_text_is_not_changed(host: ScratchHost) -> None:
    host.write(CONF, b"a = \xe4\n")
    plan = host.plan(Change("one", (Edit(CONF, lambda text: text.replace("a", "b")),)))
    assert plan.instructions[0].reason == "a line that would change is no text in UTF-8"


def test_text_that_looks_like_a_secret_left_out_is_not_changed(host: ScratchHost) -> None:
    host.write(CONF, "a = [secret 7 of line 99]\n")
    plan = host.plan(Change("one", (Edit(CONF, assignments({"a": "1"})),)))
    assert plan.instructions[0].reason == "its text looks as if donjon had left out a secret there"


def test_a_plan_is_read_back_and_one_that_was_changed_is_refused(host: ScratchHost, tmp_path: Path) -> None:
    plan = host.plan(Change("one", (Edit("/etc/new", whole("x\n"), mode=0o600),)))
    save(plan, tmp_path / "plan")
    assert (tmp_path / "plan").stat().st_mode & 0o777 == 0o600
    assert load(tmp_path / "plan") == plan
    text = (tmp_path / "plan").read_text()
    (tmp_path / "plan").write_text(text.replace("/etc/new", "/etc/old"))
    with pytest.raises(ConfigError, match="it was changed after it was made"):
        load(tmp_path / "plan")
    with pytest.raises(ConfigError, match="File exists"):
        save(plan, tmp_path / "plan")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Change("", (Edit("/etc/missing", assignments({"a": "1"})),)), "/etc/missing is not there"),
        (Change("", (Edit("/etc/link", assignments({"a": "1"})),)), "/etc/link: link"),
        (Change("", (Permissions("/etc/link", at_most=0o600),)), "/etc/link: link"),
        (Change("", (Permissions("/etc/open/file", at_most=0o600),)), "/etc/open/file: others can replace it"),
        (Change("", (Edit("/etc/open/new", whole("x\n"), mode=0o600),)), "/etc/open/new: others can replace it"),
        (
            Change("", (Edit("/etc/sticky/new/x", whole("x\n"), mode=0o600),)),
            "/etc/sticky/new/x: others can replace it",
        ),
        (Change("", (Permissions("/etc/sticky/file", at_most=0o600),)), "/etc/sticky/file: others can replace it"),
        (Change("", (Edit("/etc/shared/file", whole("x\n")),)), "/etc/shared/file: others can replace it"),
        (Change("", (Command("", "true", "true", state="echo no; exit 3"),)), "no"),
        (Change("", (Edit("/etc/file", assignments({"a": "1"})),), preview="echo too early; false"), "too early"),
        (Change("", (Edit("/etc/file", whole("a = 1\n")),)), SO_ALREADY),
        (Change("", (Permissions("/etc/file", at_most=0o644),)), SO_ALREADY),
    ],
)
def test_what_cannot_be_done_here_becomes_an_instruction_that_says_why(
    host: ScratchHost, change: Change, reason: str
) -> None:
    host.write("/etc/file", "a = 1\n", 0o644)
    host.at("/etc/link").symlink_to("file")
    for folder, mode in (("open", 0o777), ("sticky", 0o1777), ("shared", 0o775)):
        host.write(f"/etc/{folder}/file", "", 0o644).parent.chmod(mode)
    plan = host.plan(change)
    assert (plan.steps, plan.changes) == ((), ())
    assert [one.reason for one in plan.instructions] == [reason]


def test_guarded_changes_come_last_and_make_the_plan_guarded(host: ScratchHost) -> None:
    one = Change("one", (Edit("/etc/one", whole("1\n"), mode=0o600),), fix_class=FixClass.GUARDED)
    two = Change("two", (Edit("/etc/two", whole("2\n"), mode=0o600),), fix_class=FixClass.AUTOMATIC)
    plan = host.plan(one, two)
    assert [step.title for step in plan.steps] == ["write /etc/two", "write /etc/one"]
    assert plan.guarded
    assert not host.plan(two).guarded


def test_another_host_gets_no_plan(host: ScratchHost) -> None:
    host.write("/etc/machine-id", "f" * 32)
    with pytest.raises(HostError, match="the host that answers is another one"):
        host.plan(Change("one", (Edit("/etc/one", whole("1\n"), mode=0o600),)))


def test_a_name_that_a_guest_chose_is_never_run(host: ScratchHost) -> None:
    name = "web'; touch \"$ROOT/etc/owned\"; '$(touch $ROOT/etc/owned)`\n#"
    place = f"/etc/{name.replace('/', ' ')}"
    host.write(place, "x\n", 0o666)
    plan = host.plan(
        Change(name, (Permissions(place, at_most=0o600), Command(name, words("true", name), ":"))),
    )
    assert apply(plan, host.runner) is State.CONFIRMED
    assert host.at(place).stat().st_mode & 0o777 == 0o600
    assert not host.at("/etc/owned").exists()
    assert rollback(plan.id, host.runner) is State.REVERTED
    assert host.at(place).stat().st_mode & 0o777 == 0o666


def test_a_fact_that_was_not_seen_gives_an_instruction(host: ScratchHost) -> None:
    def blind(*_: object) -> Change | None:
        raise Unseen("nobody looked")

    plan = host.plan(findings=[finding("CFG-01")], known={"CFG-01": blind})
    assert [one.reason for one in plan.instructions] == ["nobody looked"]
    assert plan.instructions[0].text == catalogue().control("CFG-01").fix


def test_every_fix_is_for_a_control_of_the_catalogue() -> None:
    assert {"CFG-01", "ACC-05", "GST-01", "RES-01"} <= set(fixes())
    for control in fixes():
        assert catalogue().control(control).fix_class is not FixClass.INSTRUCTIONS


def test_private_files_of_libvirt_are_taken_from_others_and_given_back(host: ScratchHost) -> None:
    host.write(CONF, "x\n", 0o4666)
    plan = host.plan(findings=[finding("CFG-01", CONF)])
    assert next(step for step in plan.steps if isinstance(step, AccessStep)).mode == 0o4640
    apply(plan, host.runner)
    assert host.at(CONF).stat().st_mode & 0o7777 == 0o4640
    rollback(plan.id, host.runner)
    assert host.at(CONF).stat().st_mode & 0o7777 == 0o4666


def test_shared_memory_pages_are_given_back_only_if_there_is_room(host: ScratchHost) -> None:
    host.write("/sys/kernel/mm/ksm/run", "1\n")
    host.write("/sys/kernel/mm/ksm/pages_sharing", "1000\n")
    host.write("/proc/meminfo", "MemTotal: 9999 kB\nMemAvailable: 3999 kB\n")
    assert "no memory" in host.plan(findings=[finding("RES-01")]).instructions[0].reason
    host.write("/proc/meminfo", "MemTotal: 9999 kB\nMemAvailable:    4001 kB\n")
    plan = host.plan(findings=[finding("RES-01")])
    apply(plan, host.runner)
    assert host.at("/sys/kernel/mm/ksm/run").read_text() == "2\n"
    rollback(plan.id, host.runner)
    assert host.at("/sys/kernel/mm/ksm/run").read_text() == "1\n"
