"""`fork`: a new run that begins where another one was."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from cli.launch import check_spec, start, watch_run
from cli.plan import SetOption, plan_for
from cli.printing import out, out_json, say
from cli.references import CheckpointArgument, JsonOption, find_checkpoint

if TYPE_CHECKING:
    from trainer_daemon.contract.scaling import ModelShape
    from trainer_daemon.contract.spec import RunSpec
    from trainer_daemon.engine.checkpoint.store import CheckpointInfo


def fork(
    checkpoint: CheckpointArgument,
    set_: SetOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The new run's name; else the old one's, numbered."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and return.")] = False,
    json: JsonOption = False,
) -> None:
    """Start a new run that begins with a checkpoint's weights, optimizer and data position.

    --set changes the spec on top of what the other run had. What decides the shape of the model or the meaning of its
    tokens cannot change.
    """
    from pathlib import Path

    from trainer_daemon.contract.errors import RefusedError
    from trainer_daemon.contract.rundir import Origin, RunDir
    from trainer_daemon.contract.settings import present_spec
    from trainer_daemon.contract.spec import build_spec
    from trainer_daemon.engine.checkpoint.store import verify_checkpoint

    run, info = find_checkpoint(checkpoint)
    run = run or RunDir(info.path.absolute().parent.parent)
    before = present_spec(run)
    spec = check_spec(build_spec(before.model_dump(mode="json"), set_ or []))
    check_fork(before, spec, info)
    if bad := [check.path for check in verify_checkpoint(info.path) if not check.ok]:
        raise RefusedError(
            f"{info.path.name} of {run.name} is damaged ({', '.join(bad)}); fork an earlier one"
        )
    started = start(
        spec,
        name,
        default_name=run.name,
        origin=asdict(Origin(run=run.name, step=info.step, checkpoint=str(info.path.absolute()))),
    )
    say(f"{started.name} goes on from step {info.step} of {run.name}")
    if not detach:
        watch_run(RunDir(Path(started.path)), json=json)
    elif json:
        out_json({"name": started.name, "path": started.path, "pid": started.pid})
    else:
        out(started.name)


def check_fork(before: "RunSpec", after: "RunSpec", info: "CheckpointInfo") -> None:
    """Raises SpecError when a run with the spec `after` cannot begin with a checkpoint of one with the spec `before`."""
    from trainer_daemon.contract.errors import SpecError

    plan_before, plan, precision = plan_for(before)[0], *plan_for(after)[::2]
    if _tensor_shapes(plan_before.shape) != _tensor_shapes(plan.shape):
        positions = plan_before.shape.learned_positions
        learned = f"{positions} positions, " if positions else ""
        m = plan_before.shape.mixture
        experts = f"{m.n_experts} experts of {m.expert_width}, latents of {m.latent_width}, " if m else ""
        raise SpecError(
            f"a fork keeps the shapes of its checkpoint: model.family {before.model.family}, depth {before.model.depth}, width {plan_before.shape.n_embd}, "
            f"head_dim {before.model.head_dim}, {plan_before.shape.n_kv_head} key/value heads, {learned}{experts}a vocabulary of "
            f"{before.tokenizer.vocab_size}; leave these as they are"
        )
    if before.tokenizer != after.tokenizer:
        raise SpecError("a fork keeps its tokenizer: with another one every token id means other text")
    if (old := plan_for(before)[2]) != precision:
        raise SpecError(
            f"the checkpoint's tables and their optimizer state are {old}; leave runtime.precision as it is"
        )
    if plan.total_steps <= info.step:
        raise SpecError(
            f"the checkpoint is of step {info.step} and the new run would end at step {plan.total_steps}; "
            f"give it more: --set train.num_iterations={2 * info.step}"
        )


def _tensor_shapes(shape: "ModelShape") -> "ModelShape":
    """What of a shape the saved tensors depend on."""
    mixture = shape.mixture and replace(shape.mixture, experts_per_token=1, balance_weight=0.0)
    return replace(shape, sequence_len=shape.learned_positions, windows=(), mixture=mixture)
