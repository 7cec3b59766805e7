# SPDX-License-Identifier: Apache-2.0
"""A host is emptied, guests that cannot move are named with the reason, and the same ones come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from donjon.errors import ConfigError, RefusedError
from donjon.harden.evacuation import Evacuation, EvacuationRecord, Moved, evacuate
from donjon.hypervisors.migration import Route, RunningGuest, obstacles
from donjon.model.progress import NoProgress
from donjon.testing.migration import FakeMigrators

DOMAIN = "<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><devices>{devices}</devices>{more}</domain>"
TO_B = Route("b", via="10.0.0.2")


def guest(name: str, devices: str = "", more: str = "") -> RunningGuest:
    uuid = f"00000000-0000-0000-0000-{sum(map(ord, name)):012}"
    return RunningGuest(uuid, name, DOMAIN.format(name=name, uuid=uuid, devices=devices, more=more))


def run(hosts: FakeMigrators, **options: object) -> Evacuation:
    return evacuate(hosts.at("a"), hosts.at("b"), TO_B, NoProgress(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("devices", "more", "reason"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", "", "passed through"),
        ("<interface type='hostdev'/>", "", "network card of this host"),
        ("<filesystem type='mount'><source dir='/srv/share'/></filesystem>", "", "/srv/share"),
        ("<disk type='block' device='lun'><target dev='sda'/></disk>", "", "disk sda"),
        ("<shmem name='shared'/>", "", "shmem"),
        ("", "<launchSecurity type='sev'/>", "launchSecurity"),
    ],
)
def test_a_guest_bound_to_its_host_stays_with_the_reason(devices: str, more: str, reason: str) -> None:
    hosts = FakeMigrators({"a": [guest("bound", devices, more), guest("web")], "b": []})
    done = run(hosts)
    assert [one.name for one in done.moved] == ["web"]
    assert [(one.name, reason in one.reasons[0]) for one in done.staying] == [("bound", True)]


def test_virtiofs_and_plain_devices_keep_nobody() -> None:
    devices = (
        "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv'/></filesystem>"
        "<disk type='file' device='disk'><target dev='vda'/></disk><interface type='bridge'/>"
    )
    assert obstacles(guest("web", devices).definition) == ()


def test_what_the_hypervisor_refuses_stays_and_the_others_move() -> None:
    first, second = guest("first"), guest("second")
    hosts = FakeMigrators({"a": [first, second], "b": []}, refused={first.uuid: "unsafe without shared storage"})
    done = run(hosts)
    assert [one.name for one in done.moved] == ["second"]
    assert done.staying[0].reasons == ("cannot move it: unsafe without shared storage",)
    assert list(hosts.guests("a")) == [first.uuid]
    assert hosts.routes == [TO_B, TO_B]


def test_a_trial_moves_nobody() -> None:
    hosts = FakeMigrators({"a": [guest("web")], "b": []})
    assert [one.name for one in run(hosts, trial=True).moved] == ["web"]
    assert hosts.routes == []


def test_a_guest_that_runs_on_both_hosts_is_not_touched() -> None:
    hosts = FakeMigrators({"a": [guest("web")], "b": [guest("web")]})
    assert run(hosts).staying[0].reasons == ("it runs on both hosts already",)


def test_a_host_is_not_evacuated_to_itself() -> None:
    hosts = FakeMigrators({"a": [guest("web")]})
    with pytest.raises(RefusedError):
        evacuate(hosts.at("a"), hosts.at("a"), TO_B, NoProgress())


def test_only_the_named_guests_move_and_a_wrong_name_moves_nobody() -> None:
    hosts = FakeMigrators({"a": [guest("web"), guest("db")], "b": []})
    with pytest.raises(ConfigError, match="mail"):
        run(hosts, only=["web", "mail"])
    assert hosts.routes == []
    assert [one.name for one in run(hosts, only=["web"]).moved] == ["web"]


def test_those_that_left_are_remembered_until_they_come_back(tmp_path: Path) -> None:
    record = EvacuationRecord(tmp_path / "evacuations")
    record.left(Evacuation("a", "b", (Moved("1", "web"), Moved("2", "db")), ()))
    record.left(Evacuation("a", "b", (Moved("3", "mail"),), ()))
    assert record.away_from("a") == {"1": "web", "2": "db", "3": "mail"}
    record.left(Evacuation("b", "a", (Moved("1", "web"), Moved("3", "mail")), ()))
    assert record.away_from("a") == {"2": "db"}
