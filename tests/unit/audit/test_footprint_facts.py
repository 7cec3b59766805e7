# SPDX-License-Identifier: Apache-2.0
"""What runs and is installed on a host is read from what its own tools print, old ones and new ones."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.audit.bundle import Bundle, Manifest, Output, PathInfo, Paths
from donjon.audit.fact import Absent, Known, Unknown
from donjon.audit.facts.footprint import read_footprint
from donjon.audit.facts.listeners import Listener, read_listeners
from donjon.audit.facts.memory import read_memory
from donjon.audit.facts.packages import Package, read_packages
from donjon.audit.facts.processes import read_processes
from donjon.audit.facts.units import Unit, read_units
from donjon.audit.facts.updates import read_updates

PROBES = (
    *("processes", "listeners", "init", "unit-files", "units", "chkconfig", "subsys", "packages", "security-lists"),
    *("rpm-security", "update-metadata", "live-patches", "uptrack", "xen-info", "xen-images", "xen-livepatch", "ksm"),
    *("xen-changelog", "meminfo", "guest-swap", "snmp-communities", "uname"),
)
FILES = ("/etc/qemu/bridge.conf", "/etc/apt/sources.list", "/etc/yum.repos.d/a.repo", "/etc/xen/xl.conf")


def bundle(paths: Paths | None = None, **said: str) -> Bundle:
    outputs = {name.replace("_", "-"): Output(0, text) for name, text in said.items()}
    return Bundle(Manifest(), outputs, paths=paths or Paths())


def listeners(text: str) -> tuple[Listener, ...]:
    found = read_listeners(bundle(listeners=text)).all
    assert isinstance(found, Known), found
    return found.value


def test_ss_of_two_ages_and_netstat_say_the_same() -> None:
    new = """Netid State  Recv-Q Send-Q Local Address:Port Peer Address:PortProcess
tcp   LISTEN 0      128          [::]:22           [::]:*    users:(("sshd",pid=70,fd=4),("systemd",pid=1,fd=9))
udp   UNCONN 0      0      127.0.0.53%lo:53        0.0.0.0:* users:(("systemd-resolve",pid=30,fd=17))
"""
    old = """Netid State      Recv-Q Send-Q     Local Address:Port       Peer Address:Port
tcp    LISTEN     0      128                   :::22                    :::*      users:(("sshd",70,4))
udp    UNCONN     0      0      127.0.0.53%lo:53                         *:*      users:(("systemd-resolve",30,17))
"""
    netstat = """Active Internet connections (only servers)
Proto Recv-Q Send-Q Local Address           Foreign Address         State       PID/Program name
tcp6       0      0 :::22                   :::*                    LISTEN      70/sshd: /usr/sbin/
udp        0      0 127.0.0.53:53           0.0.0.0:*                           30/systemd-resolve
"""
    expected = (Listener("tcp", "::", 22, "sshd", 70), Listener("udp", "127.0.0.53", 53, "systemd-resolve", 30))
    assert listeners(new) == listeners(old) == listeners(netstat) == expected


def test_the_kernels_own_tables_are_the_last_resort() -> None:
    text = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100
   1: 0100007F:0016 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 101
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  12: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 102 2 0000 0
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 0 0 0 0 103
  sl  local_address                         remote_address                        st tx_queue rx_queue
"""
    assert listeners(text) == (
        Listener("tcp", "127.0.0.1", 22),
        Listener("udp", "0.0.0.0", 68),
        Listener("tcp", "::1", 80),
    )


def test_a_process_has_its_arguments_and_what_was_replaced_under_it() -> None:
    found = read_processes(
        bundle(
            processes="process\t1\t0\t0\t5\tinit\t/sbin/init\t\tinit\n"
            "process\t9\t1\t107\t6\tqemu-kvm\t/usr/libexec/qemu-kvm (deleted)\tsvirt_t:s0\tqemu-kvm\t-name\tguest=a b\n"
            "deleted\t9\t/usr/lib64/liba.so\nend\n"
        )
    ).all
    assert isinstance(found, Known)
    assert found.value[1].arguments == ("qemu-kvm", "-name", "guest=a b")
    assert (found.value[1].label, found.value[1].deleted) == ("svirt_t:s0", ("/usr/lib64/liba.so",))


def test_a_line_break_that_only_python_knows_is_none() -> None:
    found = read_processes(bundle(processes="process\t1\t0\t0\t5\ta\x85b\t/x\t\tc\u2028d\x0b\nend\n")).all
    assert isinstance(found, Known)
    assert found.value[0].arguments == ("c\u2028d\x0b",)


def test_when_a_debian_package_was_installed_is_the_age_of_its_list() -> None:
    path = "/var/lib/dpkg/info/libvirt-daemon:amd64.list"
    paths = Paths({path: PathInfo(path, 0o644, 0, 0, mtime=77)})
    text = "deb\nii \tlibvirt-daemon\t9.0.0-4\tamd64\tlibvirt\t9.0.0-4\nrc \told\t1\tall\told\t1\nend\n"
    found = read_packages(bundle(paths, packages=text)).all
    assert isinstance(found, Known)
    assert found.value == {"libvirt-daemon": Package("libvirt-daemon", "9.0.0-4", "amd64", "libvirt", "9.0.0-4", 77)}


def test_of_two_kernels_none_is_lost() -> None:
    rows = "".join(f"kernel\t5.14.0-{n}.el9\tx86_64\tkernel-5.14.0-{n}.el9.src.rpm\t{n}\n" for n in (362, 427))
    found = read_packages(bundle(packages=f"rpm\n{rows}gpg-pubkey\t1-2\t(none)\t(none)\t3\nend\n")).all
    assert isinstance(found, Known)
    assert [(key, one.source_version) for key, one in found.value.items()] == [
        ("kernel", "5.14.0-362.el9"),
        ("kernel 5.14.0-427.el9 x86_64", "5.14.0-427.el9"),
    ]


def test_an_instance_of_a_unit_is_as_its_template() -> None:
    found = read_units(
        bundle(
            init="systemd\n",
            unit_files="getty@.service enabled enabled\n",
            units="getty@tty1.service loaded active running x\n",
        )
    ).all
    assert isinstance(found, Known)
    assert found.value["getty@tty1.service"] == Unit("getty@tty1.service", "enabled", True)


def test_where_nothing_manages_services_there_are_none() -> None:
    assert read_units(bundle(init="none\n")).all == Absent("cmd/init")
    assert isinstance(read_units(bundle(init="sysv\n")).all, Unknown)


def test_systemd_without_its_client_is_not_mistaken_for_no_services() -> None:
    said = {
        "init": Output(0, "systemd\n"),
        "units": Output(0, "a.service loaded active running"),
        "unit-files": Output(127, ""),
    }
    assert isinstance(read_units(Bundle(Manifest(), said)).all, Unknown)


READERS: tuple[Callable[[Bundle], object], ...] = (
    *(read_footprint, read_listeners, read_memory, read_packages, read_processes, read_units, read_updates),
)


@given(
    st.sampled_from(
        ["", "deb\n", "rpm\n", "Netid\n", "sl local_address\n", "Active\n\n", "process\t", "systemd\n", "run:"]
    ),
    st.text(st.sampled_from("ab0 1\t\n:=|[]./-%\x00\x85é"), max_size=40) | st.text(max_size=20),
    st.sampled_from(["", "\nend\n"]),
    st.sampled_from(READERS),
)
def test_odd_output_is_unknown_and_no_crash(
    begin: str, middle: str, end: str, read: Callable[[Bundle], object]
) -> None:
    text = begin + middle + end
    asked = frozenset({*FILES, "/etc/yum.repos.d/*.repo", "/etc/apt/sources.list.d/*", "/etc/apt/apt.conf"})
    odd = Bundle(Manifest(), {name: Output(0, text) for name in PROBES}, dict.fromkeys(FILES, text), asked)
    msgspec.json.encode(read(odd))


@pytest.mark.parametrize("read", READERS)
def test_nothing_collected_is_all_unknown(read: Callable[[Bundle], object]) -> None:
    group = read(Bundle(Manifest()))
    assert {type(getattr(group, name)) for name in group.__struct_fields__} == {Unknown}  # type: ignore[attr-defined]
