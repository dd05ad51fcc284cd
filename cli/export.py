"""`export`: a checkpoint as a folder that other tools read."""

from pathlib import Path
from typing import Annotated

import typer

from cli.printing import out, out_json, say, size
from cli.references import CheckpointArgument, JsonOption, find_checkpoint


def export(
    checkpoint: CheckpointArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; a folder that is not there yet.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="hf|safetensors",
            help="hf: a folder that transformers loads. safetensors: weights, config.json and tokenizer.json alone.",
        ),
    ] = "hf",
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="fp32|bf16", help="fp32 keeps the weights as they were trained.")
    ] = "fp32",
    json: JsonOption = False,
) -> None:
    """Hand a checkpoint over: safetensors, config.json and tokenizer in Hugging Face's layout."""
    from trainer_daemon.contract.errors import SpecError

    if to not in ("hf", "safetensors") or dtype not in ("fp32", "bf16"):
        raise SpecError(f"--to is hf or safetensors and --dtype fp32 or bf16; got {to} and {dtype}")
    path = find_checkpoint(checkpoint)[1].path  # a wrong name costs no torch

    import torch

    from trainer_daemon.engine.export import hugging_face
    from trainer_daemon.engine.inference.session import read_model

    model = read_model(path)
    files = hugging_face.export(
        model,
        folder,
        "hf" if to == "hf" else "safetensors",
        torch.float32 if dtype == "fp32" else torch.bfloat16,
    )
    if json:
        out_json(
            {"checkpoint": str(path), "files": [{"path": str(f), "bytes": f.stat().st_size} for f in files]}
        )
        return
    for file in files:
        out(f"{size(file.stat().st_size):>8}  {file}")
    say(f"{hugging_face.ARCHITECTURES[model.shape.family].why}.")
    if to == "hf":
        say(
            "So the folder carries its code, which AutoModelForCausalLM.from_pretrained runs with trust_remote_code=True. The "
            f'tokenizer needs none: AutoTokenizer.from_pretrained("{folder}", trust_remote_code=False)'
        )
