"""A checkpoint in Hugging Face's layout: safetensors, config.json, tokenizer.json, and the code of the architecture.

No architecture of transformers computes what a model of ours computes, whichever its family, so the folder carries the code
of the family, which transformers runs only for those who say `trust_remote_code=True`. The tokenizer needs no code: it is byte-level BPE with its own split pattern, spelled out as the `tokenizers` library reads it. A model that was
trained on conversations brings its template, so `apply_chat_template` gives the ids that our own `chat` gives.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from trainer_daemon.contract.errors import RefusedError
from trainer_daemon.contract.scaling import SMEAR_GATE_CHANNELS, VALUE_GATE_CHANNELS, ModelShape
from trainer_daemon.contract.spec import Family
from trainer_daemon.contract.vocabulary import ASSISTANT_END
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.inference.conversation import ends_of_answer
from trainer_daemon.engine.inference.session import StoredModel
from trainer_daemon.engine.models import classic, moe
from trainer_daemon.engine.models.gpt import LOGIT_CAP, QK_GAIN, ROTARY_BASE, VALUE_GATE_MAX

Layout = Literal["hf", "safetensors"]
CHAT_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a family is to transformers."""

    model_type: str
    modeling: str
    """The file beside this one that is its code."""
    config_class: str
    model_class: str
    why: str
    """Why it is none of transformers' own."""


ARCHITECTURES: dict[Family, Architecture] = {
    "nanochat": Architecture(
        "llmctl",
        "modeling_llmctl.py",
        "LlmctlConfig",
        "LlmctlForCausalLM",
        "transformers has no architecture that computes this model: its NanoChat lacks value embeddings, the smear, sliding "
        "windows, the gain of queries and keys, residual scalars and backout",
    ),
    "classic": Architecture(
        "llmctl_classic",
        "modeling_llmctl_classic.py",
        "LlmctlClassicConfig",
        "LlmctlClassicForCausalLM",
        "transformers has no architecture that computes this model: its OPT and GPT-2 come closest, and their heads have no "
        "bias",
    ),
    "moe": Architecture(
        "llmctl_moe",
        "modeling_llmctl_moe.py",
        "LlmctlMoEConfig",
        "LlmctlMoEForCausalLM",
        "transformers has no architecture that computes this model: its mixtures with latents turn them before they are "
        "expanded, or other channels than these",
    ),
}


def export(model: StoredModel, folder: Path, layout: Layout, dtype: torch.dtype) -> list[Path]:
    """Write a model to a folder that appears whole or not at all; returns its files.

    `safetensors`: weights, config.json and tokenizer.json alone. Raises RefusedError when there is something already.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RefusedError(f"{folder} is there already and not an empty folder; choose another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        tensors = {name: tensor.to(dtype).contiguous() for name, tensor in model.tensors.items()}
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        _write(draft / "config.json", config(model, dtype, with_code=layout == "hf"))
        _write(draft / "tokenizer.json", fast_tokenizer(model.tokenizer))
        if layout == "hf":
            _write(draft / "tokenizer_config.json", tokenizer_config(model))
            _write(draft / "generation_config.json", generation_config(model))
            modeling = ARCHITECTURES[model.shape.family].modeling
            for name in (modeling, CHAT_TEMPLATE) if model.is_chat else (modeling,):
                content = files("trainer_daemon.engine.export").joinpath(name).read_bytes()
                (draft / name).write_bytes(content)
        draft.chmod(0o777 & ~_umask())
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return sorted(folder.iterdir())


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)  # there is no way to only ask
    os.umask(mask)
    return mask


def config(model: StoredModel, dtype: torch.dtype, *, with_code: bool) -> dict[str, Any]:
    """config.json: the shape and every constant of the function."""
    shape, architecture = model.shape, ARCHITECTURES[model.shape.family]
    module = architecture.modeling.removesuffix(".py")
    code = {
        "AutoConfig": f"{module}.{architecture.config_class}",
        "AutoModelForCausalLM": f"{module}.{architecture.model_class}",
    }
    return {
        "architectures": [architecture.model_class],
        "model_type": architecture.model_type,
        **({"auto_map": code} if with_code else {}),
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": shape.vocab_size,
        "padded_vocab_size": shape.padded_vocab_size,
        "num_hidden_layers": shape.n_layer,
        "hidden_size": shape.n_embd,
        "num_attention_heads": shape.n_head,
        "max_position_embeddings": shape.sequence_len,
        **_constants(shape),
        "bos_token_id": model.tokenizer.bos_id,
        "eos_token_id": ends(model),
        "tie_word_embeddings": False,
        "use_cache": False,
    }


def _constants(shape: ModelShape) -> dict[str, Any]:
    """What the family's own code is told beside the sizes that all have."""
    if shape.family == "classic":
        return {"norm_eps": classic.NORM_EPS}
    if shape.mixture is not None:
        return {
            "num_experts": shape.mixture.n_experts,
            "num_experts_per_tok": shape.mixture.experts_per_token,
            "moe_intermediate_size": shape.mixture.expert_width,
            "latent_size": shape.mixture.latent_width,
            "rope_theta": moe.ROTARY_BASE,
            "norm_eps": moe.NORM_EPS,
        }
    return {
        "num_key_value_heads": shape.n_kv_head,
        "head_dim": shape.head_dim,
        "windows": list(shape.windows),
        "value_embedding_layers": [i for i in range(shape.n_layer) if shape.has_value_embedding(i)],
        "rope_theta": ROTARY_BASE,
        "qk_gain": QK_GAIN,
        "value_gate_max": VALUE_GATE_MAX,
        "value_gate_channels": VALUE_GATE_CHANNELS,
        "smear_gate_channels": SMEAR_GATE_CHANNELS,
        "final_logit_softcapping": LOGIT_CAP,
        "norm_eps": torch.finfo(torch.float32).eps,
    }


def generation_config(model: StoredModel) -> dict[str, Any]:
    """How `generate` begins and ends."""
    return {
        "bos_token_id": model.tokenizer.bos_id,
        "eos_token_id": ends(model),
        "pad_token_id": model.tokenizer.bos_id,
        "use_cache": False,
    }


def ends(model: StoredModel) -> int | list[int]:
    """The ids that end a text: a document's beginning is the end of the one before, and an answer has an end of its own."""
    return sorted(ends_of_answer(model.tokenizer)) if model.is_chat else model.tokenizer.bos_id


def tokenizer_config(model: StoredModel) -> dict[str, Any]:
    """Which class reads tokenizer.json, and which token begins a text."""
    bos = next(
        name for name, token_id in model.tokenizer.special.items() if token_id == model.tokenizer.bos_id
    )
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": ASSISTANT_END if model.is_chat else bos,
        "model_max_length": model.shape.sequence_len,
        "clean_up_tokenization_spaces": False,
    }


def fast_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer.json: the same ids for the same text, the beginning-of-text token before it."""
    spell = byte_alphabet()
    spelled = {i: "".join(spell[b] for b in token) for i, token in enumerate(tokenizer.tokens) if token}
    bos = next(name for name, token_id in tokenizer.special.items() if token_id == tokenizer.bos_id)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {
        "type": "Split",
        "pattern": {"Regex": tokenizer.pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    begin, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token_id, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for name, token_id in sorted(tokenizer.special.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, text],
            "pair": [begin, text, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # as tiktoken: a piece that is a token is that token
            "vocab": {word: i for i, word in spelled.items()},
            "merges": [["".join(spell[b] for b in part) for part in pair] for pair in merges(tokenizer.tokens)],
        },
    }  # fmt: skip


def merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The pair that each token of two or more bytes was merged from, in the order of the merges."""
    ranks = {token: i for i, token in enumerate(tokens) if token}
    found = []
    for token, rank in ranks.items():
        if len(token) < 2:
            continue
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
            best, at = min(pairs)
            if best >= rank:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:  # others are whole pieces, which `ignore_merges` finds
            found.append((parts[0], parts[1]))
    return found


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies, as GPT-2 chose them."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = (b for b in range(256) if b not in printable)
    stands_for = {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}
    return [stands_for[b] for b in range(256)]
