# SPDX-License-Identifier: Apache-2.0
"""`donjon serve-nbd` serves disks to QEMU until Ctrl-C, by socket or TCP, and to nobody else by TLS."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from donjon.cli.commands.serve import serve_nbd
from donjon.errors import ConfigError, RefusedError
from donjon.repository.stores.local import LocalStore
from tests.unit.backup.site import Site, disk, machine, new_qcow2, qemu, truth
from tests.unit.repository.disks import PASSWORD

SERVING = re.compile(rb"serving (\S+)")


class Kept(Site):
    """A VM in a repository on disk."""

    def __init__(self, folder: Path) -> None:
        image = new_qcow2(folder)
        super().__init__(machine(disk("vda", image)), store=LocalStore(folder / "repo"))
        self.folder = folder
        self.complaint = ""
        self.content = truth(image)
        self.back_up()

    @contextmanager
    def serving(self, *options: str | Path) -> Iterator[str]:
        """The address of vda while the command runs; in the end it is told to stop, and says what it did."""
        command: list[str | Path] = [Path(sys.executable).with_name("donjon"), "serve-nbd", "web01", "--json"]
        environment = {
            **os.environ,
            "DONJON_REPOSITORY": str(self.folder / "repo"),
            "DONJON_PASSWORD": PASSWORD,
            "DONJON_STATE_DIR": str(self.folder / "state"),
            "DONJON_CONFIG": os.devnull,
        }
        with subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as process:
            assert process.stderr
            self.complaint = ""
            while not (told := SERVING.search(line := process.stderr.readline())):
                assert line, self.complaint
                self.complaint += line.decode()
            yield told[1].decode()
            process.send_signal(signal.SIGINT)
            said, complaint = process.communicate(timeout=20)
            assert (process.returncode, json.loads(said)["exports"]) == (0, ["vda"]), complaint


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


def copied(address: str, folder: Path, *options: str) -> bytes:
    copy = folder / "copy"
    image = ["--image-opts", address] if options else ["-f", "raw", address]
    qemu("qemu-img", "convert", *options, "-O", "raw", *image, copy)
    return copy.read_bytes()


def test_on_a_socket_until_it_is_stopped(kept: Kept, tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    with kept.serving("--socket", socket, "--disk", "vda") as address:
        assert copied(address, tmp_path) == kept.content
        assert socket.stat().st_mode & 0o777 == 0o600
    assert not socket.exists()


def test_by_tcp_without_tls_it_is_said_who_can_read(kept: Kept) -> None:
    with kept.serving("--tcp", "127.0.0.1:0") as address:
        assert address.startswith("nbd://127.0.0.1:")
    assert "every user of this host can read" in kept.complaint


def test_by_tls_only_to_who_shows_a_certificate(kept: Kept, tmp_path: Path) -> None:
    keys, stranger = tmp_path / "keys", tmp_path / "stranger"
    make_certificates(keys)
    stranger.mkdir()
    (stranger / "ca-cert.pem").write_bytes((keys / "ca-cert.pem").read_bytes())
    with kept.serving("--tcp", "127.0.0.1:0", "--tls-dir", keys) as address:
        port = address.rpartition(":")[2].partition("/")[0]
        assert address == f"nbds://127.0.0.1:{port}/vda"
        image = f"driver=nbd,host=127.0.0.1,port={port},export=vda,tls-creds=tls"

        def credentials(folder: Path) -> str:
            return f"tls-creds-x509,id=tls,endpoint=client,dir={folder}"

        assert copied(image, tmp_path, "--object", credentials(keys)) == kept.content
        with pytest.raises(AssertionError):
            copied(image, tmp_path, "--object", credentials(stranger))
        with pytest.raises(AssertionError):
            copied(f"nbd://127.0.0.1:{port}/vda", tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (["--tcp", "0.0.0.0"], RefusedError, "without TLS everybody"),
        (["--tcp", "[::]:10809"], RefusedError, "without TLS everybody"),
        (["--tcp", "somewhere:http"], ConfigError, "no port"),
        (["--tcp", "somewhere"], ConfigError, "cannot serve on"),
        (["--tcp", "127.0.0.1", "--socket", "nbd"], ConfigError, "not both"),
        (["--tls-dir", "."], ConfigError, "only goes with --tcp"),
    ],
)
def test_what_would_be_open_to_all_or_makes_no_sense_is_refused(
    options: list[str], error: type[Exception], says: str
) -> None:
    given = dict(zip(("_".join(word[2:].split("-")) for word in options[::2]), options[1::2], strict=True))
    typed = {name: value if name == "tcp" else Path(value) for name, value in given.items()}
    with pytest.raises(error, match=says):
        serve_nbd("web01", program=None, **typed)  # type: ignore[arg-type]


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate of its for both ends."""
    folder.mkdir()
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    (folder / "ca-cert.pem").write_bytes(certificate("authority", authority, authority, is_authority=True))
    for end in ("server", "client"):
        (folder / f"{end}-cert.pem").write_bytes(certificate("127.0.0.1", own, authority, is_authority=False))
        (folder / f"{end}-key.pem").write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def certificate(
    name: str, key: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
