# SPDX-License-Identifier: Apache-2.0
"""Our NBD server serves QEMU and libnbd, our client reads from qemu-nbd and nbdkit, by unix sockets and by TLS."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
import trustme

from donjon.errors import HostError
from donjon.nbd.client import NbdClient
from donjon.nbd.dial import NoServerError
from donjon.nbd.server import NbdServer
from donjon.testing.nbd_exports import MemoryExport

MIB = 1 << 20
PACKAGES = {"nbdcopy": "libnbd-bin", "nbdinfo": "libnbd-bin", "nbdkit": "nbdkit"}
BITMAP = "qemu:dirty-bitmap:vda"
SIZE = 20 * MIB + 512


def content() -> bytes:
    disk = bytearray(Random(2).randbytes(SIZE))
    disk[4 * MIB : 15 * MIB] = bytes(11 * MIB)
    return bytes(disk)


def run(*argv: object, fails: bool = False) -> str:
    words = [str(word) for word in argv]
    if shutil.which(words[0]) is None:
        pytest.skip(f"needs {words[0]}: apt-get install {PACKAGES.get(words[0], 'qemu-utils')}")
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stdout + done.stderr


@contextmanager
def started(*argv: object) -> Iterator[None]:
    words = [str(word) for word in argv]
    if shutil.which(words[0]) is None:
        pytest.skip(f"needs {words[0]}: apt-get install {PACKAGES.get(words[0], 'qemu-utils')}")
    with subprocess.Popen(words) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def reached(connect: Callable[[], NbdClient]) -> NbdClient:
    """Connect as soon as the server listens."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return connect()
        except NoServerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def read(client: NbdClient) -> bytes:
    data = bytearray(client.size)
    client.read_into(0, memoryview(data))
    return bytes(data)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "disk"
    path.write_bytes(content())
    return path


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("server") / "s"
    with NbdServer({"vda": MemoryExport(content(), context=BITMAP)}).serving_unix(path):
        yield f"nbd+unix:///vda?socket={path}"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def credentials(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as GnuTLS programs want it: their own certificates, of client and server, and whom they trust."""
    folder = tmp_path_factory.mktemp("pki")
    issued = ca.issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(folder / "ca-cert.pem")
    for side in ("client", "server"):
        issued.private_key_pem.write_to_path(folder / f"{side}-key.pem")
        issued.cert_chain_pems[0].write_to_path(folder / f"{side}-cert.pem")
    return folder


def context(ca: trustme.CA, purpose: ssl.Purpose, *, own: bool = True) -> ssl.SSLContext:
    made = ssl.create_default_context(purpose)
    made.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(made)
    if own:
        ca.issue_cert("localhost", "127.0.0.1").configure_cert(made)
    return made


def test_qemu_reads_what_we_serve(uri: str, raw: Path, tmp_path: Path) -> None:
    assert f"({SIZE} bytes)" in run("qemu-img", "info", uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, raw)
    run("qemu-img", "convert", "-O", "raw", uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content()


def test_qemu_sees_our_holes(uri: str) -> None:
    zero = [
        (area["start"], area["length"])
        for area in json.loads(run("qemu-img", "map", "--output=json", uri))
        if area["zero"]
    ]
    assert zero == [(4 * MIB, 11 * MIB)]


def test_our_export_is_the_backing_file_of_an_overlay(uri: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", uri, overlay)
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", "-c", "discard 2M 1M", overlay)
    run("qemu-img", "convert", "-O", "raw", overlay, tmp_path / "copy")
    copy = (tmp_path / "copy").read_bytes()
    assert copy[:MIB] + copy[3 * MIB :] == content()[:MIB] + content()[3 * MIB :]
    assert copy[MIB : MIB + 65536] == b"\7" * 65536


def test_libnbd_reads_what_we_serve(uri: str, tmp_path: Path) -> None:
    run("nbdcopy", uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content()
    told = json.loads(run("nbdinfo", "--json", uri))["exports"][0]
    assert (told["export-size"], told["is_read_only"], told["can_multi_conn"]) == (SIZE, True, True)
    assert told["contexts"] == ["base:allocation", BITMAP]


def test_libnbd_sees_our_bitmap(uri: str) -> None:
    areas = json.loads(run("nbdinfo", f"--map={BITMAP}", "--json", uri))
    assert [(area["offset"], area["type"]) for area in areas[:3]] == [(0, 0), (65536, 1), (131072, 0)]
    assert sum(area["length"] for area in areas) == SIZE


def test_libnbd_lists_our_exports(uri: str) -> None:
    assert 'export="vda"' in run("nbdinfo", "--list", uri)
    assert "No such file" in run("nbdinfo", uri.replace("vda", "vdb"), fails=True)


def test_qemu_writes_to_what_we_serve(tmp_path: Path) -> None:
    export = MemoryExport(bytes(SIZE), read_only=False)
    with NbdServer({"": export}).serving_unix(tmp_path / "s"):
        writes = ["write -P 5 4k 3M", "write -z 8k 64k", "discard 1M 1M", "write -f -P 6 12M 1k", "flush"]
        commands = [word for write in writes for word in ("-c", write)]
        run("qemu-io", "-f", "raw", *commands, f"nbd+unix:///?socket={tmp_path / 's'}")
    expected = bytearray(SIZE)
    expected[4096 : 4096 + 3 * MIB] = b"\5" * (3 * MIB)
    expected[8192 : 8192 + 65536] = bytes(65536)
    expected[12 * MIB : 12 * MIB + 1024] = b"\6" * 1024
    assert export.flushed == bytes(expected)


@pytest.mark.parametrize(
    ("filters", "settings"),
    [
        ([], []),
        (["--filter=multi-conn"], ["multi-conn-mode=disable"]),
        (["--filter=noparallel"], ["serialize=all-requests"]),
    ],
    ids=["as it is", "one connection", "one request at a time"],
)
def test_we_read_from_nbdkit(raw: Path, tmp_path: Path, filters: list[str], settings: list[str]) -> None:
    path = tmp_path / "s"
    with started("nbdkit", "-f", "-r", "-U", path, *filters, "file", raw, *settings):
        client = reached(lambda: NbdClient.connect_unix(path, contexts=["base:allocation"]))
        assert read(client) == content()
        assert sum(status.length for status in client.block_status()) == SIZE
        client.close()


def test_we_write_to_nbdkit(tmp_path: Path) -> None:
    with started("nbdkit", "-f", "-U", tmp_path / "s", "memory", str(SIZE)):
        client = reached(lambda: NbdClient.connect_unix(tmp_path / "s"))
        client.write(0, memoryview(content()))
        client.flush()
        assert read(client) == content()
        client.close()


def test_an_error_of_nbdkit_is_ours(raw: Path, tmp_path: Path) -> None:
    failing = ["--filter=error", "file", raw, "error-pread=ENOSPC", "error-pread-rate=100%"]
    with started("nbdkit", "-f", "-r", "-U", tmp_path / "s", *failing):
        client = reached(lambda: NbdClient.connect_unix(tmp_path / "s"))
        with pytest.raises(HostError, match=r"cannot access the disk at offset \d+: No space left on device"):
            read(client)
        client.close()


def test_qemu_can_stop_its_server_after_a_negotiation_of_ours_that_failed(tmp_path: Path) -> None:
    disk = ["--blockdev", "driver=null-co,node-name=disk,size=1048576,read-zeroes=on"]
    monitor = ["--chardev", f"socket,id=qmp,path={tmp_path / 'qmp'},server=on,wait=off", "--monitor", "chardev=qmp"]
    nbd = ["--nbd-server", f"addr.type=unix,addr.path={tmp_path / 's'}", "--export", "type=nbd,id=e,node-name=disk"]
    with started("qemu-storage-daemon", *disk, *monitor, *nbd), socket.socket(socket.AF_UNIX) as qmp:
        client = reached(lambda: NbdClient.connect_unix(tmp_path / "s", "disk"))
        for _ in range(20):
            with pytest.raises(HostError, match="does not offer qemu:dirty-bitmap:none"):
                NbdClient.connect_unix(tmp_path / "s", "disk", ["qemu:dirty-bitmap:none"])
        client.close()
        qmp.connect(str(tmp_path / "qmp"))
        qmp.settimeout(20)
        with qmp.makefile("r") as answers:
            assert "QMP" in json.loads(answers.readline())
            for command in ("qmp_capabilities", "nbd-server-stop"):
                qmp.sendall(json.dumps({"execute": command}).encode())
                while (answer := json.loads(answers.readline())).keys() == {"event", "data", "timestamp"}:
                    pass
                assert answer == {"return": {}}


def test_qemu_and_libnbd_read_what_we_serve_by_tls(
    ca: trustme.CA, credentials: Path, raw: Path, tmp_path: Path
) -> None:
    server = NbdServer({"vda": MemoryExport(content())}, tls=context(ca, ssl.Purpose.CLIENT_AUTH))
    with server.serving_tcp("127.0.0.1") as port:
        tls = ["--object", f"tls-creds-x509,id=tls,endpoint=client,dir={credentials}"]
        disk = f"driver=raw,file.driver=nbd,file.host=127.0.0.1,file.port={port},file.export=vda"
        run("qemu-img", "convert", *tls, "--image-opts", f"{disk},file.tls-creds=tls", "-O", "raw", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == content()
        assert "TLS" in run("qemu-img", "info", "--image-opts", disk, fails=True)
        run("nbdcopy", f"nbds://127.0.0.1:{port}/vda?tls-certificates={credentials}", tmp_path / "copy2")
        assert (tmp_path / "copy2").read_bytes() == content()


def test_we_read_from_qemu_by_tls(ca: trustme.CA, credentials: Path, raw: Path) -> None:
    tls = ["--object", f"tls-creds-x509,id=tls,endpoint=server,dir={credentials},verify-peer=yes", "--tls-creds", "tls"]
    check_tls_server(
        ca, lambda port: ["qemu-nbd", *tls, "-t", "-e", 8, "-r", "-f", "raw", "-b", "127.0.0.1", "-p", port, raw]
    )


def test_we_read_from_nbdkit_by_tls(ca: trustme.CA, credentials: Path, raw: Path) -> None:
    tls = ["--tls=require", f"--tls-certificates={credentials}", "--tls-verify-peer"]
    check_tls_server(ca, lambda port: ["nbdkit", *tls, "-f", "-r", "-i", "127.0.0.1", "-p", port, "file", raw])


def check_tls_server(ca: trustme.CA, argv: Callable[[int], list[object]]) -> None:
    """It gives us the disk, but not without TLS or a certificate; and only from one we trust do we take it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with started(*argv(port)):
        ours = context(ca, ssl.Purpose.SERVER_AUTH)
        client = reached(lambda: NbdClient.connect_tcp("127.0.0.1", port, tls=ours))
        assert read(client) == content()
        client.close()
        with pytest.raises(HostError):
            NbdClient.connect_tcp("127.0.0.1", port, tls=None)
        with pytest.raises(HostError):
            NbdClient.connect_tcp("127.0.0.1", port, tls=context(ca, ssl.Purpose.SERVER_AUTH, own=False))
        with pytest.raises(HostError, match="certificate verify failed"):
            NbdClient.connect_tcp("127.0.0.1", port, tls=context(trustme.CA(), ssl.Purpose.SERVER_AUTH))
