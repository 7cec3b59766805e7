# SPDX-License-Identifier: Apache-2.0
"""Secrets in texts are blanked on the host, and what only sounds like one is not."""

from __future__ import annotations

import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

SECRET = "HUNTER2"
# What is written, and what becomes of it.
SECRETS = [
    ("<graphics type='vnc' passwd='HUNTER2 a,b' port='1'/>", "<graphics type='vnc' passwd='[blanked]' port='1'/>"),
    ("<graphics type='vnc' passwd='HUNTER2\\' port='1'/>", "<graphics type='vnc' passwd='[blanked]' port='1'/>"),
    ('<graphics passwd="HUNTER2"><listen/></graphics>', '<graphics passwd="[blanked]"><listen/></graphics>'),
    ("<password>HUNTER2</password>", "<password>[blanked]</password>"),
    ("<password type='x'>HUNTER2</password>", "<password type='x'>[blanked]</password>"),
    ('vnc_password = "HUNTER2"', 'vnc_password = "[blanked]"'),
    ('#spice_password = "HUN\\"TER2 HUNTER2"', '#spice_password = "[blanked]"'),
    ("vncpasswd = 'HUNTER2'", "vncpasswd = '[blanked]'"),
    ("vfb = ['vnc=1,vncpasswd=HUNTER2,keymap=us']", "vfb = ['vnc=1,vncpasswd=[blanked],keymap=us']"),
    ("(vncpasswd 'HUNTER2') (vnc 1)", "(vncpasswd '[blanked]') (vnc 1)"),
    ("(device (vfb (vncpasswd HUNTER2)(vnc 1)))", "(device (vfb (vncpasswd [blanked])(vnc 1)))"),
    ('{"passwd": "HUNTER2", "listen": "::"}', '{"passwd": "[blanked]", "listen": "::"}'),
    ('{"password":"HUN\\"TER2HUNTER2","x":1}', '{"password":"[blanked]","x":1}'),
    ('x "{\\"password\\": \\"HUNTER2\\"}"', 'x "{\\"password\\": \\"[blanked]"'),
    ("password = HUNTER2 HUNTER2", "password = [blanked]"),
    ("Password: HUNTER2", "Password: [blanked]"),
    ("password HUNTER2", "password [blanked]"),
    ("bindpw HUNTER2", "bindpw [blanked]"),
    ("node.session.auth.password_in = HUNTER2", "node.session.auth.password_in = [blanked]"),
    ("qemu -spice port=1,password=HUNTER2,addr=::", "qemu -spice port=1,password=[blanked],addr=::"),
    ("qemu -object secret,id=a,data=HUNTER2,format=raw", "qemu -object secret,id=a,data=[blanked],format=raw"),
    ('-object {"qom-type":"secret","data":"HUNTER2"} -x', '-object {"qom-type":"secret","data":"[blanked]"} -x'),
    ("run --password HUNTER2 --user x", "run --password [blanked] --user x"),
    ("smb://user:HUNTER2@host/x http://u:p@HUNTER2@h", "smb://user:[blanked]@host/x http://u:[blanked]@h"),
    ("mysql://root:HUN@TER2HUNTER2@localhost:3306/db", "mysql://root:[blanked]@localhost:3306/db"),
    ("iscsi://user%HUNTER2@10.0.0.1:3260/iqn/1", "iscsi://user%[blanked]@10.0.0.1:3260/iqn/1"),
    ("https://HUNTER2HUNTER2HUNTER2@host/deb", "https://[blanked]@host/deb"),
    ("rbd:pool/img:id=admin:key=AQHUNTER2==:auth=x,y=1", "rbd:pool/img:id=admin:key=[blanked]:auth=x,y=1"),
    ("root:$6$salt$HUNTER2:19000:0", "root:[blanked]:19000:0"),
    ("root:$y$j9T$HUNTER2$HUNTER2:1", "root:[blanked]:1"),
    ("x pbkdf2 root grub.pbkdf2.sha512.9.HUNTER2", "x pbkdf2 root grub.pbkdf2.[blanked]"),
    ("PrivateKey = HUNTER2=", "PrivateKey = [blanked]"),
    ("\tkey = AQHUNTER2==", "\tkey = [blanked]"),
    ("wpa_passphrase=HUNTER2", "wpa_passphrase=[blanked]"),
    ("api_key: HUNTER2", "api_key: [blanked]"),
    ("export DB_PASS=HUNTER2", "export DB_PASS=[blanked]"),
    ("userPassword: {SSHA}HUNTER2", "userPassword: [blanked]"),
    ('curl -H "Authorization: Bearer HUNTER2" -x', 'curl -H "Authorization: [blanked]" -x'),
    ("don't say passwd='HUNTER2' here", "don't say passwd='[blanked]' here"),
    (
        "-----BEGIN PRIVATE KEY-----\\nHUNTER2\\n-----END PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----[blanked]-----END PRIVATE KEY-----",
    ),
]
KEPT = [
    "<graphics type='vnc' passwd='' passwdValidTo='2010-01-01T00:00:00'/>",
    "<secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/>",
    "<secret ephemeral='no' private='yes'>",
    'vnc_password = ""',
    "vfb = ['vnc=1,vncpasswd=']",
    "(vncpasswd '')",
    '{"password": null, "token": {"a": 1}, "secret": []}',
    "qemu -vnc :0,password=on",
    "PasswordAuthentication no",
    "permitemptypasswords no",
    "PASS_MAX_DAYS 99999",
    'key_file = "/etc/pki/libvirt/private/serverkey.pem"',
    "ssl_private_key: /etc/pki/key.pem",
    'tls_x509_secret_uuid = "00000000-0000-0000-0000-000000000000"',
    "%wheel ALL=(ALL) NOPASSWD: ALL",
    "passwd: files systemd",
    "password requisite pam_pwquality.so retry=3",
    "password [success=1 default=ignore] pam_unix.so obscure yescrypt",
    '{"match": {"left": {"ct": {"key": "state"}}, "right": "established"}}',
    'echo "$1$2" # $5 each',
    "http://host:8080/path user@host",
    "ssh://git@host/path",
]
AWKS = {"awk": ["awk"], "busybox": ["busybox", "awk"]}


@pytest.fixture(scope="module")
def redactor() -> str:
    return files("donjon.audit.collect").joinpath("redact.awk").read_text(encoding="utf-8")


def redacted(program: str, text: str, folder: Path, *awk: str) -> str:
    source, into = folder / "text", folder / "into"
    source.write_text(text)
    (into / str(folder).lstrip("/")).mkdir(parents=True, exist_ok=True)
    words = ["-v", f"folder={into}/", "-v", "bytes=1000000", program, str(source)]
    subprocess.run([*(awk or ("awk",)), *words], check=True, capture_output=True)
    return (into / str(source).lstrip("/")).read_text()


@pytest.mark.parametrize("awk", AWKS)
def test_every_kind_of_secret_is_blanked_and_nothing_else(awk: str, redactor: str, tmp_path: Path) -> None:
    text = "".join(f"{line}\n" for line, _ in SECRETS)
    assert all(SECRET in line for line, _ in SECRETS)
    assert redacted(redactor, text, tmp_path, *AWKS[awk]).splitlines() == [after for _, after in SECRETS]


@pytest.mark.parametrize("awk", AWKS)
def test_what_only_sounds_like_a_secret_is_kept(awk: str, redactor: str, tmp_path: Path) -> None:
    assert redacted(redactor, "".join(f"{line}\n" for line in KEPT), tmp_path, *AWKS[awk]).splitlines() == KEPT


@pytest.mark.parametrize("end", ["-----END RSA PRIVATE KEY-----\nkept\n", ""], ids=["whole", "cut short"])
def test_private_keys_are_blanked_and_certificates_are_not(end: str, redactor: str, tmp_path: Path) -> None:
    certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    text = f"{certificate}-----BEGIN RSA PRIVATE KEY-----\nHUNTER2\nHUNTER2\n{end}"
    assert redacted(redactor, text, tmp_path) == f"{certificate}-----BEGIN RSA PRIVATE KEY-----[blanked]\n{end}"


def test_a_package_called_passwd_keeps_its_version(redactor: str, tmp_path: Path) -> None:
    """Outputs of probes have no leading slash in their names."""
    (tmp_path / "packages.out").write_text("passwd 1:4.13\nbase-passwd\t1:4.13\n")
    (tmp_path / "into").mkdir()
    words = ["-v", "folder=into/", "-v", "bytes=1000", redactor, "packages.out"]
    subprocess.run(["awk", *words], cwd=tmp_path, check=True)
    assert (tmp_path / "into" / "packages.out").read_text() == "passwd 1:4.13\nbase-passwd\t1:4.13\n"


@pytest.mark.parametrize("awk", AWKS)
def test_nothing_before_a_secret_saves_it(awk: str, redactor: str, tmp_path: Path) -> None:
    befores = ["'", '"', "\\", ",", "=", "(", "<", "#", "\"'", "=(", "'", '"=']
    anywhere = [line for line, _ in SECRETS if not line.startswith(("password", "Password", "bindpw", "\tkey", "run"))]
    text = "".join(f"x{before}{line}\n" for before in befores for line in anywhere)
    assert [line for line in redacted(redactor, text, tmp_path, *AWKS[awk]).splitlines() if SECRET in line] == []
