"""Commands that list what there is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from interp.cli.app import app, out, print_json

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def models(as_json: Json = False) -> None:
    """List the bundled models and the supported families with their facts.

    Example: `denoscope models --json`
    """
    from models.families import FAMILIES
    from models.load import bundled_names, model_folder, read_facts

    bundled = {name: asdict(read_facts(model_folder(name))) for name in bundled_names()}
    families = {name: {"attention": list(family.attention_regimes), "source": family.source} for name, family in FAMILIES.items()}
    if as_json:
        print_json({"bundled": bundled, "families": families})
        return
    table = Table("bundled model", "objective", "attention", "logit shift", "mask token", "task")
    for name, facts in bundled.items():
        table.add_row(name, *(str(facts[key]) for key in ("objective", "attention", "logit_shift", "mask_token_id", "task")))
    out.print(table)
    table = Table("family", "attention", "source")
    for name, family in families.items():
        table.add_row(name, ", ".join(family["attention"]), str(family["source"]))
    out.print(table)


@app.command()
def policies(as_json: Json = False) -> None:
    """List the unmasking policies with their options and sources.

    Example: `denoscope policies`
    """
    from models.unmasking import POLICIES, policy_options

    listed: dict[str, dict[str, Any]] = {
        name: {"options": policy_options(name), "about": (policy.__doc__ or "").splitlines()[0]} for name, policy in POLICIES.items()
    }
    if as_json:
        print_json(listed)
        return
    table = Table("policy", "options", "what it writes")
    for name, entry in listed.items():
        options = ", ".join(f"{option}={value}" for option, value in entry["options"].items())
        table.add_row(name, options or "-", str(entry["about"]).removeprefix("Returns "))
    out.print(table)
