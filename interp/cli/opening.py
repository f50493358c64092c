"""Commands about models of any origin: which can be opened, whether one is what it should be, and what reading it will take."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from interp.cli.app import FAILURE, OutputError, app, out, print_json, print_wide, progress_bars

if TYPE_CHECKING:
    from models.architectures.base import Architecture
    from models.checks import Check
    from models.cost import Cost
    from models.hookpoints import HookPoint

EXAMPLE = """# How to open a model that denoscope does not know. Give this file wherever a model is asked for.
model = "owner/name"              # a hub id, or a folder
revision = "main"                 # a commit is the only one that stays
dtype = "bfloat16"
device = "auto"                   # or cpu, cuda, cuda:1, mps
trust_remote_code = false         # true runs the code that lies beside the weights: read it first

[facts]                           # what it is; alone, they correct those of a known family
objective = "masked"              # or causal
attention = "full"                # causal, full, or block-causal with block_size
logit_shift = 0                   # 1 where position i scores token i+1
mask_token_id = 126336            # of a masked model

[layout]                          # only for a network of no known architecture (`denoscope models`)
opened_by = "AutoModelForCausalLM"
readout = ["model.norm", "lm_head"]

[layout.sites]                    # TransformerLens's names: path of a module, and which end
hook_embed = "model.embed_tokens:output"
hook_resid_pre = "model.layers.{layer}:input"
hook_attn_out = "model.layers.{layer}.self_attn:output"
hook_mlp_out = "model.layers.{layer}.mlp:output"
hook_resid_post = "model.layers.{layer}:output"
"""
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def models(
    check: Annotated[str | None, typer.Option(help="Prove this model: bundled, a folder, a hub id, or the TOML file of one.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Let code beside the weights run.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    family: Annotated[str | None, typer.Option(help="The family it is of, where its configuration does not tell.")] = None,
    dtype: Annotated[Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="Of the weights.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, or auto to spread it; default: the TOML file's, or cpu.")] = None,
    example: Annotated[bool, typer.Option("--example", help="Print a TOML file that describes a model of no known family.")] = False,
    as_json: Json = False,
) -> None:
    """List the bundled models and the supported families, or prove that one model is what its facts say, hook by hook.

    Example: `denoscope models --check Dream-org/Dream-v0-Base-7B --dtype bfloat16 --device cuda`
    """
    if example:
        typer.echo(EXAMPLE, nl=False)
        return
    settings = {"trust_remote_code": trust_remote_code or None, "revision": revision, "family": family, "dtype": dtype}
    if check is None:
        given = [f"--{name.replace('_', '-')}" for name, value in {**settings, "device": device}.items() if value is not None]
        if given:
            raise OutputError(f"{', '.join(given)} without --check; say which model to check")
        _list(as_json)
        return
    checks = _checked(check, device, {name: value for name, value in settings.items() if value is not None})
    if as_json:
        print_json([asdict(one) for one in checks])
    else:
        _print_checks(checks)
    if not all(one.passed for one in checks):
        raise typer.Exit(FAILURE)


def _list(as_json: bool) -> None:
    from models.families import FAMILIES
    from models.load import bundled_names, model_folder, read_facts

    bundled = {name: asdict(read_facts(model_folder(name))) for name in bundled_names()}
    families: dict[str, dict[str, Any]] = {
        name: {
            **asdict(family.behaviour),
            "runs_as": family.network,
            "hub": list(family.hub),
            "about": family.about,
            "source": family.source,
        }
        for name, family in FAMILIES.items()
    }
    if as_json:
        print_json({"bundled": bundled, "families": families})
        return
    table = Table("bundled model", "objective", "attention", "logit shift", "mask token", "task")
    for name, facts in bundled.items():
        table.add_row(name, *(str(facts[key]) for key in ("objective", "attention", "logit_shift", "mask_token_id", "task")))
    print_wide(table)
    table = Table("family", "objective", "attention", "logit shift", "runs as", "such as")
    for name, one in families.items():
        blocks = f" of {one['block_size']}" if one["block_size"] else ""
        such = (one["hub"] or ["-"])[0]
        table.add_row(name, one["objective"], one["attention"] + blocks, str(one["logit_shift"]), one["runs_as"], such)
    print_wide(table)


def _checked(name: str, device: str | None, settings: dict[str, Any]) -> list[Check]:
    """Returns the checks of a model; one that cannot be opened raises what says why."""
    from models.conformance import conformance
    from models.load import unproved

    model = unproved(name, device, **settings)
    with progress_bars() as tell:
        done: list[Check] = []

        def count(check: Check) -> None:
            done.append(check)
            tell("checks", len(done), len(done))

        return conformance(model, count)


def _print_checks(checks: list[Check]) -> None:
    """Prints a table, the edits of one backend that passed as one line."""
    table = Table("check", "", "measured", "rule, or remedy")
    edits: dict[str, list[float]] = {}
    for one in checks:
        backend, _, rest = one.name.partition(": editing ")
        if rest and one.passed:
            edits.setdefault(backend, []).append(one.value)
            continue
        verdict = "[green]passed[/]" if one.passed else "[bold red]failed[/]"
        table.add_row(one.name, verdict, f"{one.value:.3g}", one.rule if one.passed else f"{one.rule}; {one.remedy}")
    for backend, moved in edits.items():
        name = f"{backend}: editing {len(moved)} hook points matters"
        table.add_row(name, "[green]passed[/]", f"{min(moved):.3g}", "the least that the logits moved by")
    print_wide(table)
    failed = sum(not one.passed for one in checks)
    out.print(f"{len(checks)} checks, {failed} failed" if failed else f"{len(checks)} checks, all passed")


def _points(architecture: Architecture, n_layers: int, names: list[str]) -> list[HookPoint]:
    """Returns hook points by name: a component alone is that of every layer, ``all`` is every one."""
    known = architecture.points(n_layers)
    found: list[HookPoint] = []
    for name in names:
        chosen = [point for point in known if name in ("all", str(point), point.component)]
        if not chosen:
            layers = f"blocks.0 to blocks.{n_layers - 1}"
            raise OutputError(f"unknown hook point {name!r}; choose from all, {', '.join(architecture.sites)}, in {layers}")
        found += chosen
    return list(dict.fromkeys(found))


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="A bundled name, a folder, a hub id, or the TOML file of a model.")],
    hooks: Annotated[list[str] | None, typer.Option(help="What to read, as in `harvest`; repeat for more.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Sequences.")] = 1000,
    length: Annotated[int, typer.Option(min=1, help="Positions of a sequence.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Passes over each: steps of a run, or canvases of a harvest.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Sequences a pass.")] = 8,
    dtype: Annotated[str, typer.Option(help="Of the weights: float32, bfloat16, float16, int8 or nf4.")] = "bfloat16",
    kind: Annotated[str, typer.Option(help="harvest, or denoise.")] = "harvest",
    as_json: Json = False,
) -> None:
    """Say what reading a model will take, before anything of it is loaded: parameters, memory, disk, and hours by type of GPU.

    Example: `denoscope plan Dream-org/Dream-v0-Base-7B --hooks hook_resid_post --n 10000 --length 512 --steps 4`
    """
    from models.cost import plan_cost
    from models.opening import card_of, configuration_of

    architecture, config = configuration_of(card_of(model))
    points = _points(architecture, int(config.num_hidden_layers), hooks or ["hook_resid_post"])
    network = architecture.network()
    cost = plan_cost(config, dtype=dtype, hook_points=points, n=n, length=length, kind=kind, steps=steps, batch=batch, network=network)
    if as_json:
        print_json({"model": model, "hook_points": len(points), **asdict(cost)})
        return
    _print_cost(cost, len(points), dtype)


def _print_cost(cost: Cost, n_points: int, dtype: str) -> None:
    from models.cost import UTILISATION

    active = f", {cost.active / 1e9:.2f} billion of them active" if cost.active < cost.parameters else ""
    out.print(f"{cost.parameters:,} parameters{active}")
    out.print("weights: " + ", ".join(f"{bytes_ / 1e9:.1f} GB in {name}" for name, bytes_ in cost.weights.items()))
    out.print(f"peak memory of a pass in {dtype}: {cost.memory.peak / 1e9:.1f} GB, {cost.memory.weights / 1e9:.1f} of them weights")
    out.print(f"on disk: {cost.disk / 1e9:.1f} GB for {n_points} hook points; arithmetic: {cost.flops:.2e} operations")
    table = Table("GPU", "fits", "largest batch", f"hours at {UTILISATION:.0%} of its peak")
    for gpu in cost.gpus:
        table.add_row(gpu.gpu, "yes" if gpu.fits else "no", str(gpu.most_batch), f"{gpu.hours:.2g}")
    print_wide(table)
    for other in cost.instead:
        out.print(f"what would fit: {other.dtype} on one {other.gpu}, {other.batch} sequences a pass")
