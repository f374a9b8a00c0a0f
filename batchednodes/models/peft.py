"""Adapters as files that the library PEFT reads: `adapter_config.json` and `adapter_model.safetensors`.

Layers are named in full, by a regular expression, so that no other one of the base model is meant.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from batchednodes.models import lora

_INSIDE = "base_model.model."
"""Where PEFT holds the base model."""


def save_adapter(module: nn.Module, folder: str | Path, base: str | None = None) -> None:
    """Writes the adapters of a module, and what else was trained, into a new folder, from which PEFT loads them.

    `PeftModel.from_pretrained(plain, folder)` then computes what the module does, where `plain` is the module that
    the adapters were put into, or any other one with layers of these names.

    Example:
        >>> import batchednodes
        >>> from pathlib import Path
        >>> from torch import nn
        >>> from batchednodes.models.peft import save_adapter
        >>> few = {"network.nodes": 3, "task.data": {"kind": "digits"}, "run.until": 1}
        >>> adapter = {"kind": "lora", "targets": ["*"], "rank": 2}
        >>> run = batchednodes.train(few, model=nn.Linear(64, 10), adapter=adapter)
        >>> save_adapter(run.mean_model(), "adapter")
        >>> sorted(path.name for path in Path("adapter").iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']

    Args:
        module: with adapters of kind lora, as `Result.model` and `Result.mean_model` return it.
        folder: a new one.
        base: name or path of the base model, for who loads it without naming one.

    Raises:
        ValueError: the module has no adapters, or PEFT has no place for what else was trained.
        FileExistsError: there is such a folder.
    """
    layers = dict(lora.adapted(module))
    if not layers:
        raise ValueError(f"module must have adapters of kind lora, got {type(module).__name__} with none")
    heads = sorted({_owner(name, layers) for name, _ in lora.others(module)})
    first = next(iter(layers.values()))
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": len(first.lora_A),
        "lora_alpha": first.lora_scale * len(first.lora_A),
        "target_modules": "|".join(map(re.escape, layers)),
        "modules_to_save": heads or None,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    named = {key: t for name, layer in layers.items() for key, t in _adapter(name, layer)}
    named |= {f"{name}.{key}": t for name in heads for key, t in module.get_submodule(name).state_dict().items()}
    place = Path(folder)
    place.mkdir(parents=True)
    (place / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {_INSIDE + name: t.detach().cpu().clone().contiguous() for name, t in named.items()}
    save_file(tensors, place / "adapter_model.safetensors", {"format": "pt"})


def _owner(name: str, layers: dict[str, Any]) -> str:
    """Returns the module that PEFT is to save whole for a parameter that was trained."""
    owner = name.rpartition(".")[0]
    if not owner or owner in layers:
        got = f"got {name!r}, which belongs to {'an adapted layer' if owner else 'the whole module'}"
        raise ValueError(f"what is trained besides adapters must belong to modules of its own, {got}; merge it instead")
    return owner


def _adapter(name: str, layer: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields the matrices of an adapter by the names that PEFT gives them."""
    down, up = layer.lora_A, layer.lora_B
    if isinstance(layer, nn.Embedding):
        yield from ((f"{name}.lora_embedding_A", down), (f"{name}.lora_embedding_B", up))
        return
    yield from ((f"{name}.lora_A.weight", down), (f"{name}.lora_B.weight", up))
    if isinstance(layer, nn.MultiheadAttention):  # PEFT adapts its output, too, by what adds nothing here
        output = f"{name}.base_layer.out_proj.lora"
        yield from ((f"{output}_A.weight", torch.zeros_like(down)), (f"{output}_B.weight", torch.zeros_like(down.T)))
