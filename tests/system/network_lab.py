# SPDX-License-Identifier: Apache-2.0
"""A host in a network namespace of its own, and a neighbour beside it: real links, real rules, real connections."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from donjon.audit.bundle import Bundle
from donjon.audit.collect.bundle_file import read_bundle
from donjon.audit.collect.script import script

_SERVER = """
import selectors, socket, sys
waiting = selectors.DefaultSelector()
for port in sys.argv[1:]:
    server = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    waiting.register(server, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in waiting.select():
        key.fileobj.accept()[0].close()
"""

_CLIENT = """
import socket, sys
source, to, port = sys.argv[1:]
client = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_STREAM)
client.settimeout(0.4)
client.bind((source, 0))
try:
    client.connect((to, int(port)))
except OSError:
    print("blocked")
else:
    print("accepted")
"""


class NetworkLab:
    """Two namespaces, joined by one cable for each interface of the host."""

    def __init__(self, name: str) -> None:
        self.host = f"{name}-host"
        self.neighbour = f"{name}-near"

    def run(self, *command: str, on: str = "", text: str | None = None) -> str:
        """What a command prints on the host."""
        words = ["ip", "netns", "exec", on or self.host, *command]
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def cable(self, name: str, addresses: Sequence[str], peers: Sequence[str]) -> None:
        """An interface of the host, and its end at the neighbour's."""
        ends = ["link", "add", name, "type", "veth", "peer", "name", f"to-{name}", "netns", self.neighbour]
        self.run("ip", *ends)
        for space, link, wanted in ((self.host, name, addresses), (self.neighbour, f"to-{name}", peers)):
            self.run("ip", "link", "set", link, "up", on=space)
            for address in wanted:
                self.run("ip", "addr", "add", address, "dev", link, *(["nodad"] if ":" in address else []), on=space)

    def guest_port(self, bridge: str, tap: str) -> None:
        """The host's end of a guest's network card."""
        self.run("ip", "tuntap", "add", tap, "mode", "tap")
        self.run("ip", "link", "set", tap, "master", bridge, "up")

    def nft(self, rules: str) -> None:
        self.run("nft", "-f", "-", text=rules)

    @contextmanager
    def listening(self, *ports: int) -> Iterator[None]:
        """TCP servers on all addresses of the host."""
        command = ["ip", "netns", "exec", self.host, "python3", "-c", _SERVER, *map(str, ports)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            try:
                yield
            finally:
                server.kill()

    def connects(self, source: str, to: str, port: int) -> str:
        """Whether a connection from the neighbour is "accepted" or "blocked"."""
        return self.run("python3", "-c", _CLIENT, source, to, str(port), on=self.neighbour).strip()

    def collect(self) -> Bundle:
        """All that the collector brings from the host."""
        command = ["ip", "netns", "exec", self.host, "sh", "-s"]
        done = subprocess.run(command, input=script().encode(), capture_output=True, check=True)
        return read_bundle(io.BytesIO(done.stdout))


@contextmanager
def network_lab(name: str, etc: dict[str, str] | None = None) -> Iterator[NetworkLab]:
    """Both namespaces, gone in the end; `etc`: files of /etc that only the host has, by name."""
    lab = NetworkLab(name)
    with ExitStack() as held:
        for space in (lab.host, lab.neighbour):
            subprocess.run(["ip", "netns", "add", space], check=True)
            held.callback(subprocess.run, ["ip", "netns", "del", space], check=True)
            subprocess.run(["ip", "netns", "exec", space, "ip", "link", "set", "lo", "up"], check=True)
        folder = Path("/etc/netns") / lab.host
        if etc:
            folder.mkdir(parents=True)
            held.callback(folder.rmdir)
        for file, text in (etc or {}).items():
            (folder / file).write_text(text, encoding="utf-8")
            held.callback((folder / file).unlink)
        yield lab
