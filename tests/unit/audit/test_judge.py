# SPDX-License-Identifier: Apache-2.0
"""Judging: what cannot be seen is never a pass, a broken rule harms no other, and every control is accounted for."""

from __future__ import annotations

from datetime import date

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.audit.bundle import Bundle, Manifest, Output, PathInfo, Paths
from donjon.audit.catalogue import AttackPath, catalogue
from donjon.audit.controls import rules
from donjon.audit.fact import Absent, Known, Unknown, Unseen, derived, first_known, need
from donjon.audit.facts.host import Host, read_host
from donjon.audit.judge import BROKEN_RULE, judge
from donjon.audit.profile import Profile, load_profile, profile_names
from donjon.audit.verdict import Severity, Status

TODAY = date(2026, 11, 23)


def host(**commands: str) -> Host:
    outputs = {name.replace("_", "-"): Output(0, text) for name, text in commands.items()}
    return read_host(Bundle(Manifest(host="kvm1", started="2026-11-23T08:00:00+00:00"), outputs))


@pytest.mark.parametrize("kind", ["libvirt-qemu", "xl", "oracle-vm"])
def test_of_a_host_that_shows_nothing_but_its_kind_nothing_passes(kind: str) -> None:
    judgement = judge([host(hypervisors=kind)], Profile("all"), TODAY)
    assert [one.control for one in judgement.results if one.status is Status.PASS] == []
    assert [one.summary for one in judgement.results if one.summary.startswith(BROKEN_RULE)] == []


def test_every_control_is_judged_or_listed_as_not_implemented() -> None:
    judgement = judge([host(hypervisors="libvirt-qemu")], Profile("all"), TODAY)
    judged = {one.control for one in judgement.results}
    assert judged | set(judgement.not_implemented) == {one.id for one in catalogue().controls}
    assert not judged & set(judgement.not_implemented)


def test_a_host_of_unknown_kind_is_unknown_and_one_without_hypervisor_beside_the_point() -> None:
    unseen = judge([host()], Profile("all"), TODAY).results
    assert {one.status for one in unseen} == {Status.UNKNOWN}
    none = judge([host(hypervisors="")], Profile("all"), TODAY).results
    assert {one.status for one in none} == {Status.NOT_APPLICABLE}


def test_the_profile_says_which_kind_is_meant() -> None:
    results = judge([host()], Profile("xen", hosts="X"), TODAY).results
    kinds = {one.control: catalogue().control(one.control).hosts for one in results}
    beside = {one.control for one in results if one.summary == "not for this kind of host"}
    assert beside == {control for control, hosts in kinds.items() if "X" not in hosts}


def test_fingerprints_tell_subjects_apart_and_stay_the_same() -> None:
    first, second = (judge([host(hypervisors="libvirt-qemu")], Profile("all"), TODAY) for _ in range(2))
    assert [one.fingerprint for one in first.results] == [one.fingerprint for one in second.results]
    keys = {(one.control, one.host, one.subject) for one in first.results}
    assert len({one.fingerprint for one in first.results}) == len(keys)


def test_facts_survive_json() -> None:
    facts = host(hypervisors="libvirt-qemu", uname="Linux kvm1 6.1.0 #1 SMP x86_64 GNU/Linux")
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Host) == facts


def test_needing_what_is_absent_or_unknown_ends_the_rule_unless_absence_has_a_meaning() -> None:
    assert need(Known(3, "here")) == 3
    assert need(Absent("here"), absent=4) == 4
    for fact in (Absent("/etc/x"), Unknown("timed out")):
        with pytest.raises(Unseen, match=r"^not there|^timed out"):
            need(fact)
    with pytest.raises(Unseen, match="timed out"):
        need(Unknown("timed out"), absent=4)


def test_what_cannot_be_parsed_is_unknown_and_says_where_it_is_from() -> None:
    assert derived(Known("7", "cmd/x"), int) == Known(7, "cmd/x")
    broken = derived(Known("seven", "cmd/x"), int)
    assert isinstance(broken, Unknown)
    assert broken.reason.startswith("cmd/x cannot be understood")
    assert first_known(Absent("a"), Unknown("b"), Known(1, "c")) == Known(1, "c")
    assert first_known(Absent("a"), Unknown("b")) == Unknown("b")


PATHS = Paths(
    {path: PathInfo(path, 0o755, 0, 0, kind="d") for path in ("/etc", "/etc/libvirt", "/etc/libvirt/qemu")},
    looked={"/etc/libvirt": 1, "/etc": 0},
    refused={"/etc/libvirt/secrets": "Permission denied"},
)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/etc/libvirt", Known),
        ("/etc/libvirt/hooks", Absent),
        ("/etc/libvirt/../libvirt/hooks", Absent),
        ("/etc/libvirt/qemu/web.xml", Unknown),
        ("/etc/libvirt/secrets", Unknown),
        ("/etc/libvirt/secrets/key", Unknown),
        ("/etc/shadow", Unknown),
        ("/var", Unknown),
    ],
)
def test_only_what_was_looked_at_can_be_absent(path: str, kind: type) -> None:
    assert isinstance(PATHS.at(path), kind)


def test_a_listing_with_a_part_that_was_refused_is_unknown() -> None:
    assert isinstance(PATHS.below("/etc/libvirt"), Unknown)
    assert isinstance(PATHS.below("/etc"), Unknown)
    allowed = msgspec.structs.replace(PATHS, refused={})
    assert [one.path for one in need(allowed.below("/etc/libvirt"))] == ["/etc/libvirt/qemu"]


def test_outputs_of_probes_that_failed_are_no_answers() -> None:
    bundle = Bundle(
        Manifest(),
        {"good": Output(0, "x"), "none": Output(127, ""), "slow": Output(124, "x"), "bad": Output(1, "x", "a\nno")},
    )
    assert bundle.output("good") == Known("x", "cmd/good")
    assert bundle.output("none") == Absent("cmd/none")
    assert bundle.output("slow") == Unknown("cmd/slow: timed out")
    assert bundle.output("bad") == Unknown("cmd/bad failed (1): no")
    assert isinstance(bundle.output("never"), Unknown)


def test_the_catalogue_is_whole() -> None:
    controls = catalogue().controls
    assert len(controls) == len({one.id for one in controls}) == 220
    assert set(rules()) == {one.id for one in controls if one.tier == 1}
    assert {one.area for one in controls} == set(catalogue().areas)
    assert {one.attack_path for one in controls} == set(AttackPath)
    assert all(set(one.principles) <= set(catalogue().principles) and one.frameworks for one in controls)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_that_is_shipped_makes_sense(name: str) -> None:
    assert load_profile(name).name == name


def test_a_warning_is_a_step_less_severe_but_never_nothing() -> None:
    assert Severity.HIGH.lower() is Severity.MEDIUM
    assert Severity.INFO.lower() is Severity.INFO


@given(st.dictionaries(st.sampled_from(sorted({"hypervisors", "domains", "uname", "cmdline"})), st.text()))
def test_whatever_a_host_says_no_rule_breaks(said: dict[str, str]) -> None:
    results = judge([host(**said)], Profile("all", hosts="KXO"), TODAY, ("GST-01", "HYP-01", "BKP-01")).results
    assert not [one.summary for one in results if one.summary.startswith(BROKEN_RULE)]
