# SPDX-License-Identifier: Apache-2.0
"""What the fixes of the areas NET, TLS, AGT and INS want makes their controls pass, and closes no more than it says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from donjon.access.rules import parse_rules
from donjon.audit.fact import Known, Unseen
from donjon.audit.facts.guests import AgentSetup, Guest
from donjon.audit.profile import Allow, Networks, Profile
from donjon.audit.verdict import Status
from donjon.harden.apply import State, apply, rollback
from donjon.harden.change import Chain, Command
from donjon.harden.fixes import fixes
from donjon.harden.fixes.agt import twin
from tests.unit.audit.control_cases import Answer, Machine, all_cases, host_of, results_of
from tests.unit.harden.scenes import LINKS, NETWORKS, TOLD, UUID, Scene, guest, program
from tests.unit.harden.scratch_host import ScratchHost, finding

AREAS = ("NET", "TLS", "AGT", "GST", "GNW", "STO", "GLD", "INS", "BKP")
QEMU, XEND, AGENT = "/etc/libvirt/qemu.conf", "/etc/xen/xend-config.sxp", "/etc/ovs-agent/agent.ini"
CERTIFICATES = tuple(f"/etc/pki/qemu/{name}-cert.pem" for name in ("ca", "server", "client"))
OPEN = {
    "nft-ruleset": '{"nftables": []}',
    "iptables": "",
    "ip6tables": "",
    "iptables-legacy": "",
    "ip6tables-legacy": "",
}
LISTENERS = "Netid State Recv-Q Send-Q Local Address:Port Peer Address:PortProcess\n"
SSH = 'tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=1,fd=3))\n'
LIBVIRTD = 'auth_tcp = "none"\ntls_allowed_dn_list = ["CN=x"]\ntls_no_verify_certificate = 1\n'
XEND_TEXT = """\
# xend
(xend-relocation-server yes)
#(xend-relocation-ssl-server no)
(xend-relocation-server-ssl-key-file /etc/xen/xmlrpc.key)
(xend-relocation-server-ssl-cert-file /etc/xen/xmlrpc.crt)
(xend-http-server yes)
(xend-relocation-hosts-allow '^localhost$')
(xen-api-server ((9363 none) (10.0.0.1:9367 pam '^localhost$' key=/k cert=/c)))
"""


def oracle(control: str, files: dict[str, str] | None = None) -> Scene:
    texts = {XEND: XEND_TEXT, AGENT: "[agent]\nAllow = *\ndeny=\n", **(files or {})}
    commands: dict[str, str | Answer] = {
        **OPEN,
        "listeners": LISTENERS + SSH,
        "ip-addresses": LINKS,
        "ovs-agent-server": Answer(rc=127),
    }
    absent = ("/etc/ovs-agent/*.ini", "/etc/ovs-agent/*.conf")
    return Scene(control, Machine("O", commands=commands, files=texts, absent=absent), TOLD, ("/etc/xen/xmlrpc.crt",))


def kvm(control: str, listening: str = SSH, profile: Profile = TOLD, commands: dict[str, str] | None = None) -> Scene:
    files = {
        QEMU: "#vnc_tls = 1\n",
        "/etc/libvirt/libvirtd.conf": LIBVIRTD,
    }
    said: dict[str, str | Answer] = {
        **OPEN,
        "listeners": LISTENERS + listening,
        "ip-addresses": LINKS,
        "init": "systemd",
        "units": "ssh.service loaded active running x",
        "unit-files": "ssh.service enabled",
        "libvirt-networks": "@end\n",
        **(commands or {}),
    }
    paths = ("/etc/libvirt/*.conf",)
    machine = Machine(commands=said, files=files, absent=paths)
    return Scene(control, machine, profile, (*CERTIFICATES, "/etc/pki/CA/cacert.pem"))


WITH_TUNNEL = LINKS.replace('"link_type"', '"linkinfo":{"info_kind":"gre"},"link_type"')
TLS_PORT = 'tcp LISTEN 0 5 *:16514 *:* users:(("libvirtd",pid=2,fd=3))\n'
TEXTS = [
    (kvm("NET-06"), QEMU, 'migration_address = "10.0.2.1"\nmigration_host = "10.0.2.1"\n'),
    (kvm("TLS-02", TLS_PORT), "/etc/libvirt/libvirtd.conf", "tls_no_verify_certificate = 0\n"),
    (kvm("TLS-04"), QEMU, "migrate_tls_force = 1\nmigrate_tls_x509_verify = 1\n"),
    (oracle("NET-07"), XEND, "(xend-relocation-address '10.0.2.1')\n"),
    (oracle("TLS-06"), XEND, "(xend-relocation-server no)\n"),
    (oracle("AGT-01"), AGENT, "Allow = 10.0.0.5,10.0.2.2,10.0.2.3\n"),
    (oracle("AGT-02", {AGENT: "allow: '10.0.0.5/24, 10.1.*'\ndeny=\n"}), AGENT, "allow: '10.0.0.0/24,10.1.0.0/16'\n"),
    (oracle("AGT-04", {AGENT: "allow=10.0.0.0/16\n"}), AGENT, "allow=10.0.0.5,10.0.2.2,10.0.2.3\n"),
    (oracle("AGT-06"), XEND, r"(xend-relocation-hosts-allow '^10\\.0\\.2\\.2$ ^10\\.0\\.2\\.3$')"),
    (oracle("AGT-07"), XEND, "(xen-api-server ((10.0.0.1:9367 pam '^localhost$' key=/k cert=/c)))\n"),
    (
        oracle("AGT-09", {"/etc/donjon/server.toml": '[listen]\nbind = "0.0.0.0"\nallow = "*"\n'}),
        "/etc/donjon/server.toml",
        'bind="127.0.0.1"\n',
    ),
]


@pytest.mark.parametrize(("scene", "path", "line"), TEXTS, ids=[scene.control for scene, *_ in TEXTS])
def test_what_a_fix_wants_makes_its_control_pass(scene: Scene, path: str, line: str) -> None:
    assert scene.failures
    after = scene.after(*scene.changes)
    assert line in after.machine.files[path]
    statuses = {one.status for one in after.judgement.results}
    assert statuses <= {Status.PASS, Status.NOT_APPLICABLE}, after.judgement.results


def test_the_engine_does_it_and_gives_back_every_byte(tmp_path: Path) -> None:
    scene = oracle("AGT-01")
    host = ScratchHost(tmp_path / "host")
    for path, text in scene.machine.files.items():
        host.write(path, text)
    before = host.snapshot()
    plan = scene.planned(host)
    assert apply(plan, host.runner) is State.WAITING
    for path, text in scene.after(*scene.changes).machine.files.items():
        assert host.at(path).read_text() == text
    assert rollback(plan.id, host.runner) is State.REVERTED
    assert host.snapshot() == before


def rules(scene: Scene) -> list[str]:
    return [rule for change in scene.changes for want in change.wants if isinstance(want, Chain) for rule in want.rules]


NETWORK = """\
@network
<network><name>default</name><forward mode='nat'/><bridge name='virbr0'/></network>
@end
"""


def test_a_default_of_drop_keeps_what_host_and_guests_need_and_who_is_told() -> None:
    profile = Profile("told", networks=NETWORKS, allow=Allow(listeners=("tcp/9100", "udp/16?")))
    more = 'udp UNCONN 0 0 0.0.0.0:161 0.0.0.0:* users:(("snmpd",pid=3,fd=3))\n'
    gone = 'tcp LISTEN 0 5 0.0.0.0:8080 0.0.0.0:* users:(("python3",pid=4,fd=3))\n'
    scene = kvm("NET-01", SSH + TLS_PORT + more + gone, profile, commands={"libvirt-networks": NETWORK})
    (change,) = scene.changes
    (chain,) = change.wants
    assert isinstance(chain, Chain)
    assert (chain.hook, chain.policy, set(chain.admins)) == ("input", "drop", {"10.0.0.0/24", "10.0.0.5/32"})
    both = "10.0.0.0-10.0.0.255, 10.0.2.0-10.0.2.255"
    assert {
        'iifname "virbr0" udp dport { 53, 67, 547 } accept',
        "udp sport 67 udp dport 68 accept",
        "tcp dport 9100 accept",
        "udp dport 161 accept",
        "ip saddr { 10.0.0.0-10.0.0.255 } tcp dport 22 accept",
        f"ip saddr {{ {both} }} tcp dport 16514 accept",
        "ip saddr { 10.0.2.0-10.0.2.255 } tcp dport 49152-49215 accept",
    } <= set(chain.rules)
    assert not any("8080" in rule for rule in chain.rules)
    assert change.note.endswith("tcp/8080 (python3)")


@pytest.mark.parametrize(
    ("scene", "reason"),
    [
        (kvm("NET-01", profile=Profile("x")), "names no management network"),
        (kvm("NET-02", profile=Profile("x")), "names no management network"),
        (kvm("NET-01", SSH + SSH.replace(":22 ", ":2049 ").replace("sshd", "")), "names no storage network"),
        (kvm("NET-01", SSH + SSH.replace(":22 ", ":5405 ").replace("sshd", "corosync")), "corosync of a cluster"),
        (kvm("NET-01", commands={"ip-addresses": WITH_TUNNEL}), "tunnels end here"),
        (kvm("NET-06", profile=Profile("x", networks=Networks(peers=("10.0.2.2",)))), "names no migration network"),
        (oracle("AGT-05"), "lets everybody in"),
        (oracle("AGT-02", {AGENT: "allow=10.0.0.1,\n"}), "only its author knows"),
    ],
)
def test_without_what_only_people_know_there_is_an_instruction_that_says_so(scene: Scene, reason: str) -> None:
    with pytest.raises(Unseen, match=re.escape(reason)):
        assert scene.changes


@pytest.mark.parametrize("control", ["TLS-04", "TLS-02"])
def test_tls_is_not_forced_where_a_certificate_is_missing(control: str) -> None:
    scene = kvm(control, TLS_PORT)
    bare = Scene(control, scene.machine, scene.profile, ("/etc/pki/qemu/ca-cert.pem",))
    assert bare.failures
    with pytest.raises(Unseen, match="there is no certificate"):
        assert bare.changes


def test_a_service_is_left_to_its_networks_and_a_console_to_nobody() -> None:
    console = 'tcp LISTEN 0 5 0.0.0.0:5901 0.0.0.0:* users:(("qemu-system-x86",pid=5,fd=3))\n'
    assert rules(kvm("NET-02", SSH + console)) == [
        "ip saddr { 10.0.0.0-10.0.0.255 } tcp dport 22 accept",
        "tcp dport 22 drop",
        "tcp dport 5901 drop",
    ]


def test_the_twin_of_the_agents_list_denies_first() -> None:
    lists = parse_rules("10.0.0.0/24,fe80::1%eth0", "10.0.0.9")
    assert list(twin(lists, 8899)) == [
        "ip saddr { 10.0.0.9 } tcp dport 8899 drop",
        "ip saddr { 10.0.0.0-10.0.0.255 } tcp dport 8899 accept",
        'iifname "eth0" ip6 saddr fe80::1 tcp dport 8899 accept',
        "tcp dport 8899 drop",
    ]


TCP_SOCKET = {"units": "libvirtd-tcp.socket loaded active listening x", "unit-files": "libvirtd-tcp.socket enabled"}


def test_a_tcp_socket_of_libvirt_is_switched_off_and_its_clients_told() -> None:
    (change,) = kvm("TLS-01", commands=TCP_SOCKET).changes
    command = change.wants[0]
    assert isinstance(command, Command)
    assert command.do == "systemctl disable --now -- libvirtd-tcp.socket"
    assert "qemu+ssh" in change.note


SYSTEMCTL = """\
unit=$(eval echo "\\${$#}")
case $1 in
is-enabled) cat "$ROOT/units/$unit.enabled" ;;
is-active) cat "$ROOT/units/$unit.active"; grep -qx active "$ROOT/units/$unit.active" ;;
enable) echo enabled >"$ROOT/units/$unit.enabled" ;;
disable) echo disabled >"$ROOT/units/$unit.enabled"; [ "$2" != --now ] || echo inactive >"$ROOT/units/$unit.active" ;;
start)
    case $unit in *.socket) ! grep -qx active "$ROOT/units/libvirtd.service.active" || exit 1 ;; esac
    echo active >"$ROOT/units/$unit.active"
    ;;
stop) echo inactive >"$ROOT/units/$unit.active" ;;
esac
"""
NFT = """\
case $1 in
-s) echo "table $4 $5 { chain input { type filter hook input priority 0; policy drop; } }" ;;
-c) grep -q 'flush ruleset' "$3" ;;
esac
"""


def with_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **units: str) -> ScratchHost:
    """A host whose systemctl remembers units in files: it starts no socket while its service runs, as the real one."""
    program(tmp_path / "bin", "systemctl", SYSTEMCTL)
    program(tmp_path / "bin", "nft", NFT)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin")
    host = ScratchHost(tmp_path / "host")
    for unit, states in units.items():
        enabled, active = states.split()
        host.write(f"/units/{unit}.enabled", f"{enabled}\n")
        host.write(f"/units/{unit}.active", f"{active}\n")
    return host


def test_libvirts_socket_is_off_and_comes_back_although_its_service_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = {"libvirtd-tcp.socket": "enabled active", "libvirtd.service": "enabled active"}
    host = with_units(tmp_path, monkeypatch, **units)
    before = host.snapshot()
    plan = kvm("TLS-01", commands=TCP_SOCKET).planned(host)
    assert apply(plan, host.runner) is State.WAITING
    assert host.at("/units/libvirtd-tcp.socket.active").read_text() == "inactive\n"
    assert rollback(plan.id, host.runner) is State.REVERTED
    assert host.snapshot() == before


def kept(stored: str) -> Scene:
    (running,) = {
        str(case.machine.commands["nft-ruleset"])
        for control, case in all_cases()
        if control == "NET-03" and case.name == "nothing loads the rules at boot"
    }
    units = {"unit-files": "nftables.service disabled enabled", "units": "nftables.service loaded inactive dead x"}
    commands = {"nft-ruleset": running, "nft-stored": stored, "firewalld-running": "", **units}
    scene = kvm("NET-03", commands=commands)
    return scene.with_files({"/etc/os-release": "ID=debian\nVERSION_ID=12\n"})


@pytest.mark.parametrize("old", [None, "#!/usr/sbin/nft -f\nflush ruleset\n"])
def test_rules_that_run_are_stored_where_none_are(
    old: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = with_units(tmp_path, monkeypatch, **{"nftables.service": "disabled inactive"})
    if old:
        host.write("/etc/nftables.conf", old, 0o755)
    before = host.snapshot()
    plan = kept('{"nftables": []}').planned(host)
    assert apply(plan, host.runner) is State.CONFIRMED
    text = host.at("/etc/nftables.conf").read_text()
    assert text.startswith("#!/usr/sbin/nft -f\nflush ruleset\ntable inet filter {")
    assert host.at("/units/nftables.service.enabled").read_text() == "enabled\n"
    assert host.at("/units/nftables.service.active").read_text() == "inactive\n"
    assert rollback(plan.id, host.runner) is State.REVERTED
    assert host.snapshot() == before


def test_rules_that_are_stored_otherwise_are_not_overwritten() -> None:
    running = kept("").machine.commands["nft-ruleset"]
    with pytest.raises(Unseen, match="other rules are stored than run"):
        assert kept(str(running)).changes


def test_guests_on_their_bridge_are_shut_out_and_the_hosts_own_bridge_is_not_touched() -> None:
    links = (
        '[{"ifname":"br0","link_type":"ether","linkinfo":{"info_kind":"bridge"},'
        '"addr_info":[{"local":"10.0.5.1","prefixlen":24}]},'
        '{"ifname":"vnet0","link_type":"ether","master":"br0","linkinfo":{"info_kind":"tun"}}%s]'
    )
    uplink = ',{"ifname":"eth0","link_type":"ether","master":"br0"}'
    assert rules(kvm("NET-05", commands={"ip-addresses": links % ""}))[-1] == 'iifname "br0" drop'
    with pytest.raises(Unseen, match="the host itself is reached through br0"):
        assert kvm("NET-05", commands={"ip-addresses": links % uplink}).changes


def test_a_proxy_is_reached_by_administrators_and_dnsmasq_by_guests_too() -> None:
    sockets = 'tcp LISTEN 0 5 0.0.0.0:6080 0.0.0.0:* users:(("websockify",pid=5,fd=3))\n'
    sockets += 'udp UNCONN 0 0 0.0.0.0:67 0.0.0.0:* users:(("dnsmasq",pid=6,fd=3))\n'
    said = rules(kvm("AGT-10", sockets, commands={"libvirt-networks": NETWORK}))
    served = 'iifname "virbr0" udp dport { 53, 67, 547 } accept'
    assert said.index(served) < said.index("udp dport 67 drop")
    assert said.index("ip saddr { 10.0.0.0-10.0.0.255 } tcp dport 6080 accept") < said.index("tcp dport 6080 drop")


def test_consoles_get_tls_where_their_certificates_are() -> None:
    host = guest("TLS-08", "    <graphics type='vnc' port='5907' autoport='no' listen='0.0.0.0'/>\n")
    scene = replace(host, certificates=CERTIFICATES)
    (change,) = scene.changes
    after = scene.after(change)
    assert after.machine.files[QEMU] == "#x\nvnc_tls = 1\nvnc_tls_x509_verify = 1\n"
    assert after.failures == []
    with pytest.raises(Unseen, match=r"there is no certificate /etc/pki/qemu/ca-cert\.pem"):
        assert replace(scene, certificates=("/x",)).changes


def test_open_vswitch_keeps_managers_it_may_have() -> None:
    scene = kvm("TLS-10", commands={"ovs-managers": '"ptcp:6640"\n"ssl:10.0.0.5:6640"\n', "ovs-controllers": ""})
    (change,) = scene.changes
    (command,) = change.wants
    assert isinstance(command, Command)
    assert command.do == "ovs-vsctl --timeout=10 -- set-manager ssl:10.0.0.5:6640"


def test_what_belongs_into_a_guest_is_told_and_not_done() -> None:
    guests = {UUID: Guest(agent=Known(AgentSetup(blocked=("guest-exec",)), "disk"))}
    host = host_of(Machine(guests=guests))
    with pytest.raises(Unseen, match=r"block-rpcs=guest-exec,guest-exec-status,guest-file-open"):
        fixes()["INS-04"](finding("INS-04", UUID, "web1"), host, Profile("x"))


def test_every_failure_that_is_known_has_an_answer() -> None:
    answered = 0
    for control, case in all_cases():
        if control.startswith(AREAS) and control in fixes():
            for result in results_of(control, case):
                if result.status is Status.FAIL:
                    try:
                        change = fixes()[control](result, host_of(case.machine), case.profile)
                    except Unseen as unseen:
                        assert str(unseen)
                    else:
                        answered += change is not None
    assert answered > 80
