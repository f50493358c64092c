"""Options that say how to decode, for every command that writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.app import GREATEST_SEED, OutputError

if TYPE_CHECKING:
    from models.decoding import Decoding

Policy = Annotated[str, typer.Option(help="Unmasking policy (`denoscope policies` lists them).")]
Seed = Annotated[int, typer.Option(min=0, max=GREATEST_SEED, help="Reproduces the run.")]
Steps = Annotated[int | None, typer.Option(help="At most so many network calls; default: one token a call, or as the policy decides.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="An option of the policy, or block_length, temperature, top_p, guidance, stop_entropy, stop_stable; repeat it.",
    ),
]


def decoding_of(policy: str, settings: list[str] | None, *, steps: int | None, seed: int) -> Decoding:
    """Returns the decoding that a command line asks for.

    Raises:
        OutputError: On a setting that is not NAME=VALUE with a number.
        PolicyError: On an unknown policy or setting, or an impossible value.
    """
    from models.decoding import decoding_with

    found: dict[str, int | float] = {}
    for text in settings or ():
        name, equals, value = text.partition("=")
        if name in found:
            raise OutputError(f"--set gives {name!r} twice; give it once")
        try:
            found[name] = int(value) if value.lstrip("+-").isdigit() else float(value)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise OutputError(f"--set got {text!r}; it must be NAME=VALUE with a number, such as --set temperature=0.8")
    return decoding_with(policy, found, steps=steps, seed=seed)
