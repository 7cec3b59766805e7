# SPDX-License-Identifier: Apache-2.0
"""How the boot path, the kernel and Xen are read, and which words on a command line are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.audit.bundle import Bundle, Manifest, Output
from donjon.audit.controls.command_lines import Token, entry_options, matches, tokens
from donjon.audit.fact import Absent, Known, Unknown, need
from donjon.audit.facts.boot import read_boot
from donjon.audit.facts.host import read_host
from donjon.audit.facts.kernel import read_kernel
from donjon.audit.facts.xen import read_xen
from donjon.audit.verdict import Severity

PROBES = (
    *("firmware", "tpm", "boot-loader", "efibootmgr", "console-units"),
    *("cpu-vulnerabilities", "cpu", "dmi", "module-parameters", "mandatory-access", "iommu", "iommu-messages"),
    *("device-models", "xen-info", "xen-messages", "xen-build", "xen-flask"),
)
FILES = ("/etc/inittab", "/etc/sysconfig/init", "/etc/xen/xl.conf")


def bundle(**outputs: str) -> Bundle:
    return Bundle(Manifest(), {name.replace("_", "-"): Output(0, text) for name, text in outputs.items()})


def test_a_boot_option_without_a_device_path_is_one_all_the_same() -> None:
    said = "BootCurrent: 0003\nTimeout: 0 seconds\nBootOrder: 0003,000a\nBoot0003* Linux\nBoot000A  Shell\tFvVol(x)\n"
    menu = need(read_boot(bundle(efibootmgr=said)).menu)
    assert [(one.number, one.label, one.device, one.active) for one in menu.order] == [
        ("0003", "Linux", "", True),
        ("000A", "Shell", "FvVol(x)", False),
    ]


def test_a_process_list_that_is_cut_off_is_not_a_list_without_qemu() -> None:
    whole = "name=qemu-kvm pid=7 uid=107 capabilities=0000000000000000 seccomp=2\nprocesses 9\n"
    assert need(read_kernel(bundle(device_models=whole)).device_models)[0].uid == 107
    assert isinstance(read_kernel(bundle(device_models=whole[:-12])).device_models, Unknown)


def test_xens_options_are_read_from_its_messages_where_xl_does_not_run() -> None:
    messages = "(XEN) [2026-11-23 10:00:01] Command line: dom0_mem=2G gdb=com1\n(XEN) more\n"
    xen = read_xen(Bundle(Manifest(), {"xen-info": Output(127, ""), "xen-messages": Output(0, messages)}))
    assert need(xen.options) == ("dom0_mem=2G", "gdb=com1")


def test_flask_is_asked_by_a_command_that_fails_where_it_is_disabled() -> None:
    said = {"xen-flask": Output(255, "", "Flask XSM Disabled")}
    assert read_xen(Bundle(Manifest(), said)).flask == Known("Disabled", "cmd/xen-flask")
    assert isinstance(read_xen(Bundle(Manifest(), {"xen-flask": Output(127, "")})).flask, Absent)


@pytest.mark.parametrize(
    ("line", "xen", "linux"),
    [
        ("linux /vmlinuz-6.1 root=/dev/sda1 ro", [], ["root=/dev/sda1", "ro"]),
        ("multiboot2 /boot/xen-4.17-amd64.gz placeholder gdb=com1", ["placeholder", "gdb=com1"], []),
        ("module2 /boot/vmlinuz-6.1 placeholder ro", [], ["placeholder", "ro"]),
        ("module2 --nounzip /boot/initrd.img-6.1", [], []),
        ("kernel /xen.gz dom0_mem=max:1G", ["dom0_mem=max:1G"], []),
        ("module /vmlinuz-4.1.12-uek ro", [], ["ro"]),
        ("options root=/dev/sda1 quiet", [], ["root=/dev/sda1", "quiet"]),
        ("kernelopts=root=/dev/sda1 quiet", [], ["root=/dev/sda1", "quiet"]),
        ("chainloader /EFI/x.efi", [], []),
    ],
)
def test_the_options_of_a_boot_entry_are_those_of_xen_or_of_linux(line: str, xen: list[str], linux: list[str]) -> None:
    assert (entry_options("xen", line), entry_options("linux", line)) == (xen, linux)


@pytest.mark.parametrize("word", ["no-xpti", "xpti=off", "xpti=0", "xpti=dom0=1,domu=false", "xpti=no-domu"])
def test_all_ways_to_switch_a_boolean_of_xen_off_are_one(word: str) -> None:
    host = read_host(bundle())
    xpti = next(token for token in tokens() if token.option == "xpti")
    assert matches(xpti, word, host)
    assert not matches(xpti, "xpti=yes", host)


def test_a_word_that_a_later_xen_does_not_know_is_harmless_there() -> None:
    token = Token("HYP-01", "xen", "gdb", Severity.CRITICAL, "a debugger", until="4.18")
    old, new = (read_host(bundle(xen_info=f"xen_major : 4\nxen_minor : {minor}\n")) for minor in (18, 19))
    assert (matches(token, "gdb=com1", old), matches(token, "gdb=com1", new)) == (True, False)


@given(
    st.lists(st.text(max_size=40), max_size=4).map("\n".join), st.sampled_from(["\n", "\t", " : ", "=", "Boot0001* "])
)
def test_whatever_a_host_says_nothing_but_unknown_comes_of_it(text: str, between: str) -> None:
    said = Output(0, between.join(["firmware uefi", text, "processes 1"]))
    files = dict.fromkeys(FILES, said.out)
    hostile = Bundle(Manifest(), dict.fromkeys(PROBES, said), files, frozenset(FILES))
    read_boot(hostile), read_kernel(hostile), read_xen(hostile)
    for line in text.splitlines():
        entry_options("linux", line)
