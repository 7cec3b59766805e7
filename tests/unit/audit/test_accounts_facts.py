# SPDX-License-Identifier: Apache-2.0
"""Accounts, sudo, polkit, sshd and logs: the tricky parts of their files, and files that mean harm."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donjon.audit.bundle import Bundle, Manifest, Output, PathInfo, Paths
from donjon.audit.fact import Known, Unknown
from donjon.audit.facts.accounts import read_accounts
from donjon.audit.facts.baseline import read_baseline
from donjon.audit.facts.libvirt import read_libvirt
from donjon.audit.facts.log_targets import parse_rsyslog, parse_syslog_ng
from donjon.audit.facts.logging import parse_audit_rules, read_logging
from donjon.audit.facts.polkit import PKLA, POLICY, RULES, parse_rules, read_grants
from donjon.audit.facts.sshd import parse_config, read_sshd
from donjon.audit.facts.sudoers import parse_sudoers


def test_tags_of_sudo_hold_for_the_rest_of_the_list() -> None:
    text = "ana ALL=(root) /bin/ls, NOPASSWD: /bin/cat, (www) /bin/id, PASSWD: /bin/w"
    rules = parse_sudoers("/etc/sudoers", text, {})
    assert {rule.without_password: rule.commands for rule in rules} == {
        False: ("/bin/ls", "/bin/w"),
        True: ("/bin/cat", "/bin/id"),
    }


def test_sudo_knows_several_hosts_in_one_line_numeric_users_and_comments() -> None:
    text = "#1000, %#20 one = /bin/ls : two = (root) NOPASSWD: ALL  # why\n"
    rules = parse_sudoers("/etc/sudoers", text, {})
    assert [(rule.users, rule.commands, rule.without_password) for rule in rules] == [
        (("#1000", "%#20"), ("/bin/ls",), False),
        (("#1000", "%#20"), ("ALL",), True),
    ]


def test_negations_in_aliases_of_sudo_are_kept() -> None:
    text = "Cmnd_Alias SU = /bin/su, !/bin/su -\nana ALL = ALL, !SU"
    (rule,) = parse_sudoers("/etc/sudoers", text, {})
    assert rule.commands == ("ALL", "!/bin/su", "/bin/su -")


@pytest.mark.parametrize("text", ["ana", "ana ALL", "ana ALL = what", "@include /etc/other"])
def test_a_line_of_sudo_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"sudoers|/etc/other"):
        parse_sudoers("/etc/sudoers", text, {})


def test_in_sshd_the_first_value_holds_and_a_match_block_ends_with_its_file() -> None:
    drop_in = {"/etc/ssh/sshd_config.d/10.conf": "X11Forwarding no\nMatch User backup\n  ForceCommand /bin/true\n"}
    options, blocks = parse_config("Include sshd_config.d/*.conf\nX11Forwarding yes\nPort 22\nPort=2222\n", drop_in)
    assert (options["x11forwarding"], options["port"]) == (("no",), ("22", "2222"))
    assert [(block.criteria, block.options) for block in blocks] == [("User backup", {"forcecommand": ("/bin/true",)})]


def test_a_policy_that_a_drop_in_of_sshd_includes_is_read() -> None:
    policy = "/etc/crypto-policies/back-ends/opensshserver.config"
    others = {
        "/etc/ssh/sshd_config.d/50-redhat.conf": f"Include {policy}\nUsePAM yes\n",
        policy: "Ciphers aes256-ctr\n",
    }
    options, _ = parse_config("Include /etc/ssh/sshd_config.d/*.conf\n", others)
    assert options == {"ciphers": ("aes256-ctr",), "usepam": ("yes",)}


def test_files_of_sshd_that_include_each_other_are_read_once() -> None:
    others = {"/etc/ssh/sshd_config.d/a.conf": "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n"}
    assert parse_config("Include /etc/ssh/sshd_config.d/*.conf\n", others)[0] == {"usepam": ("yes",)}


def test_a_rule_of_polkit_in_a_comment_is_none() -> None:
    rule = 'polkit.addRule(function(a, s) { if (a.id == "org.libvirt.unix.manage") return polkit.Result.YES; });'
    assert parse_rules("/x.rules", f"/* {rule} */\n// {rule}\n") == []
    (grant,) = parse_rules("/x.rules", f"// {rule}\n{rule}\n")
    assert grant.where == "/x.rules:2"


def test_a_folder_of_rules_that_may_not_be_read_leaves_polkit_unknown() -> None:
    seen = {path: PathInfo(path, 0o755, 0, 0, kind="d") for path in ("/etc/polkit-1", "/usr/share/polkit-1/rules.d")}
    looked = {"/etc/polkit-1": 3, "/usr/share/polkit-1/rules.d": 1}
    asked = frozenset((*RULES, *PKLA, POLICY))
    assert read_grants(Bundle(Manifest(), asked=asked, paths=Paths(seen, looked))) == Known((), "/etc/polkit-1")
    barred = Paths(seen, looked, {"/etc/polkit-1/rules.d": "permission denied"})
    assert isinstance(read_grants(Bundle(Manifest(), asked=asked, paths=barred)), Unknown)


def test_rsyslog_filters_files_and_old_signs_are_told_apart() -> None:
    text = '*.* @@logs:6514\nmail.* -/var/log/mail\n:msg, contains, "x@y" ~\nauth.* @10.0.0.1\n#*.* @gone\n'
    assert [(one.host, one.transport) for one in parse_rsyslog(text)] == [("logs", "tcp"), ("10.0.0.1", "udp")]


def test_a_destination_that_no_log_path_uses_is_none() -> None:
    text = 'destination d_a { syslog("logs" transport("tls") tls(ca-dir("/x"))); };\ndestination d_b { udp("b"); };\n'
    used = text + "log { source(s); destination(d_a); };\n"
    assert list(parse_syslog_ng(text)) == []
    assert [(one.host, one.transport) for one in parse_syslog_ng(used)] == [("logs", "tls")]


def test_rules_of_audit_that_suppress_watch_nothing() -> None:
    assert parse_audit_rules("-a never,exit -F dir=/etc/xen -F perm=wa\n-w /etc/libvirt/ -p wa -k v\n") == (
        ("/etc/libvirt", "wa"),
    )


def test_rules_of_audit_for_one_user_watch_nobody_else() -> None:
    rule = "-a always,exit -F arch=b64 -S execve -F {} -F key=x"
    assert parse_audit_rules(rule.format("uid=1001")) == ()
    assert parse_audit_rules(rule.format("auid!=-1")) == (("*", "x"),)


def test_tls_of_rsyslog_of_old_holds_for_what_follows_only() -> None:
    text = "$DefaultNetstreamDriver gtls\n*.* @@a\n$ActionSendStreamDriverMode 1\n*.* @@b\n"
    assert [(one.host, one.transport) for one in parse_rsyslog(text)] == [("a", "tcp"), ("b", "tls")]


PROBES = (
    "passwd shadow-classes group last-logins sshd-settings ssh-version host-keys authorized-keys hooks baseline-hashes "
    "audit-status audit-rules chrony-tracking chrony-sources ntp-peers timedatectl secret-places libvirt-version"
)
FILES = (
    "/etc/sudoers /etc/sudoers.d/a /etc/nsswitch.conf /etc/ssh/sshd_config /etc/ssh/sshd_config.d/a.conf "
    "/etc/polkit-1/rules.d/a.rules /etc/polkit-1/localauthority/a/b.pkla /etc/libvirt/qemu.conf "
    "/etc/libvirt/libvirtd.conf "
    "/etc/rsyslog.conf /etc/syslog.conf /etc/syslog-ng/syslog-ng.conf /etc/systemd/journal-upload.conf"
)
PATTERNS = "/etc/sudoers.d/* /etc/ssh/sshd_config.d/*.conf /etc/polkit-1/rules.d/*.rules /etc/libvirt/*.conf"
PIECES = st.sampled_from(
    [
        "\n",
        ":",
        "=",
        "\t",
        "99999999999999999999",
        "root",
        "(",
        '"',
        "'",
        "[",
        "ALL",
        "#",
        "Match",
        "end",
        "\\\n",
        "²",
        "%",
    ]
)


@settings(max_examples=40, deadline=None)
@given(text=st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map(" ".join), st.lists(PIECES).map("".join)))
def test_no_text_makes_a_parser_fail(text: str) -> None:
    bundle = Bundle(
        Manifest(),
        {name: Output(0, text) for name in PROBES.split()},
        dict.fromkeys(FILES.split(), text),
        frozenset(PATTERNS.split()),
    )
    for read in (read_accounts, read_sshd, read_libvirt, read_logging, read_baseline):
        read(bundle)
