"""`plan` and `presets`: what a spec implies, said before anything starts."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.printing import count, duration, number, out, out_json, pairs, percent, say, size, table
from cli.references import JsonOption

if TYPE_CHECKING:
    from trainer_daemon.contract.estimate import Hardware, Precision, RankMemory
    from trainer_daemon.contract.scaling import TrainingPlan
    from trainer_daemon.contract.spec import RunSpec

MANY_EPOCHS = 4.0
"""As the run itself warns."""

PresetOption = Annotated[
    str | None, typer.Option("--preset", metavar="NAME", help="A named run; see: llmctl presets.")
]
SpecOption = Annotated[Path | None, typer.Option("--spec", metavar="FILE.toml", help="A spec of your own.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one value, e.g. train.num_iterations=20; repeatable."
    ),
]
NprocOption = Annotated[str | None, typer.Option("--nproc", metavar="N|auto", help="Ranks; auto: one a GPU.")]


def read_spec(
    preset: str | None, file: Path | None, overrides: list[str] | None, nproc: str | None
) -> "RunSpec":
    """The spec that the options name. Raises SpecError."""
    from presets.loader import DEFAULT, preset_tables
    from trainer_daemon.contract.errors import SpecError
    from trainer_daemon.contract.spec import build_spec, load_toml

    if preset and file:
        raise SpecError(
            "--preset and --spec are two ways to say the same; give one, and change it with --set"
        )
    tables = load_toml(file) if file else preset_tables(preset or DEFAULT)
    return build_spec(tables, [*(overrides or []), *([f"runtime.nproc={nproc}"] if nproc else [])])


def plan(
    preset: PresetOption = None,
    spec: SpecOption = None,
    set_: SetOption = None,
    nproc: NprocOption = None,
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="8xH100", help="Hardware to plan for; else what is found here."),
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", metavar="P", min=0, help="Price of one device for an hour.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what a run takes, before anything starts."""
    show_plan(read_spec(preset, spec, set_, nproc), on=on, price=price, json=json)


def show_plan(spec: "RunSpec", *, on: str | None = None, price: float | None = None, json: bool) -> None:
    """Print the plan. Raises SpecError when the spec cannot be run as it is."""
    description = describe_plan(spec, on=on, price=price)
    if json:
        out_json(description)
    else:
        out(plan_table(description))
        for note in description["notes"]:
            say(f"note: {note}")


def plan_for(spec: "RunSpec", on: str | None = None) -> "tuple[TrainingPlan, Hardware, Precision]":
    """The plan on the hardware named or found. Raises SpecError when the batch cannot be split over its ranks."""
    from cli.machine import hardware_here, precision_on, world_size
    from trainer_daemon.contract.estimate import parse_hardware
    from trainer_daemon.contract.scaling import training_plan

    hardware = parse_hardware(on) if on else hardware_here(spec.runtime)
    ranks = world_size(spec.runtime, hardware)
    plan = training_plan(spec, planned_vocab_size(spec), ranks)
    return plan, hardware, precision_on(hardware, spec.runtime)


def prepared_meta(spec: "RunSpec") -> dict[str, Any] | None:
    """What is known of the token shards that the run would read; None where they are yet to be made."""
    from trainer_daemon.contract.rundir import home

    if not _may_be_prepared(spec):
        return None  # and numpy stays unloaded
    from trainer_daemon.engine.data.prepare import find_meta

    return find_meta(spec.data, spec.tokenizer, home())


def _may_be_prepared(spec: "RunSpec") -> bool:
    """Whether there is anything to look into: stories that some run prepared, or a source that is there."""
    from trainer_daemon.contract.errors import SpecError
    from trainer_daemon.contract.places import resolve_path
    from trainer_daemon.contract.rundir import home

    source = spec.data.source
    if not isinstance(source, str):
        return True
    if source == "stories" or source.startswith("hf://"):
        return any((home() / "shards").glob("*/meta.json"))
    try:
        return bool(resolve_path(source, home()))
    except SpecError:
        return False


def describe_data(spec: "RunSpec", plan: "TrainingPlan") -> dict[str, Any]:
    """Tokens to train on and how often the run goes over them, where shards or files of ids can be counted."""
    from trainer_daemon.contract.rundir import home

    meta = prepared_meta(spec)
    tokens = meta["splits"]["train"]["tokens"] if meta else None
    if tokens is None and spec.data.source != "stories" and _may_be_prepared(spec):
        from trainer_daemon.engine.data.prepare import count_ids

        tokens = count_ids(spec.data, spec.tokenizer, home())
    epochs = plan.total_tokens / tokens if tokens else None
    return {
        "source": spec.data.source,
        "tokens_available": tokens,
        "epochs": epochs,
        "prepared": meta is not None,
    }


def planned_vocab_size(spec: "RunSpec") -> int:
    """Ids of the tokenizer that the spec names, or that it asks to be trained. Raises SpecError when there is none such."""
    from trainer_daemon.contract.rundir import home
    from trainer_daemon.contract.vocabulary import named_vocabulary

    if meta := prepared_meta(spec):
        return int(meta["vocab_size"])
    named = named_vocabulary(spec.tokenizer, home())
    return named.size if named else spec.tokenizer.vocab_size


def describe_plan(spec: "RunSpec", *, on: str | None = None, price: float | None = None) -> dict[str, Any]:
    """The fields of `llmctl plan --json`; what cannot be known is None, with the reason under `notes`."""
    from trainer_daemon.contract import estimate
    from trainer_daemon.contract.hardware import find_peak

    plan, hardware, precision = plan_for(spec, on)
    shape, parameters = plan.shape, plan.parameters
    kinds = {kind: number for kind, number in asdict(parameters).items() if kind != "inactive"}
    data = describe_data(spec, plan)
    checkpointing = spec.runtime.activation_checkpointing
    portions: TrainingPlan | None = plan
    if spec.train.micro_batch_size == "auto":
        portions = estimate.expected_portions(plan, precision, hardware, checkpointing)
    memory = None
    if portions:
        on_cpu = hardware.is_cpu
        memory = estimate.rank_memory(portions, precision, on_cpu=on_cpu, checkpointing=checkpointing)
    speed = estimate.estimate_speed(plan, hardware, price, checkpointing)
    return {
        "preset": spec.preset,
        "spec_hash": spec.content_hash(),
        "parameters": {"total": parameters.total, **kinds},
        "active_parameters": parameters.active,
        "scaling_parameters": parameters.scaling,
        "model": asdict(shape),
        "precision": precision,
        "global_batch_tokens": plan.global_batch_tokens,
        "micro_batch_size": portions and portions.micro_batch_size,
        "grad_accum_steps": portions and portions.grad_accum_steps,
        "activation_checkpointing": checkpointing,
        "world_size": plan.world_size,
        "horizon": plan.horizon,
        "total_steps": plan.total_steps,
        "total_tokens": plan.total_tokens,
        "flops_per_token": plan.flops_per_token,
        "total_flops": plan.total_flops,
        "weight_decay_scaled": plan.weight_decay,
        "learning_rates": asdict(plan.learning_rates),
        "memory_per_rank_bytes": memory and memory.total,
        "memory_per_rank": memory and asdict(memory),
        "checkpoint_bytes": estimate.checkpoint_bytes(shape, precision),
        "checkpoints_at_once": estimate.checkpoints_at_once(spec, plan.total_steps),
        "disk_needed_bytes": estimate.disk_needed_bytes(spec, plan, precision),
        "data": data,
        "hardware": {
            "name": hardware.name,
            "count": hardware.count,
            "peak_flops": hardware.peak_flops,
            "memory_bytes": hardware.memory_bytes,
            "peak_flops_fp8": listed.fp8 if (listed := find_peak(hardware.name)) else None,
        },
        "estimated": {
            "tokens_per_second": speed.tokens_per_second,
            "mfu": speed.mfu,
            "seconds": speed.seconds,
            "cost": speed.cost,
        },
        "notes": [
            *_memory_notes(spec, hardware, memory),
            *_notes(spec, plan, hardware, speed, price, data),
        ],
    }


def _memory_notes(spec: "RunSpec", hardware: "Hardware", memory: "RankMemory | None") -> list[str]:
    """What the figures of the batch and the memory rest on, and whether they fit."""
    is_auto = spec.train.micro_batch_size == "auto"
    if memory is None:
        unknown = f'micro_batch_size: how much memory "{hardware.name}" has is not known, nor then what auto will choose'
        return [f"{unknown}; name the size, as in 8xA100 80GB, or give a number of rows"]
    notes = [
        "memory: exact but for activations, which are what the eager model keeps; torch's own reserve comes on top"
    ]
    if is_auto:
        how = (
            "estimated, as here"
            if hardware.is_cpu
            else "tried out at the start; compiled models keep less than estimated here"
        )
        notes.append(f"micro_batch_size: auto, the most rows that fit, is {how}")
    if hardware.memory_bytes and memory.total > hardware.memory_bytes:
        notes.append(
            f"memory: {size(memory.total)} a rank is more than the {size(hardware.memory_bytes)} of one {hardware.name}; "
            f"try --set runtime.activation_checkpointing=block"
            + ("" if is_auto else " or train.micro_batch_size=auto")
        )
    return notes


def _notes(
    spec: "RunSpec",
    plan: "TrainingPlan",
    hardware: "Hardware",
    speed: Any,
    price: float | None,
    data: dict[str, Any],
) -> list[str]:
    from trainer_daemon.contract import estimate
    from trainer_daemon.contract.errors import did_you_mean
    from trainer_daemon.contract.hardware import DEVICE_PEAKS, find_peak

    listed = find_peak(hardware.name)
    notes = [
        f"parameters: for a vocabulary of {plan.shape.vocab_size}"
        + ("; a small text may give fewer ids" if spec.tokenizer.name == "trained" else ""),
    ]
    if data["tokens_available"] is None:
        notes.append(
            "data: tokens and epochs are known once the text is tokenized (llmctl data prepare, or the run itself); until "
            "then they are null"
        )
    elif data["epochs"] > MANY_EPOCHS:
        notes.append(
            f"data: the run goes {data['epochs']:.0f} times over its text; up to about {MANY_EPOCHS:.0f} times repeated text "
            f"is nearly as good as new (arXiv 2305.16264), beyond it is not"
        )
    if speed.seconds is not None:
        share = estimate.evaluation_share(spec, plan)
        notes.append(
            f"estimated: {percent(speed.mfu)} of the peak is an assumption, and the time is that of "
            f"training steps; evaluations add about {percent(share)}, samples and checkpoints come on top"
        )
    elif hardware.is_cpu:
        notes.append("estimated: a CPU's speed is not in any table; the run measures it in its first steps")
    else:
        known = [peak.name for peak in DEVICE_PEAKS]
        notes.append(
            f'estimated: no peak FLOP/s is known for "{hardware.name}"{did_you_mean(hardware.name, known)}; '
            f"known are {', '.join(known)}"
        )
    if speed.seconds is not None and price is None:
        notes.append("estimated.cost: say what one device costs an hour with --price")
    if spec.runtime.precision == "fp8" and (hardware.is_cpu or (listed and not listed.fp8)):
        notes.append(f"precision: {hardware.name} does not multiply in fp8: there the run would be refused")
    if plan.world_size > hardware.count and not hardware.is_cpu:
        notes.append(f"hardware: {plan.world_size} ranks want as many devices, there are {hardware.count}")
    return notes


def source_name(source: str | dict[str, float]) -> str:
    """A source in one line; a mixture with its weights."""
    return (
        source
        if isinstance(source, str)
        else " + ".join(f"{weight:g} {part}" for part, weight in source.items())
    )


def _data_row(data: dict[str, Any]) -> list[tuple[str, str]]:
    if data["tokens_available"] is None:
        return []
    return [("", f"{count(data['tokens_available'])} tokens to train on, {data['epochs']:.2g} epochs")]


def _portions(d: dict[str, Any]) -> str:
    ranks = f"{d['world_size']} rank{'s' if d['world_size'] > 1 else ''}"
    if d["micro_batch_size"] is None:
        return f"{ranks} x as many rows as fit"
    return f"{ranks} x {d['micro_batch_size']} rows x {d['grad_accum_steps']} accumulated"


def _memory_rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    memory, checkpointing = d["memory_per_rank"], d["activation_checkpointing"]
    if memory is None:
        return [("memory", f"unknown, in {d['precision']}; see the notes")]
    again = "" if checkpointing == "off" else f", checkpointing {checkpointing}"
    return [
        ("memory", f"{size(d['memory_per_rank_bytes'])} a rank in {d['precision']}{again}"),
        ("", f"weights {size(memory['weights'])}, gradients {size(memory['gradients'])}"),
        ("", f"optimizer {size(memory['optimizer'])}, activations {size(memory['activations'])}"),
    ]


def _parameter_rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    p, m = d["parameters"], d["model"]["mixture"]
    if m is None:
        in_products = f"of them {count(d['scaling_parameters'])} in matrices and head"
        return [("parameters", f"{count(p['total'])}, {in_products}")]
    met = f"of which a token meets {count(d['active_parameters'])}, {count(d['scaling_parameters'])} in matrices and head"
    return [
        ("parameters", f"{count(p['total'])}, {met}"),
        (
            "",
            f"{m['experts_per_token']} of {m['n_experts']} experts {m['expert_width']} wide, and one for all",
        ),
    ]


def _tables(d: dict[str, Any]) -> str:
    p = d["parameters"]
    if d["model"]["family"] == "classic":
        return f"embedding of tokens and positions {count(p['embedding'])}, biases and norms {count(p['scalars'])}"
    if d["model"]["family"] == "moe":
        return f"embedding {count(p['embedding'])}, norms {count(p['scalars'])}"
    return f"embedding {count(p['embedding'])}, value embedding {count(p['value_embedding'])}"


def _rate_rows(d: dict[str, Any]) -> list[tuple[str, str]]:
    rates, decay = d["learning_rates"], f"weight decay {d['weight_decay_scaled']:.3g}"
    if "muon" in rates:
        return [("rates", f"Muon {rates['muon']:.3g}, {decay}"), ("", f"AdamW {rates['adamw']:.3g}")]
    if "adamw" in rates:
        return [("rate", f"{rates['adamw']:.3g}, {decay}, by AdamW")]
    return [
        ("rates", f"matrix {rates['matrix']:.3g}, embedding {rates['embedding']:.3g}"),
        ("", f"head {rates['unembedding']:.3g}, {decay}"),
    ]


def plan_table(d: dict[str, Any]) -> str:
    """The plan for people."""
    p, m = d["parameters"], d["model"]
    estimated, hardware = d["estimated"], d["hardware"]
    windows = "/".join(str(w) for w in dict.fromkeys(m["windows"]))
    rows = [
        ("model", f"{m['n_layer']} layers x {m['n_embd']} wide, {m['n_head']} heads of {m['head_dim']}"),
        ("", f"context {m['sequence_len']}, windows {windows}, vocabulary {m['vocab_size']}"),
        *_parameter_rows(d),
        ("", f"matrices {count(p['matrices'])}, head {count(p['unembedding'])}"),
        ("", _tables(d)),
        ("horizon", f"{d['total_steps']:,} steps, {count(d['total_tokens'])} tokens (by {d['horizon']})"),
        ("batch", f"{d['global_batch_tokens']:,} tokens"),
        ("", _portions(d)),
        ("computing", f"{d['total_flops']:.3g} FLOPs, {d['flops_per_token']:.3g} a token"),
        *_rate_rows(d),
        *_memory_rows(d),
        ("disk", f"{size(d['disk_needed_bytes'])}"),
        ("", f"up to {d['checkpoints_at_once']} checkpoints of {size(d['checkpoint_bytes'])}"),
        ("data", source_name(d["data"]["source"])),
        *_data_row(d["data"]),
        ("hardware", f"{hardware['count']} x {hardware['name']}"),
    ]
    if hardware["peak_flops"]:
        fp8 = f", {hardware['peak_flops_fp8'] / 1e12:,.0f} in fp8" if hardware["peak_flops_fp8"] else ""
        rows.append(("", f"{hardware['peak_flops'] / 1e12:,.0f} TFLOP/s each in bf16{fp8}"))
    if estimated["seconds"] is None:
        rows.append(("estimated", "unknown; see the notes"))
    else:
        cost = "" if estimated["cost"] is None else f", cost {estimated['cost']:,.2f}"
        rows.append(("estimated", f"{duration(estimated['seconds'])} of training{cost}"))
        rows.append(
            ("", f"{number(estimated['tokens_per_second'], 0)} tok/s, MFU {percent(estimated['mfu'])}")
        )
    return pairs(rows)


def presets(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="The preset to show.")] = None,
    json: JsonOption = False,
) -> None:
    """List the presets, or show one, resolved."""
    from presets.loader import find_preset, list_presets, preset_tables
    from trainer_daemon.contract.spec import build_spec

    if name is None:
        known = list_presets()
        if json:
            out_json([{"name": p.name, "summary": p.summary, "path": str(p.path)} for p in known])
        else:
            out(table(("PRESET", "FOR"), [(p.name, p.summary) for p in known], left=2))
        return
    preset = find_preset(name)
    spec = build_spec(preset_tables(name))
    if json:
        out_json(spec.model_dump(mode="json"))
    else:
        say(preset.opening_comment())
        out(as_toml(spec.model_dump(mode="json")))


def as_toml(tables: dict[str, Any]) -> str:
    """A spec as TOML that `--spec` reads back; keys without a value stay as comments."""
    import json

    def value(v: Any) -> str:
        if isinstance(v, dict):
            return "{ " + ", ".join(f"{json.dumps(k)} = {value(x)}" for k, x in v.items()) + " }"
        return json.dumps(v, ensure_ascii=False)

    def lines(values: dict[str, Any]) -> list[str]:
        # a JSON string, number, boolean or list of them is TOML as it stands
        return [
            f"# {k} is decided by the dial or the machine" if v is None else f"{k} = {value(v)}"
            for k, v in values.items()
        ]

    sections = [f"\n[{name}]\n" + "\n".join(lines(v)) for name, v in tables.items() if isinstance(v, dict)]
    top = {name: v for name, v in tables.items() if not isinstance(v, dict)}
    return "\n".join(lines(top) + sections)
