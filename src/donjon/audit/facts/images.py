# SPDX-License-Identifier: Apache-2.0
"""Disk images and their folders: who may read them, and what their headers refer to."""

from __future__ import annotations

import re
import stat
from posixpath import dirname, join, normpath

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown, derived
from donjon.audit.facts.image_headers import Header, parse_header

_KINDS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFBLK: "b", stat.S_IFCHR: "c", stat.S_IFSOCK: "s"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class ImageFile(Struct, frozen=True):
    """How a path looks once links are followed.

    `identity` is the same for two paths of one file or device ("device 253:3"); `kind`: f file, d directory,
    b block device, ...
    """

    path: str
    kind: str
    mode: int
    user: str
    group: str
    identity: str
    size: int = 0

    @property
    def shown(self) -> str:
        """As evidence: "0644 root:root"."""
        return f"{self.mode:04o} {self.user}:{self.group}"


class Images(Struct, frozen=True):
    """`files`: images, kernels and firmware of VMs, and their folders; `headers`: what stands in them; by path."""

    files: Fact[dict[str, ImageFile]]
    headers: Fact[dict[str, Fact[Header]]]

    def at(self, path: str) -> Fact[ImageFile]:
        """A path that a VM names, or that lies in a folder of images."""
        if not isinstance(self.files, Known):
            return self.files
        found = self.files.value.get(path)
        return Known(found, self.files.source) if found else Absent(path)

    def header(self, path: str) -> Fact[Header]:
        """What stands in an image."""
        if not isinstance(self.headers, Known):
            return self.headers
        return self.headers.value.get(path, Unknown(f"nobody read the header of {path}"))

    def identity(self, path: str) -> str:
        """The same for all names of one file or device; the path where nobody looked."""
        found = self.at(path)
        return found.value.identity if isinstance(found, Known) else path


class Chain(Struct, frozen=True):
    """The images behind one, nearest first; `problem` says why they end early, `unseen` that one could not be read."""

    images: tuple[str, ...] = ()
    problem: str = ""
    unseen: str = ""


def read_images(bundle: Bundle) -> Images:
    """From the probes "images" and "image-headers"."""
    return Images(
        derived(derived(bundle.ran("images"), lambda output: output.out), parse_files),
        derived(bundle.output("image-headers"), parse_headers),
    )


def follow(images: Images, path: str, limit: int) -> Chain:
    """All that is behind an image, whatever names it: backing files, parents and data files."""
    found: list[str] = []
    waiting = [path]
    seen = {images.identity(path)}
    while waiting:
        current = waiting.pop(0)
        header = images.header(current)
        if not isinstance(header, Known):
            reason = header.reason if isinstance(header, Unknown) else f"{current} is not there"
            return Chain(tuple(found), unseen=reason)
        for name in (*header.value.parts, *filter(None, [header.value.backing])):
            behind = _resolved(current, name)
            found.append(behind)
            if _SCHEME.match(behind):
                return Chain(tuple(found), f"refers to {behind.partition('?')[0][:80]}, which is no file")
            if images.identity(behind) in seen:
                return Chain(tuple(found), f"comes back to {behind}")
            seen.add(images.identity(behind))
            waiting.append(behind)
        if len(found) > limit:
            return Chain(tuple(found), f"is made of more than {limit} files")
    return Chain(tuple(found))


def _resolved(image: str, name: str) -> str:
    """As QEMU reads it: relative to the folder of the image that names it; "file:" says nothing."""
    name = name.removeprefix("file://").removeprefix("file:")
    return name if _SCHEME.match(name) else normpath(join(dirname(image), name))


def within(path: str, folders: tuple[str, ...]) -> bool:
    """Whether a path, written as it is, lies in one of the folders."""
    path = normpath(path)
    return any(path.startswith(normpath(folder).rstrip("/") + "/") for folder in folders)


def parse_files(text: str) -> dict[str, ImageFile]:
    """By path; from lines of stat(1), and "@end" after all.

    Raises:
        ValueError: it is not whole.
    """
    lines = text.splitlines()
    if lines[-1:] != ["@end"]:
        raise ValueError("it is cut off")
    files = (_file(line) for line in lines[:-1])
    return {file.path: file for file in files}


def _file(line: str) -> ImageFile:
    raw, _uid, _gid, size, inode, device, user, group, path = line.split(" ", 8)
    mode = int(raw, 16)
    kind = _KINDS.get(stat.S_IFMT(mode), "?")
    major, _, minor = device.partition(":")
    identity = f"device {int(major, 16)}:{int(minor, 16)}" if kind == "b" else f"inode {inode}"
    return ImageFile(path, kind, stat.S_IMODE(mode), user, group, identity, int(size))


def parse_headers(text: str) -> dict[str, Fact[Header]]:
    """By path; from hex after each line "@image PATH", and "@end" after all.

    Raises:
        ValueError: it is not whole.
    """
    whole, end, _ = text.rpartition("@end")
    if not end:
        raise ValueError("it is cut off")
    headers: dict[str, Fact[Header]] = {}
    for part in ("\n" + whole).split("\n@image ")[1:]:
        path, _, digits = part.partition("\n")
        digits = digits.replace("@more", "")
        headers[path] = derived(Known(digits, path), lambda hexadecimal: parse_header(bytes.fromhex(hexadecimal)))
    return headers
