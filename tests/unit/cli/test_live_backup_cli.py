# SPDX-License-Identifier: Apache-2.0
"""What an operator can ask of a live backup, and what is said of its outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from donjon.backup.method import Capture
from donjon.backup.methods.live import GuestEndedError, LiveOptions
from donjon.backup.methods.offline import Offline, OfflineOptions
from donjon.cli.commands.backup_options import Choice, Content, Manner, wishes
from donjon.cli.main import main
from donjon.config import PolicySettings, RepositorySettings, parse_configuration
from donjon.errors import ConfigError, HostError
from donjon.model.restore_point import Consistency, Manifest
from donjon.model.vm import Power, Vm
from donjon.quiesce.freeze import Quiesce
from donjon.restore.drill import DRILL_DEBT
from donjon.state.ledger import Ledger
from donjon.testing.hypervisor import FakeHypervisor
from donjon.wiring import Program
from tests.unit.cli.conftest import CHEAP, Cli, Outcome, make_raw
from tests.unit.cli.test_parallel_backup import define_guests
from tests.unit.cli.test_round_trip import DEFINITION


class FakeLive:
    """Reads the images of guests that do not write; `ends`: each is turned off once it was captured."""

    name = "live"

    def __init__(self, hypervisor: FakeHypervisor, ledger: Ledger, options: LiveOptions, *, ends: bool) -> None:
        self._hypervisor = hypervisor
        self._files = Offline(None, ledger, "0" * 8, OfflineOptions(track_changes=False))
        self._options = options
        self._ends = ends

    @contextmanager
    def capture(self, vm: Vm, since: Manifest | None) -> Iterator[Capture]:
        with self.capture_together([(vm, since)]) as captures:
            yield captures[0]

    @contextmanager
    def capture_together(self, vms: Sequence[tuple[Vm, Manifest | None]]) -> Iterator[list[Capture]]:
        if self._options.least is Consistency.APPLICATION:
            raise HostError("cannot back up web00 as asked: only filesystem consistency was reached, not application")
        with ExitStack() as held:
            captures = [held.enter_context(self._files.capture(vm, since)) for vm, since in vms]
            if self._ends:
                for vm, _ in vms:
                    self._hypervisor.shut_down(vm.uuid, 0)
                raise GuestEndedError("cannot read vda: the guest was turned off")
            yield [replace(it, consistency=Consistency.FILESYSTEM, frozen_s=0.214) for it in captures]


@dataclass(frozen=True, slots=True)
class LiveProgram(Program):
    """A program whose live backups are faked."""

    ends: bool = False

    def live_method(self, hypervisor: Any, ledger: Ledger, repository_id: str, options: LiveOptions) -> Any:
        return FakeLive(hypervisor, ledger, options, ends=self.ends)


def run(cli: Cli, *words: str, ends: bool = False) -> Outcome:
    connect: Any = lambda _uri: nullcontext(cli.hypervisor)  # noqa: E731
    program = LiveProgram(connect=connect, scrypt=CHEAP, environ=cli.environ, ends=ends)
    cli.capture.readouterr()
    exit_code = main(list(words), program)
    out, err = cli.capture.readouterr()
    return Outcome(exit_code, out, err.decode())


def test_a_guest_that_runs_is_backed_up_live_and_goes_on(cli: Cli, home: Path) -> None:
    contents = define_guests(cli, home, 1, running=True)
    said = run(cli, "backup", "web00")
    assert said.exit_code == 0, said.err
    assert "frozen for 0.21 s" in said.out
    assert ", filesystem" in said.out.splitlines()[0]
    (point,) = cli("list", "--json").json["restore_points"]
    assert (point["method"], point["consistency"]) == ("live", "filesystem")
    assert cli("restore", "web00", "--to", "-").raw == contents["web00"]


def test_a_guest_that_is_turned_off_meanwhile_is_backed_up_offline_in_the_same_run(cli: Cli, home: Path) -> None:
    contents = define_guests(cli, home, 1, running=True)
    outcome = run(cli, "backup", "web00", "--json", ends=True)
    (backup,) = outcome.json["backups"]
    assert (outcome.exit_code, backup["restore_point"]["method"], backup["frozen_s"]) == (0, "offline", None)
    assert any("turned off while it was backed up live" in note for note in backup["notes"])
    assert cli("restore", "web00", "--to", "-").raw == contents["web00"]


def test_vms_that_are_taken_together_are_shown_as_a_group(cli: Cli, home: Path) -> None:
    define_guests(cli, home, 2, running=True)
    said = run(cli, "backup", "--all", "--together")
    assert said.exit_code == 0, said.err
    assert "taken at one moment: web00, web01 (group " in said.out
    outcome = run(cli, "backup", "--all", "--together", "--json")
    first, second = outcome.json["backups"]
    assert first["group"] == second["group"] is not None


def test_a_guest_that_is_there_for_a_drill_is_not_backed_up_with_all_the_others(cli: Cli, home: Path) -> None:
    define_guests(cli, home, 2)
    program = Program(environ=cli.environ)
    drill = {"uri": "test:///default", "name": "web01", "folder": "/none", "network": "none", "states": str(home)}
    with program.open_ledger() as ledger, ledger.owing(DRILL_DEBT, **drill) as debt:
        outcome = cli("backup", "--all", "--json")
        debt.forgive()
    assert [backup["restore_point"]["vm_name"] for backup in outcome.json["backups"]] == ["web00"]


def test_together_with_one_that_is_off_nothing_is_done(cli: Cli, home: Path) -> None:
    define_guests(cli, home, 2, running=True)
    cli.hypervisor.shut_down(cli.hypervisor.find_vm("web01").uuid, 0)
    refused = run(cli, "backup", "web00", "web01", "--together")
    assert refused.exit_code == 1
    assert "cannot back up web00, web01 together: web01 is not running" in refused.err
    assert cli("list", "--json").json["restore_points"] == []


def test_less_than_the_least_consistency_fails_or_warns(cli: Cli, home: Path) -> None:
    define_guests(cli, home, 1, running=True)
    nonsense = run(cli, "backup", "web00", "--least", "application")
    assert (nonsense.exit_code, "guests are only quiesced to filesystem" in nonsense.err) == (1, True)
    failed = run(cli, "backup", "web00", "--quiesce", "application", "--least", "application")
    assert failed.exit_code == 1
    assert "only filesystem consistency was reached" in failed.err
    suspended = run(cli, "backup", "web00", "--suspend", "--least", "filesystem")
    assert suspended.exit_code == 1
    assert "only crash consistency was reached, not filesystem" in suspended.err
    assert [vm.power for vm in cli.hypervisor.list_vms()] == [Power.RUNNING]
    (home / "c.toml").write_text('[policy.n]\nall = true\nleast = "application"\nbelow_least = "warn"\n')
    warned = run(cli, "backup", "--policy", "n", "--config", str(home / "c.toml"))
    assert warned.exit_code == 0
    assert "warning: web00: only filesystem consistency was reached, not application" in warned.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a", "--parallel", "0"), "1 or more"),
        (("a", "--quiesce", "deep"), "deep"),
        (("a", "--least", "offline"), "offline"),
        (("a", "--method", "magic"), "magic"),
        (("a", "--method", "live", "--suspend"), "say one of them"),
        (("a", "--together", "--shutdown"), "only live backups"),
        (("a", "--freeze-deadline", "0"), "0.1 or more"),
        (("a", "--least-free-scratch", "-1"), "0 or more"),
        (("a", "--compare-within", "-1"), "0 or more"),
        (("a", "--method", "live", "--disk", "vda=a.img"), "libvirt is not asked"),
        (("web1",), "web00"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_sentence(cli: Cli, home: Path, words: tuple[str, ...], said: str) -> None:
    define_guests(cli, home, 1)
    outcome = run(cli, "backup", *words)
    assert outcome.exit_code == 1
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.raw == b""


@pytest.mark.parametrize("name", ["two words", "o'brien", "Bücher-東京", "a\nb\x1b[31m"])
def test_names_are_shown_harmless_whatever_is_in_them(cli: Cli, home: Path, name: str) -> None:
    make_raw(home / "a.img", {0: b"x"})
    vm = cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    cli.hypervisor.change(replace(vm, name=name, power=Power.RUNNING))
    outcome = run(cli, "backup", "--all")
    assert outcome.exit_code == 0
    shown = name if name.isprintable() else "a\\nb\\x1b[31m"
    assert f"backing up {shown} live ..." in outcome.err
    assert f"{shown}: restore point" in outcome.out
    assert "\x1b" not in outcome.out + outcome.err


def test_options_go_before_the_policy_and_the_policy_before_what_is_usual() -> None:
    text = '[policy.n]\nall = true\nquiesce = "crash"\nfreeze_deadline = 3\nscratch = "/fast"\nparallel = 7\n'
    policy = parse_configuration(text + "compare_within = 0\nleast_free_scratch = 9\n", origin="c").policy["n"]
    settings = RepositorySettings(location="/r")
    usual = wishes(Choice(), Manner(), Content(), PolicySettings(), settings)
    said = wishes(Choice(), Manner(), Content(), policy, settings)
    asked = wishes(Choice(parallel=3), Manner(quiesce="application"), Content(compare_within=9), policy, settings)
    assert usual.live == LiveOptions()
    assert (usual.parallel, usual.sampling.days) == (2, 30)
    assert said.live is not None
    assert (said.live.quiesce, said.live.freeze_deadline_s, said.live.least_free) == (Quiesce.CRASH, 3, 9 << 20)
    assert (said.live.scratch_directory, said.parallel, said.sampling.days) == (Path("/fast"), 7, 0)
    assert asked.live is not None
    assert (asked.live.quiesce, asked.parallel, asked.sampling.days) == (Quiesce.APPLICATION, 3, 9)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('quiesce = "deep"', "quiesce is one of crash, filesystem, application"),
        ('below_least = "ignore"', "below_least is one of fail, warn"),
        ("parallel = 0", "parallel"),
        ('together = true\nwhen_running = "shutdown"', "together = true needs"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(line: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        parse_configuration(f"[policy.n]\nall = true\n{line}\n", origin="c")
