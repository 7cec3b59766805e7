# SPDX-License-Identifier: Apache-2.0
"""Whatever a definition holds: it is read or refused, rewriting twice is rewriting once, and the rest stays."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from xml.etree.ElementTree import canonicalize

from hypothesis import given
from hypothesis import strategies as st

from donjon.errors import ConfigError
from donjon.hypervisors.definition import parse_definition
from donjon.hypervisors.document import format_document, parse_document
from donjon.hypervisors.identity import rewrite_definition
from donjon.model.vm import Device, Disk

DEFINITIONS = {
    path.stem: path.read_text(encoding="utf-8")
    for path in (Path(__file__).parents[1] / "data/definitions").glob("*.xml")
}
TARGETS = sorted({disk.target for text in DEFINITIONS.values() for disk in parse_definition(text, "").disks})
ROLES = ("nvram", "tpm", "kernel", "initrd", "dtb", "seed", "seed2")
FORMATS = ("raw", "qcow2")
PIECES = ["<?xml version='1.0'?>", "<!DOCTYPE a>", "<domain>", "</domain>", "<name>", "</name>", "a", "&", "<devices>"]
PIECES += ["</devices>", "<disk>", "</disk>", "<target dev='a'/>", "<metadata>", "</metadata>", "<b:labels/>"]

characters = st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))
texts = st.text(characters, min_size=1, max_size=20).filter(lambda text: text.strip() == text)
names = texts.filter(lambda name: "/" not in name)
paths = st.builds("{}{}".format, st.sampled_from(["/images/", "/dev/vg0/"]), names)
images = st.tuples(paths, st.sampled_from(FORMATS))
definitions = st.sampled_from(sorted(DEFINITIONS.values()))


@given(
    text=definitions,
    name=st.none() | names,
    new_identity=st.booleans(),
    disks=st.dictionaries(st.sampled_from(TARGETS), images),
    side_files=st.dictionaries(st.sampled_from(ROLES), paths),
    seed=st.integers(),
)
def test_rewriting_twice_is_rewriting_once_and_does_what_was_asked(
    *,
    text: str,
    name: str | None,
    new_identity: bool,
    disks: dict[str, tuple[str, str]],
    side_files: dict[str, str],
    seed: int,
) -> None:
    def rewrite(definition: str) -> str:
        return rewrite_definition(
            definition,
            name=name,
            new_identity=new_identity,
            disks=disks,
            side_files=side_files,
            random=Random(seed),
        ).definition

    once = rewrite(text)
    assert rewrite(once) == once
    before, after = parse_definition(text, ""), parse_definition(once, "")
    assert after.name == (before.name if name is None else name)
    assert (after.uuid != before.uuid) is new_identity
    assert after.labels == before.labels
    wanted = tuple(_restored(disk, disks) for disk in before.disks if _stays(disk, disks, is_new=new_identity))
    assert after.disks == wanted
    roles = {file.role for file in before.side_files}
    assert {file.role: file.path for file in after.side_files}.items() >= {
        (role, path) for role, path in side_files.items() if role in roles and role != "tpm"
    }


def _stays(disk: Disk, disks: dict[str, tuple[str, str]], *, is_new: bool) -> bool:
    """Another VM does not write to what was not restored for it."""
    is_harmless = disk.read_only or disk.device in (Device.CDROM, Device.FLOPPY) or not (disk.source or disk.remote)
    return not is_new or disk.target in disks or is_harmless


def _restored(disk: Disk, disks: dict[str, tuple[str, str]]) -> Disk:
    if disk.target in disks:
        path, image_format = disks[disk.target]
        device = Device.DISK if disk.device is Device.LUN and path.startswith("/images") else disk.device
        return replace(disk, source=path, image_format=image_format, device=device, remote=None)
    if disk.device in (Device.CDROM, Device.FLOPPY):
        return replace(disk, source=None, remote=None)
    return disk


@given(definitions, st.integers())
def test_what_was_not_asked_for_stays(text: str, seed: int) -> None:
    """Putting every changed value back gives the definition that was there before."""
    vm = parse_definition(text, "")
    name = vm.name
    there = rewrite_definition(text, name="b", new_identity=False, disks={}, side_files={}, random=Random(seed))
    back = rewrite_definition(
        there.definition,
        name=name,
        new_identity=False,
        disks={},
        side_files={file.role: file.path for file in vm.side_files if file.role == "nvram"},
    )
    plain = rewrite_definition(text, new_identity=False, disks={}, side_files={})
    assert back.definition == plain.definition
    assert _without_run(plain.definition) == _without_run(text)


def _without_run(text: str) -> str:
    """Canonical XML without what every restore drops: the id, the generation, media in drives."""
    domain = parse_document(text)
    domain.attrib.pop("id", None)
    for genid in domain.findall("genid"):
        genid.text = None
    for disk in domain.findall("devices/disk"):
        if disk.get("device") in ("cdrom", "floppy"):
            disk[:] = [child for child in disk if child.tag != "source"]
            disk.set("type", "file")
    return canonicalize(format_document(domain), strip_text=True)


@given(definitions)
def test_a_definition_means_the_same_when_it_is_written_back(text: str) -> None:
    written = format_document(parse_document(text))
    assert canonicalize(written) == canonicalize(text)
    assert format_document(parse_document(written)) == written


@given(st.recursive(texts, lambda inner: st.lists(inner, max_size=3)), texts)
def test_any_text_and_attribute_comes_back_as_it_was(text: object, attribute: str) -> None:
    root = parse_document("<domain/>")
    root.text, root.attrib["key"] = str(text) + "\r\n\t ", attribute + "\r\n\t "
    read = parse_document(format_document(root))
    assert (read.text, read.attrib) == (root.text, root.attrib)


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text_is_a_definition_or_refused(text: str) -> None:
    with suppress(ConfigError):
        assert parse_definition(text, "host1").name
