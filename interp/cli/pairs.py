"""The command that lists published pairs, and writes the whole road of one of them as commands to copy."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from interp.cli.app import OutputError, app, out, print_json, print_wide

if TYPE_CHECKING:
    from models.cost import Cost
    from models.pairs import Member, Pair

TEXTS, LENGTH, RATES, BATCH, SITES = 1000, 256, 5, 8, 8
"""What costs are counted for: so many texts of one window each, at so many mask rates, so many sequences a pass, so many sites kept."""
LATENTS = 8
"""Times the width of the residual stream, of SAEs to train."""
ROAD = "road.sh"
PUBLIC_SAE = '''\
"""The public SAE of the causal model, on both: the share of variance that it leaves unexplained, where the masked tokens are."""

from pathlib import Path

from interp.concepts.labelled import labelled_corpus
from interp.harvest import harvest
from interp.transfer import same_views
from models.hookpoints import HookPoint
from models.load import load
from probes.saes.moves import MOVES, Moving
from probes.saes.public import load_public_sae
from probes.saes.quality import evaluate_sae

RELEASE, SAE, POINT = "{release}", "{sae_id}", HookPoint.parse("{point}")

causal, diffusion = load("ar.toml"), load("diffusion.toml")
sae = load_public_sae(RELEASE, SAE, d_model=causal.d_model)
texts, _ = labelled_corpus(Path("labels.jsonl"), causal.task)
on_causal, on_diffusion = (harvest(model, texts, [POINT]) for model in (causal, diffusion))
seen, pairs = same_views(on_causal, diffusion, [POINT], seed=0)
found = {{"causal model": (sae, on_causal)}}
for way, carry in MOVES.items():
    found[f"diffusion model, {{way}}"] = (carry(sae, Moving(seen.activations[POINT], pairs[POINT])), on_diffusion)
for name, (one, read) in found.items():
    fvu = evaluate_sae(one, read.activations[POINT], read.sites.group).fvu
    print(f"{{name}}: {{fvu.value:.3f}} [{{fvu.low:.3f}}, {{fvu.high:.3f}}]")
'''


def _card(member: Member, dtype: str) -> str:
    """Returns the TOML file of a model."""
    pin = f'revision = "{member.revision}"' if member.revision else '# revision = "..."  # not pinned: choose a commit of its page'
    return f'model = "{member.hub}"\n{pin}\nfamily = "{member.family}"\ndtype = "{dtype}"\ndevice = "auto"\n'


def _points(pair: Pair) -> list[str]:
    """Returns the hook points that are read: after a quarter, a half and three quarters of the blocks."""
    return [f"blocks.{pair.causal.layers * quarter // 4}.hook_resid_post" for quarter in (1, 2, 3)]


def _costs(pair: Pair) -> dict[str, Cost]:
    """Returns what a harvest of each model takes, from its sizes alone."""
    from models.architectures import ARCHITECTURES
    from models.cost import plan_cost
    from models.hookpoints import HookPoint

    found, points = {}, [HookPoint.parse(name) for name in _points(pair)]
    for which, member, passes in (("ar", pair.causal, 1), ("diffusion", pair.diffusion, RATES)):
        network = ARCHITECTURES[member.known.network].network()
        assert network.config_class is not None
        config = network.config_class(**member.config)
        counts = {"n": TEXTS, "length": LENGTH, "steps": passes, "batch": BATCH}
        found[which] = plan_cost(config, dtype=pair.dtype, hook_points=points, network=network, **counts)  # type: ignore[arg-type]
    return found


def _told(which: str, cost: Cost) -> str:
    """Returns what a harvest takes, on one line."""
    first = next((gpu for gpu in cost.gpus if gpu.fits), cost.gpus[-1])
    return (
        f"{which}: {cost.parameters / 1e9:.2f} billion parameters; a harvest of {TEXTS:,} texts of {LENGTH} tokens holds "
        f"{cost.memory.peak / 1e9:.1f} GB and takes {60 * first.hours:.1f} min on one {first.gpu}"
    )


def _settings(pair: Pair) -> dict[str, str]:
    """Returns by name the files that the commands read."""
    points, shared = _points(pair), "model: ar.toml\ncorpus: {labels: labels.jsonl}\n"
    files = {
        "ar.toml": _card(pair.causal, pair.dtype),
        "diffusion.toml": _card(pair.diffusion, pair.dtype),
        "probes.yaml": f"{shared}points: [{', '.join(points)}]\nreaders: [logistic]\nsites_per_canvas: {SITES}\nseeds: [0]\n",
        "saes.yaml": f"{shared}points: [{points[1]}]\narchitecture: topk\nd_sae: {LATENTS * pair.causal.d_model}\nk: 50\n"
        "activations: 2000000\nheld_out: 0.3\nseeds: [0]\n",
    }
    return files | ({"public_sae.py": PUBLIC_SAE.format(**asdict(pair.sae))} if pair.sae else {})


def _commands(pair: Pair) -> str:
    """Returns the road, in the order in which it is walked."""
    points = _points(pair)
    hooks = " ".join(f"--hooks {point}" for point in points)
    plan = f"{hooks} --n {TEXTS} --length {LENGTH} --batch {BATCH} --dtype {pair.dtype}"
    read = " ".join(f"--points {point}" for point in points)
    public = "python public_sae.py  # the public SAE on both models\n" if pair.sae else ""
    return f"""\
# Prove both models, and say what reading them takes.
denoscope models --check ar.toml
denoscope models --check diffusion.toml
denoscope plan ar.toml {plan}
denoscope plan diffusion.toml {plan} --steps {RATES}

# Activations of the diffusion model at masked tokens, to keep.
denoscope harvest diffusion.toml --labels labels.jsonl {read} --sites-per-canvas {SITES} --dtype float16 --out harvest

# Probes of the causal model, moved to the diffusion model.
denoscope probe train probes.yaml --dry-run
denoscope probe train probes.yaml --out probes
denoscope probe transfer probes --to diffusion.toml
denoscope probe report probes

# SAEs of the causal model, moved to the diffusion model.
{public}denoscope sae train saes.yaml --out saes
denoscope sae transfer saes --to diffusion.toml
denoscope sae report saes

# The diffusion model writing, step by step.
denoscope trace diffusion.toml --prompt "Once upon a time[MASK:32]" --top-k 5 --out trace.zarr
denoscope view trace.zarr --tokenizer diffusion.toml --out trace.html
"""


def _facts(pair: Pair, costs: dict[str, Cost]) -> str:
    """Returns what has to be known, as comments."""
    known = pair.diffusion.known
    first, second = (f"i+{shift}" if shift else "i" for shift in pair.logit_shifts)
    kept = TEXTS * RATES * SITES * len(_points(pair)) * pair.diffusion.d_model * 2
    blocks = f" of {known.behaviour.block_size}" if known.behaviour.block_size else ""
    lines = [
        f"{pair.name}: {pair.causal.hub} and {pair.diffusion.hub}",
        f"tokenizer: {pair.tokenizer}; mask token {pair.mask_token}; basis: {'the causal' if pair.grown else 'not the causal'} model's",
        f"position i scores token {first} in the first, {second} in the second, whose attention is {known.behaviour.attention}{blocks}",
        *(_told(which, cost) for which, cost in costs.items()),
        f"what is kept of the second on disk: {kept / 1e9:.2f} GB",
        f"public SAE: {f'{pair.sae.release}, {pair.sae.sae_id}' if pair.sae else 'none that is known here'}",
        *(f"mind: {one}" for one in (pair.traps, pair.causal.known.about, known.about) if one),
        f"source: {pair.source}",
        'labels.jsonl is yours, 20 texts at least (hundreds for SAEs), one a line: {"text": "...", "calm": true}; every other column is a',
        'concept, and spans [{"start": 4, "end": 7, "label": "animal"}] label tokens',
    ]
    return "".join(f"# {line}\n" for line in lines)


def road(pair: Pair) -> dict[str, str]:
    """Returns the files of a pair's road by name: how to open both models, what to train on them, and the commands."""
    head = f'#!/usr/bin/env bash\nset -euo pipefail\ncd "$(dirname "$0")"\n{_facts(pair, _costs(pair))}\n'
    return {**_settings(pair), ROAD: head + _commands(pair)}


def _pasted(pair: Pair) -> str:
    """Returns the road as one text to paste into a shell."""
    files = "".join(f"cat > {name} <<'END'\n{text}END\n\n" for name, text in _settings(pair).items())
    return f"{_facts(pair, _costs(pair))}\n{files}{_commands(pair)}"


@app.command()
def pairs(
    name: Annotated[str | None, typer.Argument(help="A pair; without, all are listed.")] = None,
    target: Annotated[Path | None, typer.Option("--out", help="Write the pair's files here, road.sh among them, instead.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List published causal models and the diffusion models grown from them; of one pair, print the whole road as shell commands.

    Example: `denoscope pairs sdar-1.7b --out runs/sdar`
    """
    from models.pairs import PAIRS, pair_of

    if name is None:
        if target is not None:
            raise OutputError(f"--out is for the files of one pair; name it, of {', '.join(PAIRS)}")
        _list(PAIRS, as_json)
        return
    pair = pair_of(name)
    if target is not None:
        _write(pair, target)
    elif as_json:
        print_json({**_entry(pair), "cost": {which: asdict(cost) for which, cost in _costs(pair).items()}, "files": road(pair)})
    else:
        typer.echo(_pasted(pair), nl=False)


def _entry(pair: Pair) -> dict[str, Any]:
    """Returns a pair as JSON."""
    return {**asdict(pair), "logit_shifts": list(pair.logit_shifts)}


def _list(listed: dict[str, Pair], as_json: bool) -> None:
    if as_json:
        print_json({name: _entry(pair) for name, pair in listed.items()})
        return
    table = Table("pair", "causal", "diffusion", "logit shifts", "mask", "tokenizer", "public SAE", box=None)
    for name, pair in listed.items():
        shifts = ", ".join(map(str, pair.logit_shifts))
        sae = pair.sae.release if pair.sae else "-"
        tokenizer = pair.tokenizer.replace("same plus a ", "+ ")
        table.add_row(name, pair.causal.hub, pair.diffusion.hub, shifts, str(pair.mask_token), tokenizer, sae)
    print_wide(table)


def _write(pair: Pair, target: Path) -> None:
    """Writes the files of a pair's road; raises OutputError where any of them is there already."""
    files = road(pair)
    there = [name for name in files if (target / name).exists()]
    if there:
        raise OutputError(f"{target / there[0]} exists; choose another --out")
    target.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (target / name).write_text(text, encoding="utf-8")
    out.print(f"{target}: {', '.join(files)}; put labels.jsonl there too, then: bash {target / ROAD}", markup=False)
