"""Low-rank adapters: beside frozen layers that all nodes share, few parameters are trained, merged and exported."""

import copy
import json
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import batchednodes
from batchednodes import load, plan, train
from batchednodes.config import to_dict
from batchednodes.models import lora
from batchednodes.models.adapters import LoRA
from batchednodes.models.peft import save_adapter
from batchednodes.models.stacked import Stack
from batchednodes.simulation.planning import memory_plan

TOKENS = torch.arange(60).view(12, 5) * 7 % 11
LABELS = torch.arange(12) % 3
TINY = {
    "network": {"nodes": 4, "topology": {"kind": "ring"}},
    "local": {"lr": 0.3, "batch_size": 2, "steps": 2},
    "run": {"until": 3, "mark_every": 3},
    "dtype": "float64",
}


class Texts(nn.Module):
    """A Transformer whose layers are of all kinds that have adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.conv = nn.Embedding(11, 8), nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.encoder(self.table(tokens), src_key_padding_mask=tokens == 0)
        return self.head(x.mean(1)) + self.conv(x.unsqueeze(1)).mean((2, 3))


def texts() -> Any:
    torch.manual_seed(3)
    return Texts()


def filled(module: nn.Module, **settings: Any) -> Any:
    """Returns a copy of a module in float64 with adapters that add something."""
    made = copy.deepcopy(module).double()
    LoRA(**settings).adapt_(made)
    for w in made.parameters():
        if w.requires_grad:
            nn.init.normal_(w, std=0.3)
    return made


WHOLE: dict[str, Any] = {
    "targets": ("table", "conv", "self_attn", "linear*"),
    "rank": 2,
    "alpha": 3.0,
    "trains": ("head",),
}
FLAT = {"kind": "lora", "targets": ["0", "2"], "rank": 2}
RUN: dict[str, Any] = {
    "model": Texts,
    "adapter": {"kind": "lora", **WHOLE},
    "data": (TOKENS, LABELS, TOKENS[:6], LABELS[:6]),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("target", WHOLE["targets"])
def test_a_merged_module_computes_what_the_adapted_one_does(target, training):
    plain = texts().double().train(training)
    made = filled(plain, **WHOLE | {"targets": (target,)})
    merged = lora.merged(made, copy.deepcopy(plain))
    assert [type(part) for part in merged.modules()] == [type(part) for part in plain.modules()]
    with torch.no_grad():  # in evaluation mode encoders have a short cut that calls no layer
        torch.testing.assert_close(made(TOKENS), merged(TOKENS), rtol=1e-12, atol=1e-12)
        assert (made(TOKENS) - plain(TOKENS)).abs().max() > 1e-3


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", [None, torch.ones(5, 5, dtype=torch.bool).triu(1), torch.randn(6, 5, 5).double()])
@pytest.mark.parametrize("alike", [True, False])
def test_attention_computes_with_merged_weights(batch_first, mask, alike):
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=batch_first).double().eval()
    nn.init.normal_(plain.in_proj_bias)
    made = filled(plain, targets=("*",), rank=2)
    merged = lora.merged(made, copy.deepcopy(plain))
    inputs = [torch.randn(3, 5, 8).double() if batch_first else torch.randn(5, 3, 8).double() for _ in range(3)]
    inputs = inputs[:1] * 3 if alike else inputs
    padding = torch.zeros(3, 5).double().masked_fill(torch.arange(5) > 3, float("-inf"))
    padding = padding if mask is None or mask.dtype != torch.bool else padding < 0
    for asked in ({"need_weights": False}, {}, {"average_attn_weights": False}):
        given = {"key_padding_mask": padding, "attn_mask": mask, **asked}
        for mine, theirs in zip(made(*inputs, **given), merged(*inputs, **given), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    alone = [x.reshape(-1, 8)[:5] for x in inputs]
    torch.testing.assert_close(made(*alone), merged(*alone), rtol=1e-12, atol=1e-12)


def test_the_padding_of_a_table_learns_nothing_and_a_rank_may_be_the_smaller_side():
    made = filled(nn.Sequential(nn.Embedding(4, 3, padding_idx=2)), targets=("0",), rank=3)
    made(torch.tensor([[0, 2]])).sum().backward()
    assert made[0].lora_A.grad.any(0).tolist() == [True, False, False, False]


def test_batched_equals_serial_and_only_adapters_and_heads_are_rows():
    run, serial = train(TINY, **RUN), train(TINY, "executor=serial", **RUN)
    torch.testing.assert_close(run.x, serial.x, rtol=1e-11, atol=1e-13)  # products and softmax in another order
    assert {name.split(".")[0] for name in run.stack.shapes} == {"table", "conv", "encoder", "head"}
    assert {name.rpartition(".")[2] for name in run.stack.shapes if "head" not in name} == {"lora_A", "lora_B"}
    adapted, merged, mean = run.model(2).eval(), run.model(2, merged=True).eval(), run.mean_model(merged=True)
    assert type(merged.encoder) is nn.TransformerEncoderLayer
    torch.testing.assert_close(merged(TOKENS), adapted(TOKENS), rtol=1e-12, atol=1e-12)
    assert not torch.equal(mean.get_parameter("conv.weight"), merged.get_parameter("conv.weight"))


def test_nodes_begin_with_the_module_as_it_was_and_adapters_by_their_addresses():
    none = train(TINY, "run.until=0.01", "run.mark_every=0.01", "seed=1", **RUN)
    assert torch.equal(none.x, none.x[:1].expand_as(none.x))
    own = train(TINY, "run.until=0.01", "run.mark_every=0.01", "seed=1", "task.model.init=independent", **RUN)
    assert torch.equal(own.x[0], none.x[0])
    assert not torch.equal(own.x[1], own.x[0])
    adapted, merged = own.model(1), own.model(1, merged=True)
    assert torch.equal(adapted.eval()(TOKENS), merged.eval()(TOKENS))
    row = own.stack.views(own.x[1])
    assert not row["encoder.linear1.lora_B"].any()
    assert 0 < row["encoder.linear1.lora_A"].abs().max() <= 8**-0.5
    assert not row["table.lora_A"].any()


def test_what_all_share_is_planned_once():
    need = plan(TINY, **RUN)
    whole = sum(w.numel() for w in texts().parameters())
    assert need.memory["shared by all models"] == 8 * (whole - 27)  # but the head's
    assert "shared by all models" not in plan(TINY, **RUN | {"model": nn.Linear(5, 3), "adapter": None}).memory
    assert need.parameters == sum(w.numel() for w in filled(texts(), **WHOLE).parameters() if w.requires_grad)


def test_test_sets_are_scored_a_part_after_the_other_where_memory_is_short(monkeypatch):
    whole = train(TINY, **RUN)
    monkeypatch.setattr(memory_plan, "_WORKSPACE", {"cpu": 40_000, "cuda": 40_000})
    need, parts = plan(TINY, **RUN), train(TINY, **RUN)
    assert need.chunks.block is not None
    assert need.chunks.block < 6
    for key in ("loss_mean", "accuracy_mean", "loss_mean_model"):
        assert parts.metrics[key].tolist() == pytest.approx(whole.metrics[key].tolist(), rel=1e-12)


class Centred(Texts):
    """Subtracts the mean of a minibatch."""

    def forward(self, tokens: Tensor) -> Tensor:
        made = super().forward(tokens)
        return made - made.mean(0)


def test_test_examples_that_depend_on_each_other_are_not_scored_apart(monkeypatch):
    monkeypatch.setattr(memory_plan, "_WORKSPACE", {"cpu": 40_000, "cuda": 40_000})
    own: dict[str, Any] = RUN | {"model": Centred}
    with pytest.raises(ValueError, match=r"^task.model must compute each example by itself where memory does not hold"):
        train(TINY, **own)


def test_a_run_goes_on_bit_for_bit(tmp_path):
    flat: dict[str, Any] = RUN | {
        "model": nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(20, 3)),
        "adapter": FLAT,
    }
    train(TINY, **flat, out=tmp_path / "run")
    longer = batchednodes.resume(tmp_path / "run", "run.until=6")
    assert torch.equal(longer.x, train(TINY, "run.until=6", **flat).x)
    assert torch.equal(
        batchednodes.Result.load(tmp_path / "run").model(1).get_parameter("0.weight"), flat["model"][0].weight.double()
    )


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"targets": ["linear3"]}, "targets must be ends of .*, got 'linear3', which none has; did you mean 'linear"),
        ({"targets": ["qkv"]}, "targets must be ends .*got 'qkv', which none has; there are table, conv, encoder"),
        ({"targets": ["norm1"]}, "targets must mean layers of type Linear, .*got 'norm1', which means LayerNorm at "),
        ({"targets": ["out_proj"]}, "targets must mean layers .*attention computes with its weight alone"),
        ({"targets": []}, r"targets must name at least one layer, got \[\]"),
        ({}, "targets must be given: a list of texts"),
        ({"targets": ["table"], "rank": 9}, "rank must be at most 8, the smaller side of Embedding at 'table', got 9"),
        ({"targets": ["table"], "rank": 0}, "rank must be at least 1, got 0"),
        ({"targets": ["table"], "alpha": 0}, "alpha must be positive and finite, or null, got 0"),
        ({"targets": ["table"], "trains": ["heat"]}, "trains must be ends of names .*got 'heat'.*did you mean 'head"),
        ({"targets": ["table"], "kind": "lorra"}, "kind must be one of none, lora, got 'lorra'; did you mean 'lora'"),
        ({"targets": ["table"], "kind": "python"}, "kind must be one of none, lora, .*requires_grad_"),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be_are_refused(settings, rule, tmp_path):
    own: dict[str, Any] = RUN | {"adapter": {"kind": "lora", **settings}}
    with pytest.raises(ValueError, match=f"^task.model.adapter.{rule}"):
        train(TINY, **own, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "groups, dilation or a padding_mode"),
        (nn.MultiheadAttention(4, 2, kdim=3, vdim=3), "kdim, vdim, add_bias_kv or add_zero_attn"),
        (nn.Embedding(4, 4, max_norm=1.0), "max_norm or scale_grad_by_freq"),
    ],
)
def test_layers_that_compute_more_than_products_are_refused(layer, why):
    with pytest.raises(ValueError, match=f"targets must mean layers of plain products, got .*with {why}; leave it out"):
        LoRA(targets=("0",), rank=1).adapt_(nn.Sequential(layer))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="with a weight that another layer has too"):
        LoRA(targets=("0",), rank=1).adapt_(tied)


def test_other_models_have_no_adapters():
    with pytest.raises(
        ValueError, match=r"unknown key 'task.model.adapter'; kind mlp .*it is a setting of kind python"
    ):
        load({"task.model": {"kind": "mlp", "adapter": {"kind": "lora", "targets": ["1"]}}})


def test_settings_of_adapters_are_read_and_written():
    made: Any = load({"task.model": {"kind": "python", "target": "a:b", "adapter": {"kind": "lora", "targets": ["q"]}}})
    assert made.task.model.adapter == LoRA(targets=("q",))
    assert load(to_dict(made)) == made


def test_files_are_laid_out_as_peft_reads_them(tmp_path):
    made = filled(texts(), **WHOLE)
    save_adapter(made, tmp_path / "new" / "adapter", base="texts")
    said = json.loads((tmp_path / "new" / "adapter" / "adapter_config.json").read_text())
    names = [name for name, part in texts().named_modules() if re.fullmatch(said["target_modules"], name)]
    assert names == ["table", "conv", "encoder.self_attn", "encoder.linear1", "encoder.linear2"]
    assert not re.fullmatch(said["target_modules"], "encoder_linear1")
    assert (said["r"], said["lora_alpha"], said["modules_to_save"]) == (2, 3.0, ["head"])
    held, inside = load_file(tmp_path / "new" / "adapter" / "adapter_model.safetensors"), "base_model.model."
    assert torch.equal(held[f"{inside}encoder.self_attn.lora_B.weight"], made.encoder.self_attn.lora_B)
    output = f"{inside}encoder.self_attn.base_layer.out_proj.lora"
    assert [held[f"{output}_{word}.weight"].shape for word in "AB"] == [(2, 8), (8, 2)]
    assert not held[f"{output}_B.weight"].any()
    assert torch.equal(held[f"{inside}table.lora_embedding_A"], made.table.lora_A)
    assert held[f"{inside}conv.lora_B.weight"].shape == (3, 2, 1, 1)
    assert torch.equal(held[f"{inside}head.bias"], made.head.bias)
    with pytest.raises(FileExistsError):
        save_adapter(made, tmp_path / "new" / "adapter")
    with pytest.raises(ValueError, match="module must have adapters of kind lora, got Texts with none"):
        save_adapter(texts(), tmp_path / "none")
    with pytest.raises(ValueError, match=r"got 'table\.weight', which belongs to an adapted layer; merge it instead"):
        save_adapter(filled(texts(), **WHOLE | {"trains": ("table.weight",)}), tmp_path / "none")


def test_frozen_parameters_are_not_copied():
    module: Any = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 2))
    stack: Any = Stack.of(module, torch.float32, torch.device("cpu"))
    assert stack.skeleton[0].weight.data_ptr() == module[0].weight.data_ptr()
    Stack.of(module, torch.float64, torch.device("cpu"))
    assert module[0].weight.dtype == torch.float32
