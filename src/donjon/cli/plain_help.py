# SPDX-License-Identifier: Apache-2.0
"""Help for pipes and files: plain lines, folded once, what belongs to an option indented below it."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

_INDENT = "  "
_HANGING = "      "


class PlainHelp:
    """A formatter of cyclopts' (cyclopts.help.protocols.HelpFormatter)."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """A panel: a title, and an entry for each command or option."""
        if not panel.entries:
            return
        if panel.title:
            _say(console, f"{_text(console, panel.title)}:")
        for entry in panel.entries:
            line = ": ".join(filter(None, [_names(entry), _text(console, entry.description)]))
            _say(console, fill(line, options.max_width, initial_indent=_INDENT, subsequent_indent=_HANGING, **_WHOLE))
        _say(console, "")

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """How the command is called."""
        if text := _text(console, usage):
            text = text if text.startswith("Usage:") else f"Usage: {text}"
            _say(console, f"{fill(text, options.max_width, subsequent_indent=_HANGING, **_WHOLE)}\n")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:
        """What it is for, in paragraphs."""
        for paragraph in _rendered(console, description).split("\n\n"):
            if text := " ".join(paragraph.split()):
                _say(console, f"{fill(text, options.max_width, **_WHOLE)}\n")


_WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def _names(entry: HelpEntry) -> str:
    return ", ".join(entry.display_labels_with_metavar)


def _text(console: Console, shown: Any) -> str:
    """On one line, however it was folded."""
    return " ".join(_rendered(console, shown).split())


def _rendered(console: Console, shown: Any) -> str:
    if shown is None:
        return ""
    with console.capture() as captured:
        console.print(shown, highlight=False, markup=False)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
