# SPDX-License-Identifier: Apache-2.0
"""Audits on the command line: what is seen is told in every form, what is not seen never passes, nothing is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from donjon.audit.profile import load_profile
from donjon.audit.report.formats import FORMATS
from donjon.backup.standstill import START_DEBT
from donjon.cli.commands.audit_baseline import Baselines
from donjon.cli.commands.audit_catalogue import ControlList, ProfileList, ShownProfile
from donjon.cli.commands.audit_collect import Collected
from donjon.cli.commands.audit_result import AuditDiff, Audited
from donjon.wiring import Program
from tests.unit.cli.bundles import TODAY, WEB, bundle, fake_ssh, host, waivers
from tests.unit.cli.conftest import Cli, Outcome, make_raw
from tests.unit.cli.test_round_trip import DEFINITION

ONLY = ("--control", "GST-01")


@pytest.fixture
def bad(home: Path) -> Path:
    """A host whose VM has its console open to everybody."""
    return bundle(home / "bad.tar", host())


@pytest.fixture
def good(home: Path) -> Path:
    """The same host when that was mended."""
    return bundle(home / "good.tar", host(listen="127.0.0.1"))


@pytest.fixture
def ssh(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the hosts that ssh reaches."""
    monkeypatch.setenv("PATH", f"{fake_ssh(home)}:{os.environ['PATH']}")
    return home


def same(outcome: Outcome, kind: type) -> None:
    """What was printed is what the schema of this kind says, with nothing beside it."""
    assert msgspec.json.encode(msgspec.json.decode(outcome.raw, type=kind)) == outcome.raw.strip()


@pytest.mark.parametrize("words", [("audit",), ("audit", "run")], ids=" ".join)
def test_the_worst_is_told_first_and_ends_with_20(fresh: Cli, bad: Path, words: tuple[str, ...]) -> None:
    outcome = fresh(*words, "--bundle", bad)
    assert outcome.exit_code == 20
    assert outcome.out.splitlines()[0].startswith("kvm1: unknown system, KVM/libvirt, looked at 2026-11-20")
    (first,) = (line for line in outcome.out.splitlines() if line.startswith(" 1."))
    assert first.startswith(" 1. critical GST-01  VNC of web01 listens on 0.0.0.0 without a password")
    assert "\nremote unauthenticated (" in outcome.out
    assert "could not be seen (" in outcome.out
    assert not (Path(fresh.environ["DONJON_STATE_DIR"])).exists(), "an audit leaves nothing behind"


def test_the_family_alone_with_help_says_what_belongs_to_it(fresh: Cli) -> None:
    assert "profile" in fresh("audit", "--help").out
    assert fresh("audit", "nothing").exit_code == 1
    assert fresh().exit_code == 0


def test_json_is_what_the_schema_says(fresh: Cli, bad: Path) -> None:
    outcome = fresh("audit", "--bundle", bad, "--json", "--format", "html")
    assert outcome.exit_code == outcome.json["verdict"] == 20
    assert outcome.json["document"] is None
    same(outcome, Audited)


@pytest.mark.parametrize(
    ("words", "open_exit", "mended_exit"),
    [("high", 20, 0), ("critical", 20, 0), ("never", 0, 0), ("never,unknown", 0, 0), ("unknown", 0, 0)],
)
def test_fail_on_says_what_counts(
    fresh: Cli, bad: Path, good: Path, words: str, open_exit: int, mended_exit: int
) -> None:
    assert fresh("audit", "--bundle", bad, *ONLY, "--fail-on", words).exit_code == open_exit
    assert fresh("audit", "--bundle", good, *ONLY, "--fail-on", words).exit_code == mended_exit


def test_what_could_not_be_seen_never_passes(fresh: Cli, home: Path) -> None:
    blind = bundle(home / "blind.tar", {"hypervisors": "libvirt-qemu\n", "machine-id": "kvm1\n"})
    outcome = fresh("audit", "--bundle", blind, *ONLY, "--json", "--fail-on", "high,unknown")
    assert outcome.exit_code == 21
    assert [one["result"]["status"] for one in outcome.json["report"]["findings"]] == ["unknown"]
    assert outcome.json["report"]["score"] == 0
    assert fresh("audit", "--bundle", blind, *ONLY).exit_code == 0


@pytest.mark.parametrize("words", ["hihg", "high,low", ""])
def test_a_word_of_fail_on_that_makes_no_sense_is_an_error(fresh: Cli, bad: Path, words: str) -> None:
    outcome = fresh("audit", "--bundle", bad, "--fail-on", words)
    assert outcome.exit_code == 1
    assert "hint: one of critical, high" in outcome.err


def test_only_what_is_new_since_the_baseline_counts(fresh: Cli, bad: Path, good: Path, home: Path) -> None:
    (home / "before.json").write_bytes(fresh("audit", "--bundle", good, *ONLY, "--json").raw)
    assert fresh("audit", "--bundle", bad, *ONLY, "--format", "json", "-o", "after.json").exit_code == 20
    new = ("audit", "--bundle", bad, *ONLY, "--fail-on", "new,high", "--baseline")
    outcome = fresh(*new, "before.json")
    assert (outcome.exit_code, "without a password [new]" in " ".join(outcome.out.split())) == (20, True)
    assert fresh(*new, "after.json").exit_code == 0
    refused = fresh("audit", "--bundle", bad, "--fail-on", "new")
    assert (refused.exit_code, "say --baseline" in refused.err) == (1, True)


def test_a_waived_finding_is_shown_with_who_answers_for_it_and_ends_with_0(fresh: Cli, bad: Path, home: Path) -> None:
    run = ("audit", "--bundle", bad, *ONLY, "--waivers")
    outcome = fresh(*run, waivers(home))
    assert outcome.exit_code == 0
    assert "waived (1)\n" in outcome.out
    assert f"(ann answers for it until {TODAY + timedelta(10)}: being rebuilt)" in " ".join(outcome.out.split())
    shown = fresh(*run, waivers(home), "--json").json["report"]
    assert shown["findings"][0]["waiver"]["owner"] == "ann"
    assert (shown["score"], shown["score_without_waivers"]) == (None, 0)


def test_waivers_that_do_nothing_are_told(fresh: Cli, bad: Path, home: Path) -> None:
    run = ("audit", "--bundle", bad, *ONLY, "--waivers")
    expired = fresh(*run, waivers(home, days=-1))
    assert (expired.exit_code, "GST-01 on web*: expired" in expired.out) == (20, True)
    assert "unused" in fresh(*run, waivers(home, "GST-02")).out
    too_long = fresh(*run, waivers(home, days=346))
    assert (too_long.exit_code, "more than 365 days" in too_long.err) == (1, True)


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_is_written_again_in_every_form(fresh: Cli, bad: Path, home: Path, form: str) -> None:
    (home / "printed.json").write_bytes(fresh("audit", "--bundle", bad, *ONLY, "--json").raw)
    printed = fresh("audit", "report", "printed.json", "--format", form)
    assert printed.exit_code == 0
    assert b"GST-01" in printed.raw
    outcome = fresh("audit", "report", "printed.json", "--format", form, "-o", f"out.{form}")
    assert outcome.out.endswith(f"written: out.{form}\n")
    assert b"GST-01" in (home / f"out.{form}").read_bytes()
    again = fresh("audit", "report", "printed.json", "--format", form, "-o", f"out.{form}")
    assert (again.exit_code, "it exists" in again.err) == (1, True)


def test_a_report_is_shown_again_as_it_was(fresh: Cli, bad: Path, home: Path) -> None:
    first = fresh("audit", "--bundle", bad)
    fresh("audit", "--bundle", bad, "--format", "json", "-o", "r.json")
    assert fresh("audit", "report", "r.json").out == first.out
    same(fresh("audit", "report", "r.json", "--json"), Audited)
    assert (home / "r.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("-o", "x"), "choose a --format"),
        (("-o", "missing/x", "--format", "csv"), "no directory missing"),
        (("-o", "bad.tar", "--format", "csv"), "it exists"),
        (("--control", "GST-1"), "no such control"),
        (("--control", "GST-03"), "no rule judges it yet"),
        (("--signers", "s"), "say --gold DIR"),
        (("--gold", "."), "say --signers FILE"),
        (("--gold", "missing", "--signers", "s"), "no such directory"),
        (("--advisories", "."), "donjon advisories import"),
        (("--waivers", "missing"), "No such file"),
        (("--baseline", "missing"), "No such file"),
        (("--profile", "missing"), "name a TOML file, or one of: auto, kvm-cluster"),
    ],
)
def test_what_makes_no_sense_is_said_before_a_host_is_looked_at(
    fresh: Cli, bad: Path, words: tuple[str, ...], reason: str
) -> None:
    outcome = fresh("audit", "--bundle", bad, "--host", "ssh://nobody.invalid", *words)
    assert outcome.exit_code == 1
    assert reason in outcome.err
    assert "nobody.invalid" not in outcome.err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('name = "ours"\nmulti_tenent = true', "multi_tenent"),
        ('name = "ours"\n[networks]\nmanagement = ["10.0.0.0/33"]', "10.0.0.0/33"),
        ('name = "ours', "Unterminated string"),
    ],
)
def test_a_profile_with_a_slip_is_refused(fresh: Cli, bad: Path, home: Path, text: str, reason: str) -> None:
    (home / "ours.toml").write_text(text, encoding="utf-8")
    outcome = fresh("audit", "--bundle", bad, "--profile", "ours.toml")
    assert outcome.exit_code == 1
    assert reason in outcome.err
    assert "hint: `donjon audit profile show" in outcome.err


def test_a_profile_that_is_shown_can_be_loaded_again(fresh: Cli, home: Path) -> None:
    listed = fresh("audit", "profile", "list", "--json")
    same(listed, ProfileList)
    names = [name for name, _ in listed.json["profiles"]]
    assert {"auto", "kvm-single", "kvm-cluster", "xen-xl", "oracle-vm-3"} <= set(names)
    assert all(name in fresh("audit", "profile", "list").out for name in names)
    for name in names:
        (home / "ours.toml").write_text(fresh("audit", "profile", "show", name).out, encoding="utf-8")
        assert load_profile(str(home / "ours.toml")) == load_profile(name)
    same(fresh("audit", "profile", "show", "ours.toml", "--json"), ShownProfile)


def test_all_is_told_of_one_control_and_a_line_of_many(fresh: Cli) -> None:
    one = fresh("audit", "controls", "GST-01")
    assert one.out.startswith("GST-01: ")
    assert [line.split()[0] for line in one.out.splitlines()[1:3]] == ["severity", "hosts"]
    assert len(fresh("audit", "controls").out.splitlines()) == 221
    some = fresh("audit", "controls", "GST", "--json")
    assert {listed["control"]["area"] for listed in some.json["controls"]} == {"GST"}
    same(some, ControlList)
    strange = fresh("audit", "controls", "GST-01", "XYZ")
    assert (strange.exit_code, "XYZ: there is none" in strange.err) == (1, True)


def made(fresh: Cli, path: Path, *words: str | Path) -> Path:
    report = path.with_suffix(".json")
    fresh("audit", "--bundle", path, *ONLY, *words, "--format", "json", "-o", report)
    return report


def test_a_comparison_tells_what_is_new_and_what_was_fixed(fresh: Cli, bad: Path, good: Path, home: Path) -> None:
    worse, better = made(fresh, bad), made(fresh, good)
    new = fresh("audit", "diff", better, worse)
    assert new.exit_code == 20
    assert new.out.splitlines()[0] == "new (1)"
    assert new.out.splitlines()[1].startswith("  critical GST-01   kvm1: VNC of web01 listens on 0.0.0.0")
    fixed = fresh("audit", "diff", worse, better, "--json")
    assert [one["change"] for one in fixed.json["changes"]] == ["fixed"]
    assert fixed.exit_code == 0
    same(fixed, AuditDiff)
    assert fresh("audit", "diff", better, worse, "--fail-on", "never").exit_code == 0
    unchanged = fresh("audit", "diff", worse, worse)
    assert (unchanged.exit_code, unchanged.out) == (0, "unchanged (1)\n")
    blind = made(fresh, bundle(home / "blind.tar", host(domains="")))
    assert fresh("audit", "diff", better, blind).exit_code == 0


def test_what_is_new_but_waived_is_shown_and_ends_with_0(fresh: Cli, bad: Path, good: Path, home: Path) -> None:
    outcome = fresh("audit", "diff", made(fresh, good), made(fresh, bad, "--waivers", waivers(home)))
    assert outcome.exit_code == 0
    assert outcome.out.startswith("new (1)\n")
    assert "(waived by ann)" in " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda report: report.update(schema=99), "a newer donjon wrote it"),
        (lambda report: report["findings"][0]["result"].update(control="XYZ-01"), "there is no control XYZ-01"),
        (lambda report: report["hosts"][0].update(kinds="Z"), "no kind of host 'Z'"),
        (lambda report: report.clear(), "missing required field"),
    ],
)
def test_a_report_that_makes_no_sense_is_refused(
    fresh: Cli, bad: Path, home: Path, change: Callable[[dict[str, object]], None], reason: str
) -> None:
    report = json.loads(made(fresh, bad).read_text())
    change(report)
    (home / "wrong.json").write_text(json.dumps(report))
    outcome = fresh("audit", "report", "wrong.json")
    assert (outcome.exit_code, reason in outcome.err) == (1, True)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_report_is_refused(fresh: Cli, home: Path, content: bytes) -> None:
    (home / "wrong.json").write_bytes(content)
    outcome = fresh("audit", "diff", "wrong.json", "wrong.json")
    assert (outcome.exit_code, "cannot read report" in outcome.err) == (1, True)


@pytest.mark.parametrize("cut", [0, 700, 5000])
def test_a_bundle_that_is_cut_off_is_an_error_and_no_report(fresh: Cli, home: Path, cut: int) -> None:
    cut_off = bundle(home / "cut.tar", host(), cut=cut)
    outcome = fresh("audit", "--bundle", cut_off, "--format", "json", "-o", "r.json")
    assert outcome.exit_code == 1
    assert str(cut_off) in outcome.err
    assert not (home / "r.json").exists()


def test_names_of_a_hostile_bundle_do_not_reach_the_terminal(fresh: Cli, home: Path) -> None:
    hostile = bundle(home / "evil.tar", host("evil"), name="\x1b]0;owned\x07\n[baseline]")
    outcome = fresh("audit", "--bundle", hostile)
    assert outcome.exit_code == 20
    assert "\x1b" not in outcome.out
    assert "\x1b" not in fresh("audit", "baseline", "--bundle", hostile).out


def test_one_host_of_several_fails_and_the_others_are_judged(fresh: Cli, ssh: Path) -> None:
    bundle(ssh / "kvm1.tar", host("kvm1"))
    bundle(ssh / "kvm2.tar", host("kvm2", listen="127.0.0.1"), "kvm2")
    words = ("audit", "--host", "ssh://kvm1", "--host", "ssh://a@kvm2", "--host", "ssh://dead", "--host", "ssh://kvm1")
    outcome = fresh(*words, *ONLY)
    assert outcome.exit_code == 3
    assert "kvm1: VNC of web01 listens on 0.0.0.0" in outcome.out
    assert "not looked at: ssh://dead: cannot collect from ssh://dead: " in outcome.out
    assert "3/3 " in outcome.err
    shown = fresh(*words, *ONLY, "--json", "--quiet")
    assert [one["host"] for one in shown.json["not_collected"]] == ["ssh://dead"]
    assert {one["name"] for one in shown.json["report"]["hosts"]} == {"kvm1", "kvm2"}
    assert shown.err == ""
    same(shown, Audited)


def test_without_any_host_there_is_no_report(fresh: Cli, ssh: Path) -> None:
    outcome = fresh("audit", "--host", "ssh://dead", "--host", "ssh://gone", "--format", "csv", "-o", "r.csv")
    assert outcome.exit_code == 1
    assert "cannot look at any of 2 hosts" in outcome.err
    assert "ssh://gone: " in outcome.err
    assert not (ssh / "r.csv").exists()
    assert "Connection refused" in fresh("audit", "--host", "ssh://dead").err


def test_two_hosts_of_one_machine_id_are_not_mixed_up(fresh: Cli, bad: Path, home: Path) -> None:
    clone = bundle(home / "clone.tar", host("kvm2", machine_id="kvm1", listen="127.0.0.1"), "kvm2")
    outcome = fresh("audit", "--bundle", bad, "--bundle", clone, *ONLY)
    assert outcome.exit_code == 3
    assert "VNC of web01" in outcome.out
    assert f"cannot tell {clone} from {bad}" in outcome.out


def test_what_was_seen_is_kept_and_never_written_over(fresh: Cli, ssh: Path) -> None:
    seen = bundle(ssh / "kvm1.tar", host()).read_bytes()
    kept = fresh("audit", "collect", "--host", "ssh://kvm1", "-o", "one.tar", "--json")
    assert (kept.exit_code, (ssh / "one.tar").read_bytes()) == (0, seen)
    same(kept, Collected)
    again = fresh("audit", "collect", "--host", "ssh://kvm1", "-o", "one.tar")
    assert (again.exit_code, "it exists" in again.err) == (1, True)
    (ssh / "all").mkdir()
    words = ("audit", "collect", "--host", "ssh://kvm1", "--host", "ssh://dead", "-o", "all")
    some = fresh(*words)
    assert (some.exit_code, (ssh / "all/kvm1.tar").read_bytes()) == (3, seen)
    assert "not looked at: ssh://dead" in some.out
    (ssh / "all/kvm1.tar").write_text("evidence")
    assert "it exists" in fresh(*words).out
    assert (ssh / "all/kvm1.tar").read_text() == "evidence"
    assert "it is no directory" in fresh(*words[:-1], "nowhere").err


HASHES = f"{'a' * 64}  /etc/fstab\n{'b' * 64}  /etc/sudoers\n"


def test_a_baseline_that_is_approved_holds_until_a_file_changes(fresh: Cli, home: Path) -> None:
    before = bundle(home / "before.tar", host(baseline_hashes=HASHES + "end\n"), "kvm[1]")
    outcome = fresh("audit", "baseline", "--bundle", before)
    assert outcome.exit_code == 0
    profile = fresh("audit", "profile", "show", "kvm-single").out
    (home / "ours.toml").write_text(profile + outcome.out, encoding="utf-8")
    changed = HASHES.replace("b" * 64, "c" * 64)
    after = bundle(home / "after.tar", host(baseline_hashes=changed + "end\n"), "kvm[1]")
    judge = ("audit", "--control", "CFG-08", "--profile", "ours.toml", "--json", "--bundle")
    assert [one["result"]["status"] for one in fresh(*judge, before).json["report"]["findings"]] == ["pass"]
    drifted = fresh(*judge, after)
    assert [one["result"]["name"] for one in drifted.json["report"]["findings"]] == ["/etc/sudoers"]
    assert drifted.exit_code == 20
    same(fresh("audit", "baseline", "--bundle", before, "--json"), Baselines)


def test_a_file_that_could_not_be_read_is_not_approved(fresh: Cli, home: Path) -> None:
    blind = bundle(home / "blind.tar", host("kvm2"), "kvm2")
    unread = bundle(home / "unread.tar", host(baseline_hashes=HASHES + "unread /etc/shadow\nend\n"))
    outcome = fresh("audit", "baseline", "--bundle", unread, "--bundle", blind)
    assert outcome.exit_code == 3
    assert "# may not be read: /etc/shadow on kvm1\n" in outcome.out
    assert "# not looked at: kvm2: " in outcome.out
    assert '"/etc/shadow"' not in outcome.out
    assert msgspec.toml.decode(outcome.raw)["baseline"].keys() == {"kvm1"}


def test_what_is_in_a_file_is_not_printed_again(fresh: Cli, bad: Path) -> None:
    outcome = fresh("audit", "--bundle", bad, "--format", "json", "-o", "r.json")
    assert outcome.out.splitlines()[-1] == "written: r.json"
    assert len(outcome.out.splitlines()) < 8


def test_that_no_vm_could_be_judged_is_said_first(cli: Cli, home: Path) -> None:
    without = bundle(home / "without.tar", {"hypervisors": "libvirt-qemu\n"})
    first, second = cli("audit", "--bundle", without).out.splitlines()[:2]
    assert first.startswith("kvm1: ")
    assert "no VM was judged: " in second


@pytest.mark.parametrize(("word", "says"), [("web01", "VM=IMAGE"), ("mail={image}", "no host that was looked at")])
def test_a_disk_of_no_vm_is_refused(cli: Cli, bad: Path, home: Path, word: str, says: str) -> None:
    outcome = cli("audit", "--bundle", bad, "--disk", word.format(image=home / "a.img"))
    assert outcome.exit_code == 1
    assert says in outcome.err


def test_what_a_vms_disk_says_is_judged_and_what_is_not_on_it_is_unknown(cli: Cli, bad: Path, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x"}, 1 << 20)
    words = ("audit", "--bundle", bad, "--control", "INS-04", "--disk", f"web01={home / 'a.img'}", "--json")
    (finding,) = cli(*words).json["report"]["findings"]
    assert (finding["result"]["name"], finding["result"]["status"]) == ("web01", "unknown")
    assert "no Linux system was found" in finding["result"]["summary"]


def test_restore_points_are_judged_and_nothing_is_undone(cli: Cli, bad: Path, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x"}, 1 << 20)
    cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    child = os.fork()
    if child == 0:
        with Program(environ=cli.environ).open_ledger().owing(START_DEBT, uri="fake:///default", uuid=WEB):
            os._exit(9)
    os.waitpid(child, 0)
    words = ("audit", "--bundle", bad, "--control", "BKP-01", "--control", "BKP-02", "--control", "BKP-08", "--json")

    def judged(*more: str) -> dict[str, str]:
        findings = cli(*words, *more).json["report"]["findings"]
        return {f"{one['result']['control']} {one['result']['name']}": one["result"]["status"] for one in findings}

    assert set(judged().values()) == {"unknown"}
    before = judged("--restore-points")
    assert (before["BKP-01 web01"], before["BKP-02 web01"], before["BKP-08 frozen"]) == ("fail", "fail", "pass")
    assert len(cli("owed", "--json").json["debts"]) == 1, "an audit undoes nothing"
    assert cli("settle").exit_code == 0
    assert cli("backup", "web01", "--shutdown").exit_code == 0
    assert judged("--restore-points")["BKP-01 web01"] == "pass"
