"""A click group that imports a subcommand's module when that subcommand is used, and no sooner."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import click

__all__ = ["LazyGroup", "Subcommand", "did_you_mean"]


@dataclass(frozen=True)
class Subcommand:
    """Where a subcommand is and what the list of commands says about it.

    Attributes:
        target: "package.module:attribute" of a click command.
        summary: its help's first sentence, repeated here so that the list imports nothing.
    """

    target: str
    summary: str

    def load(self) -> click.Command:
        """Imports the command."""
        module, _, attribute = self.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), self.target
        return command


class LazyGroup(click.Group):
    """Commands from a table of `Subcommand`, listed in the table's order."""

    def __init__(self, *args: Any, subcommands: Mapping[str, Subcommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.subcommands = subcommands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The table's names."""
        return list(self.subcommands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command called `cmd_name`, or None when the table has none."""
        found = self.subcommands.get(cmd_name)
        return found.load() if found else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command `args` begins with.

        Raises:
            click.UsageError: there is none of that name; the message names the nearest ones.
        """
        if args and args[0] not in self.subcommands and not ctx.resilient_parsing:
            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], self.subcommands)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table into the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, found.summary) for name, found in self.subcommands.items()])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ ", did you mean 'a' or 'b'?" with the known words nearest to `word`, or "" when none is near."""
    near = difflib.get_close_matches(word, list(known), n=3)
    return f", did you mean {' or '.join(map(repr, near))}?" if near else ""
