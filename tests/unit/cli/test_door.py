# SPDX-License-Identifier: Apache-2.0
"""How the program starts, stops and speaks."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from donjon import errors, trace
from donjon.cli.app import make_app, verb_names
from donjon.cli.page import Page
from donjon.cli.progress import LogProgress
from donjon.cli.reference import pages
from donjon.cli.text import duration, safe, size
from donjon.errors import HostError
from donjon.hypervisors.libvirt.hypervisor import LibvirtHypervisor
from donjon.model.vm import Power
from donjon.testing.hypervisor import FakeHypervisor
from donjon.wiring import Program, find_state_directory
from tests.unit.cli.conftest import BLOCK, Cli, make_qcow2, make_raw, write_qcow2

DOCS = Path(__file__).parents[3] / "docs"
DONJON = [sys.executable, "-c", "from donjon.cli.main import main; raise SystemExit(main())"]
HEAVY = ("numpy", "cryptography", "libvirt", "sqlite3", "zstandard", "donjon.wiring")


def test_the_reference_pages_are_what_the_program_says() -> None:
    made = pages()
    assert {name: (DOCS / name).read_text(encoding="utf-8") for name in made} == made, (
        "run `python -m donjon.cli.reference docs`"
    )
    assert {path.name for path in (DOCS / "schemas").iterdir()} == {
        name.rpartition("/")[2] for name in made if name.startswith("schemas/")
    }


def test_every_error_is_on_the_page_of_exit_codes_with_its_code() -> None:
    page = (DOCS / "exit-codes.md").read_text(encoding="utf-8")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DonjonError)]
    assert len(kinds) > 5
    for kind in kinds:
        assert re.search(rf"^\| {kind.exit_code} \|.*`{kind.__name__}`", page, re.MULTILINE), kind.__name__


@pytest.mark.parametrize("words", verb_names(), ids=" ".join)
def test_every_verb_has_help_with_an_example(fresh: Cli, words: tuple[str, ...]) -> None:
    outcome = fresh(*words, "--help")
    assert outcome.exit_code == 0
    assert f"    donjon {' '.join(words)}" in outcome.out.partition("Examples:")[2]


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from donjon.cli.main import main; main(['--help'])\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Begin with:" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_learns_all_verbs(fresh: Cli, shell: str) -> None:
    script = fresh("completion", shell).out
    assert [word for words in verb_names() for word in words if word not in script] == []
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)


def test_options_of_every_verb_may_stand_in_front(cli: Cli, home: Path) -> None:
    del cli.environ["DONJON_REPOSITORY"]
    assert cli("-r", home / "repo", "--json", "list").json == {"restore_points": []}
    assert cli(f"--repo={home}/repo", "-q", "key", "list").exit_code == 0


def test_the_version_is_one_line(fresh: Cli) -> None:
    assert fresh("--version").out == fresh("version").out
    assert fresh("version", "--json").json["repository_format"] == 2


def test_quiet_says_nothing_of_what_went_well(cli: Cli, home: Path) -> None:
    make_qcow2(home / "a.qcow2")
    outcome = cli("backup", "web01", "--disk", "vda=a.qcow2", "-q")
    assert (outcome.exit_code, outcome.raw, outcome.err) == (0, b"", "")
    assert cli("list", "-q").out != ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_backup_in_order(cli: Cli, home: Path, number: signal.Signals) -> None:
    make_qcow2(home / "a.qcow2")
    write_qcow2(home / "a.qcow2", 0, 1)

    def stop(point: str) -> None:
        if point == "writer.before-snapshot":
            os.kill(os.getpid(), number)
            time.sleep(0)

    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    inherited = signal.signal(number, default)  # who started us may have it ignored, as nohup does
    try:
        with trace.listening(stop):
            outcome = cli("backup", "web01", "--disk", "vda=a.qcow2")
    finally:
        signal.signal(number, inherited)
    assert outcome.exit_code == 130
    assert number.name in outcome.err
    assert cli("list", "--json").json["restore_points"] == []
    assert cli("owed").out == ""
    assert not list((home / "repo/locks").iterdir())
    info = subprocess.run(["qemu-img", "info", home / "a.qcow2"], capture_output=True, text=True, check=True)
    assert "donjon-" not in info.stdout
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("stuck", [False, True], ids=["once", "for good"])
def test_a_signal_while_a_guest_is_started_again_does_not_leave_it_off(cli: Cli, home: Path, stuck: bool) -> None:
    class Slow(FakeHypervisor):
        """The operator loses patience while a guest starts."""

        patience = 1

        def start(self, uuid: str) -> None:
            self.patience -= 1
            if self.patience == 0:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0)
            if stuck:
                raise HostError("cannot start it: no memory")
            super().start(uuid)

    from tests.unit.cli.test_round_trip import DEFINITION

    make_raw(home / "a.img", {0: b"x"})
    vm = cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    cli.hypervisor = Slow([replace(vm, power=Power.RUNNING)])
    outcome = cli("backup", "web01", "--shutdown", "--json")
    assert outcome.exit_code == 130
    assert cli.hypervisor.power(vm.uuid) is (Power.OFF if stuck else Power.RUNNING)
    what = "not everything" if stuck else "everything"
    assert outcome.json["error"] == f"stopped by SIGINT: {what} was put back"
    assert len(cli("owed", "--json").json["debts"]) == len(outcome.json["notes"]) == stuck
    assert ("no memory" in outcome.err) is stuck


def test_what_an_interrupted_settle_leaves_is_not_called_put_back(cli: Cli, home: Path) -> None:
    class Stopped(FakeHypervisor):
        def start(self, uuid: str) -> None:
            raise KeyboardInterrupt("SIGTERM")

    from donjon.backup.standstill import START_DEBT

    child = os.fork()
    if child == 0:
        with Program(environ=cli.environ).open_ledger().owing(START_DEBT, uri="fake:///default", uuid="u-1"):
            os._exit(9)
    os.waitpid(child, 0)
    cli.hypervisor = Stopped()
    outcome = cli("settle")
    assert outcome.exit_code == 130
    assert "stopped by SIGTERM: not everything was put back" in outcome.err
    assert "still owed: guest.start" in outcome.err


def test_words_after_two_dashes_are_no_options(cli: Cli, home: Path) -> None:
    make_qcow2(home / "a.qcow2")
    outcome = cli("backup", "--disk", "vda=a.qcow2", "--", "--json")
    assert outcome.exit_code == 0, outcome.err
    assert outcome.out.startswith("--json: restore point ")


def test_the_unit_that_settles_at_boot_says_a_verb_there_is() -> None:
    unit = (DOCS.parent / "packaging/systemd/donjon-settle.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=donjon (.*)$", unit, re.MULTILINE)
    assert tuple(command.split()) in verb_names()
    assert "Type=oneshot" in unit
    assert re.search(r"^After=.*\blibvirtd\.service\b", unit, re.MULTILINE)


def test_a_defect_is_one_sentence_and_a_file(cli: Cli, home: Path) -> None:
    def fail(_point: str) -> None:
        raise ZeroDivisionError("a defect")

    make_qcow2(home / "a.qcow2")
    with trace.listening(fail):
        outcome = cli("backup", "web01", "--disk", "vda=a.qcow2")
        verbose = cli("backup", "web01", "--disk", "vda=a.qcow2", "-v")
    assert outcome.exit_code == verbose.exit_code == 1
    (kept, *_) = list((home / "state").glob("error-*.txt"))
    assert "ZeroDivisionError: a defect" in outcome.err
    assert "Traceback" not in outcome.err
    assert kept.name in outcome.err
    assert "Traceback" in kept.read_text(encoding="utf-8")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "Traceback" in verbose.err


def test_a_reader_who_goes_away_is_no_error(cli: Cli) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "bash", *DONJON, "completion", "bash"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **cli.environ},
    )
    assert (done.returncode, done.stderr) in {(141, ""), (0, "")}


def test_libvirts_own_test_driver_is_listed(fresh: Cli) -> None:
    pytest.importorskip("libvirt")
    program = Program(environ={**fresh.environ, "DONJON_REPOSITORY": ""})
    from donjon.cli.main import main

    fresh.capture.readouterr()
    assert main(["vms", "--connect", "test:///default"], program) == 0
    heading, row = fresh.capture.readouterr().out.decode().splitlines()[:2]
    assert heading.split() == ["name", "state", "disks", "uuid"]
    assert row.split()[:2] == ["test", "running"]


def test_a_running_guest_of_libvirt_is_refused(cli: Cli) -> None:
    pytest.importorskip("libvirt")
    from donjon.cli.main import main

    with LibvirtHypervisor("test:///default") as hypervisor:
        assert [vm.name for vm in hypervisor.list_vms()] == ["test"]
    cli.capture.readouterr()
    words = ["backup", "test", "--method", "offline", "--connect", "test:///default"]
    assert main(words, Program(environ=cli.environ)) == 1
    assert "cannot back up test" in cli.capture.readouterr().err.decode()


def test_vms_know_their_last_restore_point(cli: Cli, home: Path) -> None:
    from tests.unit.cli.test_round_trip import DEFINITION

    make_qcow2(home / "a.img")
    cli.hypervisor.define(DEFINITION.format(image=home / "a.img").replace("type='raw'", "type='qcow2'"))
    assert cli("vms").out.splitlines()[1].endswith("never")
    cli("backup", "--all")
    assert cli("vms", "--json").json["vms"][0]["last_restore_point"].endswith("Z")


def test_a_damaged_snapshot_hides_no_other(cli: Cli, home: Path) -> None:
    make_qcow2(home / "a.qcow2")
    for name in ("web01", "web02"):
        cli("backup", name, "--disk", "vda=a.qcow2")
    lost = cli("list", "--json").json["restore_points"][0]["id"]
    path = home / "repo/snapshots" / lost
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    outcome = cli("list")
    assert "web02" in outcome.out
    assert f"the snapshot {lost[:8]} is damaged" in outcome.err
    assert cli("restore", "web02", "--to", "-").raw == bytes(8 * BLOCK)


def test_the_state_is_where_the_host_keeps_such_things() -> None:
    assert find_state_directory({"DONJON_STATE_DIR": "/a"}, is_root=True) == Path("/a")
    assert find_state_directory({}, is_root=True) == Path("/var/lib/donjon")
    assert find_state_directory({"XDG_STATE_HOME": "/s"}, is_root=False) == Path("/s/donjon")
    assert find_state_directory({"HOME": "/h"}, is_root=False) == Path("/h/.local/state/donjon")


def test_nothing_from_outside_reaches_the_terminal_as_a_command() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    page = Page(screen)
    page.table(("name", "size"), [("[red]x[/]\x1b[2J\u202e\udcff", "1"), ("東京", "22")], right={"size"})
    width = len("[red]x[/]\\x1b[2J\\u202e\\udcff")
    lines = screen.getvalue().splitlines()
    assert lines[0] == f"\x1b[1m{'name':<{width}}  size\x1b[0m"
    assert lines[1].split() == ["[red]x[/]\\x1b[2J\\u202e\\udcff", "1"]
    assert lines[2] == f"東京{' ' * (width - 4)}    22"


@pytest.mark.parametrize(
    ("length", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (6 << 30, "6.0 GiB"), (1 << 62, "4.0 EiB")],
)
def test_sizes_are_in_iec_units(length: int, text: str) -> None:
    assert size(length) == text


def test_durations_are_read_aloud() -> None:
    assert [duration(s) for s in (0.04, 59.9, 200, 7500)] == ["0.0 s", "59.9 s", "3 min 20 s", "2 h 5 min"]
    assert safe("a\tb") == "a\\tb"


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr("donjon.cli.progress.LOG_EVERY_S", 0.0)
    progress = LogProgress(log)
    progress.begin("vda\n", 100 << 20)
    time.sleep(0.01)
    progress.advance(50 << 20)
    assert re.fullmatch(r"vda\\n: 50 % of 100 MiB, [\d.]+ GiB/s, 0\.0 s left\n", log.getvalue())


def test_every_verb_is_in_the_app() -> None:
    app = make_app()
    for words in verb_names():
        assert app.parse_commands(list(words))[0] == words
