# SPDX-License-Identifier: Apache-2.0
"""Evacuation on the command line: who left is told and remembered, who stays is told with the reason."""

from __future__ import annotations

import msgspec
import pytest

from donjon.cli.commands.evacuate import Evacuated
from donjon.hypervisors.migration import Route, RunningGuest
from donjon.testing.migration import FakeMigrators
from tests.unit.cli.conftest import Cli, Outcome

DOMAIN = "<domain type='kvm'><name>{}</name><uuid>{}</uuid><devices>{}</devices></domain>"
CARD = "<hostdev mode='subsystem' type='pci'/>"


def guest(name: str, devices: str = "") -> RunningGuest:
    uuid = f"00000000-0000-0000-0000-{sum(map(ord, name)):012}"
    return RunningGuest(uuid, name, DOMAIN.format(name, uuid, devices))


@pytest.fixture
def hosts(fresh: Cli) -> FakeMigrators:
    """Three guests on a, none on b."""
    fresh.migrators = FakeMigrators({"a": [guest("db"), guest("web"), guest("card", CARD)], "b": []})
    return fresh.migrators


def names(hosts: FakeMigrators, address: str) -> list[str]:
    return sorted(one.name for one in hosts.guests(address).values())


def back(fresh: Cli, *words: str) -> Outcome:
    return fresh("harden", "evacuate", "b", "--to", "a", "--back", *words)


def test_who_can_move_moves_and_who_cannot_stays_with_the_reason(fresh: Cli, hosts: FakeMigrators) -> None:
    outcome = fresh("harden", "evacuate", "a", "--to", "b", "--via", "10.0.0.2", "--peer", "b")
    assert outcome.exit_code == 3
    assert "db: moved to b\nweb: moved to b\n" in outcome.out
    assert "card: stays on a: " in outcome.out
    assert outcome.out.endswith("2 guests moved, 1 stayed\n")
    assert (names(hosts, "a"), names(hosts, "b")) == (["card"], ["db", "web"])
    assert hosts.routes == [Route("b", "10.0.0.2")] * 2


def test_a_trial_moves_and_remembers_nobody(fresh: Cli, hosts: FakeMigrators) -> None:
    outcome = fresh("harden", "evacuate", "a", "--to", "b", "--dry-run", "--json", "--vm", "web")
    assert outcome.exit_code == 0
    assert [one["name"] for one in outcome.json["evacuation"]["moved"]] == ["web"]
    assert msgspec.json.encode(msgspec.json.decode(outcome.raw, type=Evacuated)) == outcome.raw.strip()
    assert names(hosts, "b") == []
    assert "0 guests moved" in back(fresh).out


def test_those_that_left_come_back_and_no_others(fresh: Cli, hosts: FakeMigrators) -> None:
    fresh("harden", "evacuate", "a", "--to", "b")
    native = guest("native")
    hosts.guests("b")[native.uuid] = native
    outcome = back(fresh)
    assert outcome.exit_code == 0
    assert (names(hosts, "a"), names(hosts, "b")) == (["card", "db", "web"], ["native"])
    assert "0 guests moved" in back(fresh).out


def test_one_of_those_that_left_can_come_back_alone(fresh: Cli, hosts: FakeMigrators) -> None:
    fresh("harden", "evacuate", "a", "--to", "b")
    assert back(fresh, "--vm", "web").exit_code == 0
    assert names(hosts, "b") == ["db"]
    strange = back(fresh, "--vm", "native")
    assert (strange.exit_code, "cannot bring native back" in strange.err) == (1, True)


def test_one_that_was_shut_down_meanwhile_keeps_nobody_from_coming_back(fresh: Cli, hosts: FakeMigrators) -> None:
    fresh("harden", "evacuate", "a", "--to", "b")
    del hosts.guests("b")[guest("web").uuid]
    outcome = back(fresh)
    assert outcome.exit_code == 0
    assert "db: moved to a" in outcome.out
    assert "warning: web cannot be brought back: it does not run on b any more" in outcome.err


def test_who_left_before_it_was_stopped_is_remembered(fresh: Cli, hosts: FakeMigrators) -> None:
    hosts.stopped_at = guest("web").uuid
    outcome = fresh("harden", "evacuate", "a", "--to", "b")
    assert outcome.exit_code == 130
    assert names(hosts, "b") == ["db"]
    hosts.stopped_at = None
    assert "db: moved to a" in back(fresh).out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("a", "--to", "a"), "it is where the guests would go"),
        (("a", "--to", "b", "--vm", "nobody"), "nobody: it does not run on a"),
        (("a", "--to", "b", "--copy-storage", "--shared-storage"), "disks that both hosts share"),
    ],
)
def test_what_makes_no_sense_is_refused(fresh: Cli, hosts: FakeMigrators, words: tuple[str, ...], reason: str) -> None:
    outcome = fresh("harden", "evacuate", *words)
    assert (outcome.exit_code, reason in outcome.err) == (1, True)
    assert hosts.routes == []
