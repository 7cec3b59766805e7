# SPDX-License-Identifier: Apache-2.0
"""libvirt's own files are read as libvirt reads them; tried against libvirt 9.0."""

from __future__ import annotations

import pytest

from donjon.audit.bundle import Bundle, Manifest, Output
from donjon.audit.fact import Known, Unknown
from donjon.audit.facts.libvirt import parse_settings, read_libvirt


def test_all_that_the_syntax_knows_is_read() -> None:
    text = """
# listen_tcp = 1
listen_tls = 0   # said at the end of a line
user = 'qemu'
x.y-z = -5
hook = \"\"\"two
lines\"\"\"
cgroup_device_acl = [
    "/dev/null", "/dev/full",

    "/dev/zero",
]
"""
    assert parse_settings(text) == {
        "listen_tls": 0,
        "user": "qemu",
        "x.y-z": -5,
        "hook": "two\nlines",
        "cgroup_device_acl": ("/dev/null", "/dev/full", "/dev/zero"),
    }


def test_the_first_of_two_entries_holds() -> None:
    assert parse_settings('user = "qemu"\nuser = "root"\n') == {"user": "qemu"}


@pytest.mark.parametrize(
    "text", ["user = qemu", "user =\n  'qemu'", 'a = "b" c = "d"', "n = 0x3", 'a = ["b"', "= 1", 'a = "b']
)
def test_what_libvirt_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"line \d"):
        parse_settings(text)


def test_one_file_that_makes_no_sense_leaves_no_daemon_known() -> None:
    files = {"/etc/libvirt/libvirtd.conf": "listen_tcp = yes", "/etc/libvirt/virtqemud.conf": ""}
    facts = read_libvirt(Bundle(Manifest(), files=files, asked=frozenset({"/etc/libvirt/*.conf"})))
    assert isinstance(facts.daemons, Unknown)
    assert isinstance(facts.others, Known)


def test_security_models_are_those_of_the_capabilities() -> None:
    text = "<capabilities><host><secmodel>\n<model>apparmor</model></secmodel><secmodel>\n<model>dac</model></secmodel>"
    whole = {"libvirt-capabilities": Output(0, text + "</host></capabilities>")}
    cut = {"libvirt-capabilities": Output(0, text)}
    assert read_libvirt(Bundle(Manifest(), whole)).security_models == Known(
        ("apparmor", "dac"), "cmd/libvirt-capabilities"
    )
    assert isinstance(read_libvirt(Bundle(Manifest(), cut)).security_models, Unknown)
