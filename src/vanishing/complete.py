"""Completion in a shell, by argcomplete: commands, options, and the runs, seeds and studies of `params.yaml`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

from vanishing import project
from vanishing.errors import UserError


def answer(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and end the process, if the shell has asked for completions."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    for action in _actions(parser):
        if completer := COMPLETERS.get(str(action.metavar)):
            action.completer = completer  # type: ignore[attr-defined] # which argcomplete looks for
    argcomplete.autocomplete(parser)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)


def runs(prefix: str, **_: Any) -> list[str]:
    """List the runs; after a run and a colon, its seeds."""
    from vanishing import config

    name, colon, _seed = prefix.partition(":")
    try:
        if not colon:
            return _names("runs")
        project.enter()
        return [f"{name}:{seed}" for seed in config.load().seeds_of(name)]
    except (UserError, OSError, KeyError):  # no project here, or parameters with a mistake
        return []


def studies(prefix: str, **_: Any) -> list[str]:
    """List the studies."""
    return _names("studies")


def _names(block: str) -> list[str]:
    """List the names in a block of the parameters, which are not checked: that would take longer."""
    from vanishing import config

    try:
        found = config.read(project.enter() / project.PARAMETERS)[block]
    except (UserError, OSError, KeyError, TypeError):
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, dict) else []


COMPLETERS = {"RUN[:SEED]": runs, "STUDY": studies}
"""By what stands for the argument in the help."""
