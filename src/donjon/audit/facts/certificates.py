# SPDX-License-Identifier: Apache-2.0
"""Certificates of the management plane. Keys never leave the host. Source: RFC 5280."""

from __future__ import annotations

import re
from datetime import date
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Known, Unknown, derived

_BLOCK = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


class Certificate(Struct, frozen=True):
    """A certificate. `names`: DNS names and addresses it is for; `key`: "RSA", "EC", ...; `bits` of the key.

    `signature`: hash of its signature, "sha256"; "" if it has none of its own (Ed25519). `digest`: its own SHA-256.
    """

    subject: str
    names: tuple[str, ...]
    authority: bool
    self_signed: bool
    begins: date
    ends: date
    key: str
    bits: int
    signature: str
    digest: str

    def is_for(self, host: str, addresses: tuple[str, ...]) -> bool:
        """Whether one of its names is the host's, with or without domain, or one of its addresses."""
        return any(name in addresses or _same_name(name, host) for name in self.names)


class Certificates(Struct, frozen=True):
    """By path; of further certificates in one file "PATH#2" and so on."""

    all: Fact[dict[str, Fact[Certificate]]]


def read_certificates(bundle: Bundle) -> Certificates:
    """From the probe "certificates": "# PATH", and what is between BEGIN and END CERTIFICATE."""
    return Certificates(derived(bundle.output("certificates"), _parse))


def _parse(text: str) -> dict[str, Fact[Certificate]]:
    found: dict[str, Fact[Certificate]] = {}
    for part in re.split(r"(?m)^# (?=/)", text)[1:]:
        path, _, body = part.partition("\n")
        blocks = _BLOCK.findall(body)
        if not blocks or body.count("BEGIN CERTIFICATE") != len(blocks):
            found[path] = Unknown(f"{path} holds no whole certificate")
        for number, block in enumerate(blocks, 1):
            name = path if number == 1 else f"{path}#{number}"
            found[name] = derived(Known(block, path), parse_certificate)
    return found


def parse_certificate(pem: str) -> Certificate:
    """A certificate in PEM.

    Raises:
        ValueError: it is none, or uses what is not known here.
    """
    try:
        one = x509.load_pem_x509_certificate(pem.encode())
        key = one.public_key()
        hashed = one.signature_hash_algorithm
        return Certificate(
            subject=one.subject.rfc4514_string(),
            names=_names(one),
            authority=_is_authority(one),
            self_signed=one.subject == one.issuer,
            begins=one.not_valid_before_utc.date(),
            ends=one.not_valid_after_utc.date(),
            key=_kind(key),
            bits=getattr(key, "key_size", 256),
            signature=hashed.name if hashed else "",
            digest=one.fingerprint(SHA256()).hex(),
        )
    except (
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise ValueError(str(error)) from error


def _kind(key: object) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        return "RSA"
    return "EC" if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.strip("_")


def _names(one: x509.Certificate) -> tuple[str, ...]:
    try:
        names = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    found = [*names.get_values_for_type(x509.DNSName)]
    return (*found, *(str(address) for address in names.get_values_for_type(x509.IPAddress)))


def _is_authority(one: x509.Certificate) -> bool:
    try:
        return one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _same_name(name: str, host: str) -> bool:
    """Names compare without case; "*.example.org" is for every host of that domain; a short name for its long form."""
    name, host = name.lower().rstrip("."), host.lower().rstrip(".")
    if name.startswith("*."):
        return "." in host and host.partition(".")[2] == name[2:]
    return name == host or ("." not in host and name.partition(".")[0] == host and not _is_address(name))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
