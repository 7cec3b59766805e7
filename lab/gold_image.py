# SPDX-License-Identifier: Apache-2.0
"""A disk with a Debian-like system as a careless builder leaves it; made without root and without mounting."""

from __future__ import annotations

import struct
from pathlib import Path

from lab.programs import run

START = 1 << 20
SECTOR = 512
LINUX = 0x83
MACHINE_ID = "0123456789abcdef0123456789abcdef"
INITIATOR = "iqn.1993-08.org.debian:01:deadbeef"
PASSWORD_HASH = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7"
AWS_KEY = "AKIA" + "Q7Z3LMNP5RSTUVWX"
RANDOM_PASSWORD = "v9#Qe71LxTz0pRk4"

FILES = {
    "etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "etc/fstab": "/dev/vda1 / ext4 defaults 0 1\ntmpfs /tmp tmpfs defaults 0 0\n",
    "etc/hostname": "build7\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/machine-id": MACHINE_ID + "\n",
    "etc/iscsi/initiatorname.iscsi": f"# made at installation\nInitiatorName={INITIATOR}\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n"
    "ann:x:1000:1000::/home/ann:/bin/bash\n",
    "etc/shadow": f"root:{PASSWORD_HASH}:19000:0:99999:7:::\ndaemon:*:19000::::::\nann:!:19000::::::\n",
    "etc/sudoers": "root ALL=(ALL:ALL) ALL\n",
    "etc/ssh/sshd_config": "PermitRootLogin no\n",
    "etc/resolv.conf": "nameserver 10.0.0.1\n",
    "etc/app/settings.conf": f"user = app\npassword = {RANDOM_PASSWORD}\n",
    "etc/qemu/qemu-ga.conf": "[general]\nblock-rpcs = guest-exec,guest-exec-status\n",
    "root/.aws/credentials": f"[default]\naws_access_key_id = {AWS_KEY}\n",
    "root/.bash_history": "mysql -u root\n",
    "home/ann/notes.txt": "call the customer\n",
    "usr/sbin/qemu-ga": "\x7fELF",
    "var/log/syslog": "Nov 20 10:00:00 build7 kernel: hello\n",
    "var/lib/dhcp/dhclient.leases": "lease { fixed-address 10.0.0.7; }\n",
    "var/lib/dpkg/status": "Package: adduser\nStatus: install ok installed\nVersion: 3.134\nArchitecture: all\n\n"
    "Package: libssl3\nStatus: install ok installed\nSource: openssl (3.0.17-1~deb12u2)\nVersion: 3.0.17-1~deb12u2\n"
    "Architecture: amd64\nDescription: library\n more of it\n\n"
    "Package: telnet\nStatus: deinstall ok config-files\nVersion: 0.17\nArchitecture: amd64\n\n",
    "boot/vmlinuz-6.1.0-40-amd64": "kernel",
}
LINKS = {
    "bin": "usr/bin",
    "var/lib/dbus/machine-id": "/etc/machine-id",
    "etc/systemd/system/multi-user.target.wants/ssh.service": "/lib/systemd/system/ssh.service",
}


def write_tree(root: Path) -> Path:
    """The careless builder's files below a directory, host keys and a private key among them."""
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    for name, target in LINKS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    for name in ("etc/ssh/ssh_host_ed25519_key", "home/ann/.ssh/id_ed25519"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "builder", "-f", root / name)
    public = (root / "home/ann/.ssh/id_ed25519.pub").read_text(encoding="utf-8")
    (root / "home/ann/.ssh/authorized_keys").write_text(public, encoding="utf-8")
    return root


def make_disk(root: Path, disk: Path, size_mib: int = 256) -> Path:
    """A raw disk with one partition, and in it an ext4 with the files of a directory."""
    with disk.open("wb") as file:
        file.truncate(size_mib << 20)
    blocks = ((size_mib << 20) - START) // 4096
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-E", f"offset={START}", "-d", root, disk, str(blocks))
    entry = struct.pack(
        "<B3sB3sII", 0, b"\xfe\xff\xff", LINUX, b"\xfe\xff\xff", START // SECTOR, blocks * 4096 // SECTOR
    )
    with disk.open("r+b") as file:
        file.seek(446)
        file.write(entry + bytes(48) + b"\x55\xaa")
    return disk
