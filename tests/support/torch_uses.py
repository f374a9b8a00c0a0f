"""Uses of modules and functions of torch.nn beside one class with its usual arguments, as cases of torch_modules."""

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint
from torch_modules import IMAGE, LINE, SIGNAL, Case, attend, first, ids


class Forward(nn.Module):
    """A module of a linear layer, a table, a scale, a buffer, and a function of them."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function, self.linear, self.table = forward, nn.Linear(4, 3), nn.Embedding(5, 3)
        self.scale, self.last = nn.Parameter(torch.tensor(1.5)), None
        self.register_buffer("zeros", torch.zeros(3))

    def forward(self, *args: Tensor) -> Tensor:
        return self.function(self, *args)


def of(function: Callable[..., Tensor], shape: tuple[int, ...] = LINE, **more: Any) -> Case:
    """Returns the case of a function of the module, h and x."""
    return Case(lambda: Forward(function), shape, lambda m, h, x: m(h, x), **more)


def _filled(make: Callable[[Tensor, Tensor], Tensor], fill: Callable[[Tensor, Tensor, Tensor], Any]) -> Case:
    """Returns the case of a forward that makes a tensor [b, 5] of x and writes a linear layer's outputs into it."""

    def forward(m: Any, h: Tensor, x: Tensor) -> Tensor:
        made = make(x, m.zeros)
        fill(made, m.linear(h), x)
        return made

    return of(forward)


def _part(made: Tensor, y: Tensor, x: Tensor) -> None:
    made[:, 1:4] = y


def _each(made: Tensor, y: Tensor, x: Tensor) -> None:
    for k in range(3):
        made[:, k] += y[:, k]


def _remembered(m: Any, h: Tensor, x: Tensor) -> Tensor:
    m.last = m.linear(h)
    return m.last * m.scale


def _carried(m: Any, h: Tensor, x: Tensor) -> Tensor:
    m.last = m.linear(h) if m.last is None else m.linear(h) + m.last.mean()
    return m.last


def _masked(m: Any, h: Tensor, x: Tensor) -> Tensor:
    mask = torch.zeros_like(x)
    mask[x > 2] = -1e3
    return m.linear((h + mask).relu())


def _frozen_norm() -> nn.Module:
    norm = nn.BatchNorm1d(4)
    nn.init.uniform_(norm.running_var, 1, 2)
    return norm.eval()


def _twice() -> nn.Module:
    linear = nn.Linear(4, 4)
    return nn.Sequential(linear, nn.Tanh(), linear)


def _tied() -> nn.Module:
    first_, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first_.weight
    return nn.Sequential(first_, nn.Dropout(0.3), second)


class Locked(nn.Linear):
    """Holds a lock."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.lock = threading.Lock()


class Doubled(nn.Linear):
    """Holds a tensor that is computed of its weight."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.double = self.weight * 2


class Complex(nn.Module):
    """Has complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))

    def forward(self, h: Tensor) -> Tensor:
        return (h.to(self.weight.dtype) @ self.weight).abs()


class Spectrum(nn.Module):
    """Has complex weights as pairs of real ones, and a complex buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2))
        self.register_buffer("turn", torch.exp(1j * torch.arange(3.0)))

    def forward(self, h: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(h) * torch.view_as_complex(self.weight) * self.turn, n=4)


class Cholesky(nn.Module):
    """Asks more of its weight than that it be finite."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, h: Tensor) -> Tensor:
        return h @ torch.linalg.cholesky(self.weight)


def _padding(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0] < 0, x[:, 0] > 2], 1)


def _bag(call: Callable[[nn.Module, Tensor, Tensor], Tensor], **more: Any) -> Case:
    return Case(lambda: nn.EmbeddingBag(5, 3, **more), call=call)


def _encoder(mask_check: bool = True) -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 5, batch_first=True, dropout=0)
    return nn.TransformerEncoder(layer, 1, mask_check=mask_check)


_D = {"draws": True}

MORE: dict[str, Case] = {
    # What forward writes into.
    "written zeros_like": _filled(lambda x, z: torch.zeros_like(x.repeat(1, 2)[:, :5]), _part),
    "written new_zeros": _filled(lambda x, z: x.new_zeros(len(x), 5), _each),
    "written zeros": _filled(
        lambda x, z: torch.zeros(len(x), 5, dtype=x.dtype), lambda t, y, x: t.index_add_(1, torch.tensor([4, 0, 2]), y)
    ),
    "written by scatter_add_": _filled(
        lambda x, z: x.new_zeros(len(x), 5), lambda t, y, x: t.scatter_add_(1, x[:, :3].long(), y)
    ),
    "written by index_put_": _filled(
        lambda x, z: x.new_zeros(len(x), 5),
        lambda t, y, x: t.index_put_((torch.arange(len(x)), x[:, 0].long()), y[:, 0]),
    ),
    "written buffer": _filled(lambda x, z: z.repeat(len(x), 2)[:, :5].clone(), _part),
    "written features": _filled(lambda x, z: torch.cat([x, x], 1), _part),
    "written linspace": _filled(lambda x, z: torch.linspace(0, 1, 5, dtype=x.dtype).repeat(len(x), 1), _part),
    "written mask": of(_masked),
    "written features themselves": of(
        lambda m, h, x: m.linear(x.add_(1)) + h[:, :3], refused="must not change its input"
    ),
    # Look-ups.
    "Embedding sparse": Case(lambda: nn.Embedding(5, 3, sparse=True), call=ids),
    "Embedding scale_grad_by_freq": Case(lambda: nn.Embedding(5, 3, scale_grad_by_freq=True), call=ids),
    "Embedding max_norm": Case(
        lambda: nn.Embedding(5, 3, max_norm=1.0), call=ids, refused="Embedding at 'layer' with max_norm"
    ),
    "embedding max_norm": of(
        lambda m, h, x: F.embedding(x.long(), m.table.weight, max_norm=1.0), refused="max_norm of an embedding"
    ),
    "EmbeddingBag mean": _bag(ids, mode="mean", padding_idx=1),
    "EmbeddingBag sum, weights": _bag(lambda m, h, x: m(x.long(), per_sample_weights=h), mode="sum"),
    "EmbeddingBag offsets": _bag(lambda m, h, x: m(x.long().flatten(), 4 * torch.arange(len(x)))),
    "EmbeddingBag empty bags": _bag(
        lambda m, h, x: m(x.long().flatten(), torch.tensor([0, 0] + [2] * (len(x) - 2))), mode="max"
    ),
    "EmbeddingBag last offset": _bag(
        lambda m, h, x: m(x.long().flatten(), 4 * torch.arange(len(x) + 1)), include_last_offset=True
    ),
    "learned index": of(lambda m, h, x: m.table(torch.cdist(h[:, :3], m.table.weight).argmin(1)) + m.linear(h)),
    # Attention.
    "MultiheadAttention bias_kv": Case(
        lambda: nn.MultiheadAttention(6, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True), SIGNAL, attend
    ),
    "MultiheadAttention padding": Case(
        lambda: nn.MultiheadAttention(6, 2, batch_first=True),
        SIGNAL,
        lambda m, h, x: m(h, h, h, key_padding_mask=_padding(x), need_weights=False)[0],
    ),
    "attention causal": of(
        lambda m, h, x: F.scaled_dot_product_attention(h, h, h, is_causal=True, dropout_p=0.2 * m.training) * m.scale,
        SIGNAL,
        **_D,
    ),
    "attention blind": of(
        lambda m, h, x: F.scaled_dot_product_attention(h, h, h, attn_mask=~_padding(x).unsqueeze(1)) * m.scale, SIGNAL
    ),
    "attention grouped": of(
        lambda m, h, x: F.scaled_dot_product_attention(h, h[:, :2], h[:, :2], enable_gqa=True, scale=0.3) * m.scale,
        (4, 3, 2),
    ),
    "TransformerEncoder padding": Case(_encoder, SIGNAL, lambda m, h, x: m(h, src_key_padding_mask=_padding(x))[:, 0]),
    "TransformerEncoder unchecked": Case(
        lambda: _encoder(mask_check=False), SIGNAL, lambda m, h, x: m(h, src_key_padding_mask=_padding(x))[:, 0]
    ),
    # Recurrent layers.
    "LSTM states": Case(
        lambda: nn.LSTM(6, 3, batch_first=True),
        SIGNAL,
        lambda m, h, x: m(h, (x.new_zeros(1, len(x), 3), x.new_ones(1, len(x), 3)))[0],
    ),
    "LSTM ends": Case(
        lambda: nn.LSTM(6, 3, 2, bidirectional=True, dropout=0.3),
        SIGNAL,
        lambda m, h, x: torch.cat([t.transpose(0, 1).flatten(1) for t in m(h.transpose(0, 1))[1]], 1),
        **_D,
    ),
    "GRU without bias": Case(
        lambda: nn.GRU(6, 3, 2, bias=False, bidirectional=True, batch_first=True, dropout=0.5), SIGNAL, first, **_D
    ),
    "RNN dropout": Case(
        lambda: nn.RNN(6, 3, 3, nonlinearity="relu", dropout=0.5, batch_first=True), SIGNAL, first, **_D
    ),
    "LSTM float32": Case(lambda: nn.LSTM(6, 3, batch_first=True), SIGNAL, first, dtype=torch.float32),
    "LSTM packed": Case(
        lambda: nn.LSTM(6, 3, batch_first=True),
        SIGNAL,
        lambda m, h, x: m(pack_padded_sequence(h, torch.full((len(x),), 2), batch_first=True))[0].data,
        refused="data-dependent control flow",
    ),
    # Dropout and norms.
    "Dropout in place": Case(lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.3, inplace=True)), **_D),
    "AlphaDropout in place": Case(lambda: nn.Sequential(nn.Linear(4, 3), nn.AlphaDropout(0.3, inplace=True)), **_D),
    "Dropout 0": Case(lambda: nn.Dropout(0.0)),
    "Dropout 1": Case(lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(1.0)), **_D),
    "Dropout eval": Case(lambda: nn.Dropout(0.5).eval()),
    "dropout imported": of(lambda m, h, x: dropout(m.linear(h), 0.3, m.training), **_D),
    "dropout of torch": of(lambda m, h, x: torch.dropout(m.linear(h), 0.3, m.training), **_D),
    "dropout nested": Case(
        lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3)), nn.Dropout(0.5), _tied()), **_D
    ),
    "BatchNorm eval": Case(_frozen_norm),
    "BatchNorm frozen": Case(lambda: _frozen_norm().requires_grad_(False)),
    "noise": of(lambda m, h, x: m.linear(h + torch.randn_like(h)), refused=r"randn_like \(in Forward\)"),
    "noise of NumPy": of(
        lambda m, h, x: m.linear(h) * np.random.default_rng().random(), refused="two different outputs"
    ),
    "skipped by chance": of(lambda m, h, x: m.linear(h) if random.random() < 2 else h, refused="got a random draw"),
    # Parametrizations, old and new, and what a stack holds.
    "weight_norm": Case(lambda: parametrizations.weight_norm(nn.Linear(4, 3))),
    "weight_norm of all": Case(lambda: parametrizations.weight_norm(nn.ConvTranspose2d(2, 3, 2), dim=None), IMAGE),
    "orthogonal": Case(lambda: parametrizations.orthogonal(nn.Linear(4, 3), orthogonal_map="cayley")),
    "spectral_norm": Case(lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), refused="writes buffers"),
    "spectral_norm eval": Case(lambda: parametrizations.spectral_norm(nn.Linear(4, 3)).eval()),
    "pruned": Case(lambda: prune.l1_unstructured(nn.Linear(4, 3), "weight", amount=2)),
    "old weight_norm": Case(lambda: nn.utils.weight_norm(nn.Linear(4, 3))),
    "old spectral_norm": Case(lambda: nn.utils.spectral_norm(nn.Linear(4, 3)), refused="writes buffers"),
    "fused": Case(lambda: nn.utils.fuse_conv_bn_eval(nn.Conv2d(2, 3, 3).eval(), nn.BatchNorm2d(3).eval()), IMAGE),
    "twice": Case(_twice),
    "remembered": of(_remembered),
    "carried": of(_carried, refused="two different outputs"),
    "complex": Case(Complex, refused=r"complex ones \['layer.weight'\]"),
    "complex pairs": Case(Spectrum),
    "Cholesky": Case(Cholesky),
    "lock": Case(Locked, refused="cannot pickle '_thread.lock' object .in Locked at 'layer'"),
    "computed": Case(Doubled, refused="graph leaves.*in Doubled at 'layer'"),
    "script": Case(
        lambda: torch.jit.script(nn.Linear(4, 3)), refused="RecursiveScriptModule at 'layer', which torch.jit"
    ),
    "traced by fx": Case(lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.3))), **_D),
    # What vmap does not carry, or does with help.
    "bilinear": of(
        lambda m, h, x: F.bilinear(
            h,
            h[:, :3].unsqueeze(1).expand(-1, 1, 3)[:, 0],
            m.linear.weight.unsqueeze(-1).expand(3, 4, 3),
            m.linear.bias,
        )
    ),
    "branch": of(
        lambda m, h, x: m.linear(h) if h.sum() > 0 else h[:, :3], refused="data-dependent control flow.*in Forward"
    ),
    "item": of(lambda m, h, x: m.linear(h) * h.max().item(), refused="a value decides what is done"),
    "some of a mask": of(lambda m, h, x: h[h > 0].sum() * m.linear(h), refused="dynamic shape"),
    "checkpoint": of(lambda m, h, x: checkpoint(m.linear, h, use_reentrant=False), refused="saved tensor hooks"),
    "detached": of(lambda m, h, x: m.linear(h).detach()),
}
"""Further cases by name."""
