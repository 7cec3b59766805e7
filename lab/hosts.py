# SPDX-License-Identifier: Apache-2.0
"""Two libvirt hosts between which guests migrate live: a cable of their own, names, and certificates of one authority.

Sources: libvirt.org/kbase/tlscerts.html, libvirt.org/migration.html, QEMU's docs/system/tls.rst (names of its files).
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lab.guest import virsh
from lab.libvirt_host import Host, Named, libvirt_host
from lab.programs import require, run

ADDRESSES = {"hosta": "10.77.0.1", "hostb": "10.77.0.2"}
PKI = "/etc/libvirt/pki"  # as the daemons see it
LIBVIRTD_CONF = f"""\
listen_tls = 1
auth_tls = "none"
ca_file = "{PKI}/cacert.pem"
cert_file = "{PKI}/server-cert.pem"
key_file = "{PKI}/server-key.pem"
"""
QEMU_CONF = f'migrate_tls_x509_cert_dir = "{PKI}"\n'
DAY = datetime.timedelta(days=1)
MIGRATION = ("--live", "--p2p", "--tls", "--persistent", "--undefinesource", "--unsafe")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two system daemons with a network between them; images are shared: both see them at the same paths.

    Raises:
        LabUnavailableError: this machine cannot run them.
    """
    require({"ip": "iproute2"})
    authority = _Authority.new()
    with (
        libvirt_host(named=Named("hosta", authority.prepare)) as here,
        libvirt_host(named=Named("hostb", authority.prepare)) as there,
    ):
        _connect(here, there)
        yield here, there


def migrate(name: str, here: Host, there: Host) -> None:
    """Move a running guest; afterwards only `there` knows it. Raises LabError."""
    virsh(here.uri, "migrate", *MIGRATION, name, f"qemu+tls://{there.name}/system?pkipath={PKI}")


def _connect(here: Host, there: Host) -> None:
    first, second = here.namespace_pid(), there.namespace_pid()
    run("ip", "link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second)
    for pid, address in zip((first, second), ADDRESSES.values(), strict=True):
        inside = ("nsenter", "--target", pid, "--net", "ip")
        run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            run(*inside, "link", "set", link, "up")


@dataclass(frozen=True)
class _Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls) -> _Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("donjon's lab")
        signing = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            _unsigned(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(signing, critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    def prepare(self, name: str, folder: Path) -> None:
        """Put what a host of this name needs into the folder of its daemon."""
        pki = folder / "etc/pki"
        pki.mkdir(parents=True)
        certificate, key = self._issue(name)
        for file in ("cacert.pem", "ca-cert.pem"):
            (pki / file).write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        for file in ("server-cert.pem", "client-cert.pem", "clientcert.pem"):
            (pki / file).write_bytes(certificate)
        for file in ("server-key.pem", "client-key.pem", "clientkey.pem"):
            (pki / file).write_bytes(key)
        (folder / "etc/libvirtd.conf").write_text(f'{LIBVIRTD_CONF}host_uuid = "{uuid.uuid4()}"\n', encoding="utf-8")
        (folder / "etc/qemu.conf").write_text(QEMU_CONF, encoding="utf-8")
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in ADDRESSES.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _issue(self, name: str) -> tuple[bytes, bytes]:
        """Certificate and key of a host, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        both_sides = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            _unsigned(_name(name), self.certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(both_sides, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        unencrypted = serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
        return certificate.public_bytes(serialization.Encoding.PEM), private


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
