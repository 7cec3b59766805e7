# SPDX-License-Identifier: Apache-2.0
"""How long it takes to judge a host with 200 guests by all controls, in one process and as a whole command."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.controls import rules
from donjon.audit.facts.host import read_host
from donjon.audit.judge import BROKEN_RULE, judge
from donjon.audit.profile import load_profile

GUESTS, RUNS = 200, 5
DOMAIN = """<domain type='kvm' id='{number}'>
<name>guest{number}</name>
<uuid>{uuid}</uuid>
<memory unit='KiB'>1048576</memory>
<vcpu placement='static'>2</vcpu>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><boot dev='hd'/></os>
<cpu mode='host-model' check='partial'/>
<on_crash>destroy</on_crash>
<devices>
<emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='/var/lib/libvirt/images/guest{number}.qcow2'/>
<target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='sda' bus='sata'/><readonly/></disk>
<interface type='bridge'><mac address='52:54:00:00:{high:02x}:{low:02x}'/><source bridge='br{bridge}'/>
<target dev='vnet{number}'/><model type='virtio'/></interface>
<serial type='pty'><target type='isa-serial' port='0'/></serial>
<channel type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/channel/{number}.agent'/>
<target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<graphics type='vnc' port='59{port:02}' autoport='yes' listen='{listen}'>
<listen type='address' address='{listen}'/></graphics>
</devices>
<seclabel type='dynamic' model='apparmor' relabel='yes'/>
</domain>
"""


def definitions(count: int) -> str:
    """What the collector's probe "domains" prints on a host with so many running guests; every tenth is careless."""
    parts, uuids = [], []
    for number in range(1, count + 1):
        uuid = f"00000000-0000-4000-8000-{number:012}"
        uuids.append(uuid)
        values = {
            "number": number,
            "uuid": uuid,
            "high": number // 256,
            "low": number % 256,
            "bridge": number % 4,
            "port": number % 100,
            "listen": "0.0.0.0" if number % 10 == 0 else "127.0.0.1",
        }
        text = DOMAIN.format(**values)
        parts += [f"@live {uuid}", text, f"@stored {uuid}", text]
    there = "\n".join(uuids)
    return "\n".join([*parts, "@autostart", "@persistent", there, "@there", there, "@end", ""])


def with_guests(bundle: Path, into: Path, count: int) -> None:
    """The same bundle, of a host that runs so many guests."""
    replaced = {"cmd/domains.out": definitions(count), "cmd/domains.rc": "0\n", "cmd/domains.err": ""}
    with tarfile.open(bundle) as old, tarfile.open(into, "w") as new:
        for member in old:
            content = replaced.get(member.name)
            data = content.encode() if content is not None else (old.extractfile(member) or io.BytesIO()).read()
            member.size = len(data) if member.isfile() else 0
            new.addfile(member, io.BytesIO(data) if member.isfile() else None)


def measure(bundle: Path) -> dict[str, object]:
    """Seconds of reading, parsing and judging, and of the whole command."""
    profile, today = load_profile("kvm-cluster"), datetime.now(UTC).date()
    rules()
    times: dict[str, list[float]] = {"read": [], "facts": [], "judge": [], "command": []}
    argv = [
        Path(sys.executable).with_name("donjon"),
        "audit",
        "run",
        "--bundle",
        bundle,
        "--fail-on",
        "never",
        "--json",
    ]
    for _ in range(RUNS):
        marks = [time.perf_counter()]
        read = read_bundle(bundle)
        marks.append(time.perf_counter())
        host = read_host(read)
        marks.append(time.perf_counter())
        judged = judge([host], profile, today)
        marks.append(time.perf_counter())
        done = subprocess.run(argv, check=True, capture_output=True)
        marks.append(time.perf_counter())
        for name, begin, end in zip(times, marks, marks[1:], strict=False):
            times[name].append(end - begin)
    about_guests = Counter(one.control for one in judged.results if one.control.startswith("GST"))
    exposed = [one for one in judged.results if one.control == "GST-01" and one.status.value == "fail"]
    assert len(exposed) == GUESTS // 10, len(exposed)
    assert not [one for one in judged.results if one.summary.startswith(BROKEN_RULE)]
    assert len(json.loads(done.stdout)["report"]["findings"]) >= len(judged.results)
    return {
        "guests": GUESTS,
        "controls": len(rules()),
        "results": len(judged.results),
        "results of GST-01": about_guests["GST-01"],
        **{f"{name} s": round(median(values), 3) for name, values in times.items()},
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="bundle of a real host (else this one is collected from)")
    given = parser.parse_args().bundle
    with tempfile.TemporaryDirectory() as folder:
        bundle, many = Path(folder) / "host.tar", Path(folder) / "many.tar"
        if given is None:
            donjon = Path(sys.executable).with_name("donjon")
            subprocess.run([donjon, "audit", "collect", "-o", bundle], check=True, capture_output=True)
        with_guests(given or bundle, many, GUESTS)
        print(json.dumps(measure(many), indent=1))


if __name__ == "__main__":
    main()
