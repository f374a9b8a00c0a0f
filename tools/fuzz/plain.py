"""Layers of real numbers of any shape: those of torch.nn, and operations that users write themselves."""

from random import Random

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fuzz.shapes import MOST, Call, Layer, Parametric, Shape, index

_SMOOTH = (nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.ELU, nn.SELU, nn.Mish, nn.Softsign, nn.LogSigmoid,
           nn.CELU, nn.Tanhshrink, nn.Identity)  # fmt: skip

_KINKED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softshrink, nn.PReLU)

_DROPOUTS = (nn.Dropout, nn.AlphaDropout, nn.Dropout1d, nn.FeatureAlphaDropout)


class Residual(nn.Module):
    """Adds a layer's output to its input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Returns x + layer(x)."""
        return x + self.layer(x)


class Scaled(nn.Module):
    """Scales by a buffer, and adds a constant that is no buffer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 1.5, width))
        self.shift = torch.linspace(-0.1, 0.1, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the scaled input."""
        return x * self.scale + self.shift.to(x)


def _activation(shape: Shape, draw: Random) -> nn.Module:
    """Returns an activation, in place or not."""
    made = draw.choice(_SMOOTH + _KINKED)
    if made in (nn.ReLU, nn.SiLU, nn.ELU, nn.Hardtanh) and draw.random() < 0.3:
        return nn.Sequential(nn.Linear(shape[-1], shape[-1]), made(inplace=True))
    return made()


def _linear(shape: Shape, draw: Random) -> nn.Module:
    return nn.Linear(shape[-1], draw.randint(1, 5), bias=draw.random() < 0.8)


def _tied(shape: Shape, draw: Random) -> nn.Module:
    first, second = (nn.Linear(shape[-1], shape[-1], bias=draw.random() < 0.5) for _ in range(2))
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def _frozen(shape: Shape, draw: Random) -> nn.Module:
    frozen = nn.Linear(shape[-1], shape[-1]).requires_grad_(False)
    return nn.Sequential(frozen, nn.Tanh(), nn.Linear(shape[-1], draw.randint(1, 4)))


def _reused(shape: Shape, draw: Random) -> nn.Module:
    layer = nn.Linear(shape[-1], shape[-1])
    return nn.Sequential(layer, nn.Tanh(), layer)


def _lazy(shape: Shape, draw: Random) -> nn.Module:
    return nn.LazyLinear(draw.randint(1, 4))


def _dropout(shape: Shape, draw: Random) -> nn.Module:
    p = draw.choice([0.0, 0.1, 0.5, 0.5, 1.0])
    if draw.random() < 0.3:
        return nn.Sequential(nn.Linear(shape[-1], shape[-1]), nn.Dropout(p, inplace=True))
    if draw.random() < 0.4:
        kind = draw.choice([F.dropout, F.alpha_dropout, F.feature_alpha_dropout])
        return Dropping(kind, p) if draw.random() < 0.7 else Call(lambda x: kind(x, p, True))
    return draw.choice(_DROPOUTS if len(shape) == 2 else _DROPOUTS[:2])(p)


class Dropping(nn.Module):
    """Drops by a function, in training."""

    def __init__(self, function: object, p: float) -> None:
        super().__init__()
        self.function, self.p = function, p

    def forward(self, x: Tensor) -> Tensor:
        """Returns what is kept."""
        return self.function(x, self.p, self.training)


def _einsum(shape: Shape, draw: Random) -> nn.Module:
    made = Parametric(lambda x, u, v: torch.einsum("...i,ir,ro->...o", x, u, v), (shape[-1], 2), (2, shape[-1]))
    return draw.choice([made, Parametric(lambda x, w: x * w.exp() - w.sum(), (shape[-1],))])


def _bilinear(shape: Shape, draw: Random) -> nn.Module:
    layer = nn.Bilinear(shape[-1], shape[-1], 2)
    return Parametric(lambda x, w: torch.tanh(w * x), (shape[-1],)) if draw.random() < 0.5 else Twice(layer)


class Twice(nn.Module):
    """Gives a layer its input twice."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Returns layer(x, x)."""
        return self.layer(x, x)


def _norm(shape: Shape, draw: Random) -> nn.Module:
    inner = shape[draw.randrange(len(shape)) :]
    return draw.choice([nn.LayerNorm(inner), nn.LayerNorm(inner, elementwise_affine=False), nn.RMSNorm(inner)])


def _along(shape: Shape, draw: Random) -> nn.Module:
    """Returns an operation along one dimension of an example."""
    d, size = draw.randrange(1, len(shape) + 1), shape[-1]
    return Call(
        draw.choice([
            lambda x: x.cumsum(d), lambda x: x.flip(d), lambda x: x.roll(1, d), lambda x: torch.cat([x, -x], d),
            lambda x: x.softmax(d), lambda x: x.logcumsumexp(d), lambda x: x - x.mean(d, keepdim=True),
            lambda x: x / (x.norm(dim=d, keepdim=True) + 1), lambda x: torch.stack(x.unbind(d), d) * 2,
            lambda x: torch.cat(x.split(1, d)[::-1], d), lambda x: F.normalize(x + 0.1, dim=d),
            lambda x: x.logsumexp(d, keepdim=True).expand_as(x) + x, lambda x: F.pad(x, (1, 1)),
            lambda x: x.sub(x.std(d, keepdim=True, correction=0).detach()), lambda x: x.movedim(-1, 1),
            lambda x: x.repeat_interleave(2, d) if x[0].numel() < MOST else x, lambda x: x.narrow(-1, 0, size),
            lambda x: torch.as_strided(x.contiguous(), x.shape, x.contiguous().stride()), lambda x: x.clone(),
            lambda x: x.unfold(-1, min(2, size), 1).mean(-1), lambda x: torch.diff(x, dim=d, prepend=x.narrow(d, 0, 1)),
        ])
    )  # fmt: skip


def _choice(shape: Shape, draw: Random) -> nn.Module:
    """Returns an operation that depends on comparisons of its inputs."""
    size = shape[-1]
    return Call(
        draw.choice([
            lambda x: x.sort(-1).values, lambda x: x.topk(min(2, size), -1).values, lambda x: x.amax(-1, keepdim=True),
            lambda x: F.one_hot(x.argmax(-1), size).to(x.dtype) + x, lambda x: torch.where(x > 0, x, 0.1 * x),
            lambda x: x.masked_fill(x < 0.1, 0.5), lambda x: x.clamp(-0.5, 0.5), lambda x: x + (x.round() - x).detach(),
            lambda x: torch.take_along_dim(x, torch.argsort(x, dim=-1, stable=True), -1),
            lambda x: x * (x > x.mean(-1, True)),
            lambda x: x.cummax(-1).values, lambda x: x.median(-1, keepdim=True).values + x, lambda x: x.abs().sqrt(),
            lambda x: x.gather(-1, x.argmax(-1, keepdim=True)), lambda x: torch.maximum(x, -x),
            lambda x: x.max(-1, keepdim=True)[0] - x, lambda x: x.sign() + x, lambda x: torch.sort(x, -1)[0].cumsum(-1),
            lambda x: x.softmax(-1).square(), lambda x: x.floor().detach() + x,
            lambda x: torch.bucketize(x.detach(), torch.linspace(-1, 1, 4).to(x)).to(x.dtype) + x,
            lambda x: torch.searchsorted(torch.linspace(-1, 1, 4).to(x), x.detach().contiguous()).to(x.dtype) + x,
        ])
    )  # fmt: skip


def _picked(shape: Shape, draw: Random) -> nn.Module:
    """Returns a look-up of an input by constant indices."""
    i = index(draw, shape[-1])
    j = index(draw, shape[-1], -shape[-1])
    return Call(
        draw.choice([
            lambda x: x.index_select(-1, i), lambda x: x[..., i], lambda x: x[..., j], lambda x: x[..., 0:1],
            lambda x: x.gather(-1, i.expand(*x.shape[:-1], -1)), lambda x: x[..., -1:], lambda x: x[:, ..., None, :],
            lambda x: torch.take_along_dim(x, i.view(*(1,) * (x.ndim - 1), -1), -1), lambda x: x[..., ::2],
            lambda x: x.take(i.expand(len(x), -1) + torch.arange(len(x)).unsqueeze(1) * x[0].numel()),
            lambda x: x.swapaxes(1, -1)[..., :1].expand(*x.swapaxes(1, -1).shape[:-1], 2),
        ])
    )  # fmt: skip


def _sliced(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[..., :1] = x[..., -1:]
    out[..., -1] += 2 * x[..., 0]
    return out


def _padded(x: Tensor) -> Tensor:
    out = x.new_zeros(*x.shape[:-1], x.shape[-1] + 1)
    out[..., 1:] = x
    return out


def _filled(x: Tensor) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype)
    out.copy_(x)
    return out.mul_(2)


def _own(x: Tensor) -> Tensor:
    x = x.clone()
    x[..., 0] = x[..., -1] * 2
    x.relu_()
    return x.add_(1)


def _by_rows(x: Tensor) -> Tensor:
    out = torch.ones_like(x)
    for k in range(len(x)):
        out[k] = x[k] * (k + 1)
    return out


def _listed(x: Tensor) -> Tensor:
    out = x.new_full(x.shape, 0.5)
    out[..., torch.arange(x.shape[-1]).flip(0)] = x
    return out


def _written(shape: Shape, draw: Random) -> nn.Module:
    """Returns an operation that writes into a tensor of its own."""
    size = shape[-1]
    i = torch.arange(size).flip(0) if draw.random() < 0.5 else torch.zeros(size, dtype=torch.long)
    scattered = (
        lambda x: torch.zeros_like(x).scatter_add_(-1, i.expand_as(x), x),
        lambda x: torch.zeros_like(x).index_add(-1, i, x),
        lambda x: torch.zeros_like(x).index_add_(-1, i, x),
        lambda x: torch.zeros_like(x).scatter(-1, i.expand_as(x), x),
        lambda x: x.index_copy(-1, torch.arange(size), 2 * x),
        lambda x: x.new_zeros(x.shape).scatter_reduce(-1, i.expand_as(x), x, "amax"),
        lambda x: torch.zeros(x.shape, dtype=x.dtype).index_put((torch.arange(len(x)),), x),
        lambda x: torch.zeros_like(x).index_put_((torch.arange(len(x)),), x),
        lambda x: x.index_fill(-1, i[:1], 0.3),
        lambda x: torch.zeros_like(x).masked_fill_(x > 0, 1.0) + x,
        lambda x: torch.zeros_like(x).masked_scatter(torch.ones_like(x, dtype=torch.bool), x),
    )
    return Call(draw.choice((_sliced, _padded, _filled, _own, _by_rows, _listed, *scattered)))


def _spectral(shape: Shape, draw: Random) -> nn.Module:
    """Returns an operation on complex numbers."""
    size = shape[-1]
    return Call(
        draw.choice([
            lambda x: torch.fft.rfft(x).real, lambda x: torch.fft.irfft(torch.fft.rfft(x), n=size),
            lambda x: torch.view_as_real(torch.fft.fft(x)).flatten(-2), lambda x: (torch.complex(x, -x) * 1j).imag,
            lambda x: (torch.fft.fft(x) + 3).abs(), lambda x: torch.fft.fft2(x.unsqueeze(1)).real.squeeze(1),
            lambda x: torch.view_as_complex(torch.stack([x, x.cos()], -1)).angle() * 0.1 + x,
        ])
    )  # fmt: skip


def _matrix(shape: Shape, draw: Random) -> nn.Module:
    """Returns an operation of linear algebra."""
    d = shape[-1]
    return draw.choice([
        Parametric(lambda x, w: torch.linalg.solve(w @ w.mT + torch.eye(d).to(w), x.mT).mT, (d, d)),
        Parametric(lambda x, w: x @ torch.linalg.inv(w @ w.mT + torch.eye(d).to(w)), (d, d)),
        Parametric(lambda x, w: x @ torch.linalg.cholesky(w @ w.mT + torch.eye(d).to(w)), (d, d)),
        Parametric(lambda x, w: x @ torch.linalg.matrix_exp(0.1 * w), (d, d)),
        Parametric(lambda x, w: x * torch.logdet(w @ w.mT + torch.eye(d).to(w)), (d, d)),
        Parametric(lambda x, w: torch.cdist(x, w), (3, d)),
        Parametric(lambda x, w: torch.baddbmm(x, x, w.expand(len(x), d, d)), (d, d)),
        Parametric(lambda x, w: torch.kron(x, w.view(1, 1, -1)), (2,)),
        Parametric(lambda x, w: torch.outer(x[..., 0].flatten(), w).view(len(x), -1, d), (d,)),
        Parametric(lambda x, w: torch.tensordot(x, w, ([-1], [0])), (d, 2)),
        Parametric(lambda x, w: torch.linalg.svdvals(w)[0] * x, (d, d)),
        Parametric(lambda x, w: x + w.norm() * w, (d,)),
        Parametric(lambda x, w: F.cosine_similarity(x, w.expand_as(x) + 2, -1).unsqueeze(-1), (d,)),
    ])  # fmt: skip


def _parametrized(shape: Shape, draw: Random) -> nn.Module:
    layer = nn.Linear(shape[-1], shape[-1])
    return parametrizations.weight_norm(layer) if draw.random() < 0.6 else parametrizations.orthogonal(layer)


def _mapped(shape: Shape, draw: Random) -> nn.Module:
    """Returns an operation that is a transform itself."""
    d = shape[-1]
    return draw.choice([
        Parametric(lambda x, w: torch.func.vmap(lambda one: one * w)(x), (d,)),
        Parametric(lambda x, w: torch.func.grad(lambda one: (one * w).tanh().sum())(x), (d,)),
        Call(lambda x: torch.func.vmap(torch.tanh, in_dims=1, out_dims=1)(x)),
    ])  # fmt: skip


PLAIN: dict[str, Layer] = {
    "linear": Layer(_linear),
    "activation": Layer(_activation),
    "tied": Layer(_tied),
    "frozen": Layer(_frozen),
    "reused": Layer(_reused),
    "lazy": Layer(_lazy),
    "dropout": Layer(_dropout),
    "einsum": Layer(_einsum),
    "bilinear": Layer(_bilinear, "vector"),
    "norm": Layer(_norm),
    "along": Layer(_along),
    "choice": Layer(_choice, jumps=True, sound=False),
    "picked": Layer(_picked),
    "written": Layer(_written, sound=False),
    "spectral": Layer(_spectral, "sequence", jumps=True, sound=False),
    "matrix": Layer(_matrix, "sequence", sound=False),
    "parametrized": Layer(_parametrized, sound=False),
    "mapped": Layer(_mapped, sound=False),
    "residual": Layer(lambda shape, draw: Residual(nn.Linear(shape[-1], shape[-1]))),
    "scaled": Layer(lambda shape, draw: Scaled(shape[-1])),
}
"""All kinds, by name."""
