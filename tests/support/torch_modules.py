"""Every class of module that torch.nn exports, with arguments that make sense, in the middle of a small network."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import quantizable

from batchednodes.models.stacked import materialise_

FEATURES = 4
"""Inputs of each network."""

LINE, SIGNAL, IMAGE, VOLUME = (4,), (2, 6), (2, 4, 4), (2, 4, 4, 4)
"""Shapes of what a layer gets of one example: channels, then places."""


@dataclass(frozen=True)
class Case:
    """One class with arguments."""

    make: Callable[[], nn.Module]
    """Makes the module."""
    shape: tuple[int, ...] = LINE
    """Of one example of its input."""
    call: Callable[[nn.Module, Tensor, Tensor], Tensor] = lambda layer, h, x: layer(h)
    """Calls it with what comes before it, h, and the features x, integers from 0 to 4."""
    refused: str = ""
    """Why it is refused, as a regular expression; empty: it trains."""
    draws: bool = False
    """Whether it draws in training, so that PyTorch's own draws are others."""
    dtype: torch.dtype = torch.float64
    """Of parameters and features."""


class Network(nn.Module):
    """A layer with parameters before and after it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case, self.before = case, nn.Linear(FEATURES, math.prod(case.shape))
        self.layer, self.after = case.make(), nn.LazyLinear(1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.before(x / 4)).view(len(x), *self.case.shape)
        out = self.case.call(self.layer, h, x)
        return self.after(out.reshape(len(x), -1) if out.ndim else out.expand(len(x), 1))


def network(case: Case) -> nn.Module:
    """Returns the network of a case, the same each time."""
    torch.manual_seed(0)
    made = Network(case)
    materialise_(made, (FEATURES,))
    return made.double() if case.dtype == torch.float64 else made


def classes(where: object) -> dict[str, type[nn.Module]]:
    """Returns the classes of modules that a package exports, by name."""
    found = {name: getattr(where, name) for name in dir(where) if not name.startswith("_")}
    return {name: c for name, c in found.items() if inspect.isclass(c) and issubclass(c, nn.Module)}


def guess(kind: type[nn.Module]) -> Case | None:
    """Returns a case of a class that takes no arguments and one tensor; None: it is not so simple."""
    for shape in (LINE, SIGNAL, IMAGE, VOLUME):
        case = Case(kind, shape)
        try:
            network(case)(torch.ones(3, FEATURES).double())
        except Exception:  # whatever a module raises that wants other arguments
            continue
        return case
    return None


def ids(layer: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    return layer(x.long())


def first(layer: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    return layer(h)[0]


def _loss(target: Callable[[Tensor, Tensor], Tensor]) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    return lambda layer, h, x: layer(h, target(h, x))


def _labels(h: Tensor, x: Tensor) -> Tensor:
    return x[:, 0].long() % 4


def _signs(h: Tensor, x: Tensor) -> Tensor:
    return torch.where(x > 1, 1.0, -1.0).to(h)


def _unpooled(pool: nn.Module) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    return lambda layer, h, x: layer(*pool(h))


_EACH = {"reduction": "none"}


def _ctc(layer: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    b = len(x)
    scores = h.permute(2, 0, 1).log_softmax(-1)
    return layer(scores, torch.ones(b, 2, dtype=torch.long), torch.full((b,), 6), torch.full((b,), 2))


def attend(layer: nn.Module, h: Tensor, x: Tensor) -> Tensor:
    return layer(h, h, h)[0]


_T = {"d_model": 6, "nhead": 2, "dim_feedforward": 5, "batch_first": True}

CASES: dict[str, Case] = {
    "AdaptiveAvgPool1d": Case(lambda: nn.AdaptiveAvgPool1d(4), SIGNAL),
    "AdaptiveAvgPool2d": Case(lambda: nn.AdaptiveAvgPool2d(3), IMAGE),
    "AdaptiveAvgPool3d": Case(lambda: nn.AdaptiveAvgPool3d(3), VOLUME),
    "AdaptiveLogSoftmaxWithLoss": Case(
        lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 4, [2]),
        call=lambda m, h, x: m(h, _labels(h, x)).output,
        refused="dynamic shape.*in AdaptiveLogSoftmaxWithLoss",
    ),
    "AdaptiveMaxPool1d": Case(lambda: nn.AdaptiveMaxPool1d(4), SIGNAL),
    "AdaptiveMaxPool2d": Case(lambda: nn.AdaptiveMaxPool2d(3), IMAGE),
    "AdaptiveMaxPool3d": Case(lambda: nn.AdaptiveMaxPool3d(3), VOLUME),
    "AlphaDropout": Case(lambda: nn.AlphaDropout(0.3), draws=True),
    "AvgPool1d": Case(lambda: nn.AvgPool1d(2), SIGNAL),
    "AvgPool2d": Case(lambda: nn.AvgPool2d(2), IMAGE),
    "AvgPool3d": Case(lambda: nn.AvgPool3d(2), VOLUME),
    "BCELoss": Case(lambda: nn.BCELoss(**_EACH), call=lambda m, h, x: m(h.sigmoid(), x / 4)),
    "BCEWithLogitsLoss": Case(nn.BCEWithLogitsLoss, call=_loss(lambda h, x: x / 4)),
    "BatchNorm1d": Case(lambda: nn.BatchNorm1d(4)),
    "BatchNorm2d": Case(lambda: nn.BatchNorm2d(2), IMAGE),
    "BatchNorm3d": Case(lambda: nn.BatchNorm3d(2, track_running_stats=False), VOLUME),
    "Bilinear": Case(lambda: nn.Bilinear(4, 4, 3), call=lambda m, h, x: m(h, x)),
    "CTCLoss": Case(lambda: nn.CTCLoss(**_EACH), (3, 6), call=_ctc),
    "ChannelShuffle": Case(lambda: nn.ChannelShuffle(2), (4, 2, 2)),
    "CircularPad1d": Case(lambda: nn.CircularPad1d(2), SIGNAL),
    "CircularPad2d": Case(lambda: nn.CircularPad2d(1), IMAGE),
    "CircularPad3d": Case(lambda: nn.CircularPad3d(1), VOLUME),
    "ConstantPad1d": Case(lambda: nn.ConstantPad1d(2, 0.5), SIGNAL),
    "ConstantPad2d": Case(lambda: nn.ConstantPad2d(1, 0.5), IMAGE),
    "ConstantPad3d": Case(lambda: nn.ConstantPad3d(1, 0.5), VOLUME),
    "Container": Case(lambda: nn.Container(inner=nn.Linear(4, 3)), call=lambda m, h, x: m.inner(h)),
    "Conv1d": Case(lambda: nn.Conv1d(2, 3, 3, padding=1), SIGNAL),
    "Conv2d": Case(lambda: nn.Conv2d(2, 3, 3, padding=1), IMAGE),
    "Conv3d": Case(lambda: nn.Conv3d(2, 3, 3, padding=1), VOLUME),
    "ConvTranspose1d": Case(lambda: nn.ConvTranspose1d(2, 3, 3, stride=2), SIGNAL),
    "ConvTranspose2d": Case(lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), IMAGE),
    "ConvTranspose3d": Case(lambda: nn.ConvTranspose3d(2, 3, 2), VOLUME),
    "CosineEmbeddingLoss": Case(
        lambda: nn.CosineEmbeddingLoss(**_EACH), call=lambda m, h, x: m(h, x, _signs(h, x)[:, 0])
    ),
    "CosineSimilarity": Case(nn.CosineSimilarity, call=lambda m, h, x: m(h, x)),
    "CrossEntropyLoss": Case(lambda: nn.CrossEntropyLoss(label_smoothing=0.1), call=_loss(_labels)),
    "CrossMapLRN2d": Case(lambda: nn.CrossMapLRN2d(2), IMAGE, refused="setup_context.*in CrossMapLRN2d"),
    "quantizable.LSTM": Case(lambda: quantizable.LSTM(6, 3), (2, 6), first, dtype=torch.float32),
    "quantizable.LSTMCell": Case(
        lambda: quantizable.LSTMCell(4, 3), call=lambda m, h, x: torch.cat(m(h), 1), dtype=torch.float32
    ),
    "quantizable.MultiheadAttention": Case(
        lambda: quantizable.MultiheadAttention(6, 2, dropout=0.3, batch_first=True), SIGNAL, attend, draws=True
    ),
    "DataParallel": Case(lambda: nn.DataParallel(nn.Linear(4, 3))),
    "Dropout": Case(lambda: nn.Dropout(0.3), draws=True),
    "Dropout1d": Case(lambda: nn.Dropout1d(0.3), SIGNAL, draws=True),
    "Dropout2d": Case(lambda: nn.Dropout2d(0.3), IMAGE, draws=True),
    "Dropout3d": Case(lambda: nn.Dropout3d(0.3), VOLUME, draws=True),
    "Embedding": Case(lambda: nn.Embedding(5, 3, padding_idx=1), call=ids),
    "EmbeddingBag": Case(lambda: nn.EmbeddingBag(5, 3, mode="max", padding_idx=1), call=ids),
    "FeatureAlphaDropout": Case(lambda: nn.FeatureAlphaDropout(0.3), IMAGE, draws=True),
    "Fold": Case(lambda: nn.Fold((3, 3), 2), (8, 4)),
    "FractionalMaxPool2d": Case(
        lambda: nn.FractionalMaxPool2d(2, output_size=2), IMAGE, refused="rand .in FractionalMaxPool2d"
    ),
    "FractionalMaxPool3d": Case(
        lambda: nn.FractionalMaxPool3d(2, output_size=2), VOLUME, refused="rand .in FractionalMaxPool3d"
    ),
    "GRU": Case(lambda: nn.GRU(6, 3, 2, batch_first=True, dropout=0.3), SIGNAL, first, draws=True),
    "GRUCell": Case(lambda: nn.GRUCell(4, 3)),
    "GaussianNLLLoss": Case(
        lambda: nn.GaussianNLLLoss(**_EACH),
        call=lambda m, h, x: m(h, x, h.square() + 0.1),
        refused="data-dependent control flow.*in GaussianNLLLoss",
    ),
    "GroupNorm": Case(lambda: nn.GroupNorm(2, 4)),
    "HingeEmbeddingLoss": Case(lambda: nn.HingeEmbeddingLoss(**_EACH), call=_loss(_signs)),
    "HuberLoss": Case(nn.HuberLoss, call=_loss(lambda h, x: x)),
    "InstanceNorm1d": Case(lambda: nn.InstanceNorm1d(2, affine=True), SIGNAL),
    "InstanceNorm2d": Case(lambda: nn.InstanceNorm2d(2), IMAGE),
    "InstanceNorm3d": Case(lambda: nn.InstanceNorm3d(2), VOLUME),
    "KLDivLoss": Case(lambda: nn.KLDivLoss(**_EACH), call=lambda m, h, x: m(h.log_softmax(1), x.softmax(1))),
    "L1Loss": Case(nn.L1Loss, call=_loss(lambda h, x: x)),
    "LPPool1d": Case(lambda: nn.LPPool1d(2, 2), SIGNAL),
    "LPPool2d": Case(lambda: nn.LPPool2d(2, 2), IMAGE),
    "LPPool3d": Case(lambda: nn.LPPool3d(2, 2), VOLUME),
    "LSTM": Case(
        lambda: nn.LSTM(6, 3, 2, batch_first=True, dropout=0.3, bidirectional=True, proj_size=2),
        SIGNAL,
        first,
        draws=True,
    ),
    "LSTMCell": Case(lambda: nn.LSTMCell(4, 3), call=lambda m, h, x: torch.cat(m(h), 1)),
    "LayerNorm": Case(lambda: nn.LayerNorm(4)),
    "LazyBatchNorm1d": Case(lambda: nn.LazyBatchNorm1d(track_running_stats=False)),
    "LazyBatchNorm2d": Case(nn.LazyBatchNorm2d, IMAGE),
    "LazyBatchNorm3d": Case(nn.LazyBatchNorm3d, VOLUME),
    "LazyConv1d": Case(lambda: nn.LazyConv1d(3, 3), SIGNAL),
    "LazyConv2d": Case(lambda: nn.LazyConv2d(3, 3), IMAGE),
    "LazyConv3d": Case(lambda: nn.LazyConv3d(3, 3), VOLUME),
    "LazyConvTranspose1d": Case(lambda: nn.LazyConvTranspose1d(3, 3), SIGNAL),
    "LazyConvTranspose2d": Case(lambda: nn.LazyConvTranspose2d(3, 3), IMAGE),
    "LazyConvTranspose3d": Case(lambda: nn.LazyConvTranspose3d(3, 2), VOLUME),
    "LazyInstanceNorm1d": Case(lambda: nn.LazyInstanceNorm1d(track_running_stats=False), SIGNAL),
    "LazyInstanceNorm2d": Case(lambda: nn.LazyInstanceNorm2d(track_running_stats=False), IMAGE),
    "LazyInstanceNorm3d": Case(nn.LazyInstanceNorm3d, VOLUME),
    "LazyLinear": Case(lambda: nn.LazyLinear(3)),
    "Linear": Case(lambda: nn.Linear(4, 3)),
    "LinearCrossEntropyLoss": Case(lambda: nn.LinearCrossEntropyLoss(4, 4), call=_loss(_labels)),
    "LocalResponseNorm": Case(lambda: nn.LocalResponseNorm(2), IMAGE),
    "MSELoss": Case(nn.MSELoss, call=_loss(lambda h, x: x)),
    "MarginRankingLoss": Case(lambda: nn.MarginRankingLoss(**_EACH), call=lambda m, h, x: m(h, x, _signs(h, x))),
    "MaxPool1d": Case(lambda: nn.MaxPool1d(2), SIGNAL),
    "MaxPool2d": Case(lambda: nn.MaxPool2d(2), IMAGE),
    "MaxPool3d": Case(lambda: nn.MaxPool3d(2), VOLUME),
    "MaxUnpool1d": Case(lambda: nn.MaxUnpool1d(2), SIGNAL, _unpooled(nn.MaxPool1d(2, return_indices=True))),
    "MaxUnpool2d": Case(lambda: nn.MaxUnpool2d(2), IMAGE, _unpooled(nn.MaxPool2d(2, return_indices=True))),
    "MaxUnpool3d": Case(lambda: nn.MaxUnpool3d(2), VOLUME, _unpooled(nn.MaxPool3d(2, return_indices=True))),
    "Module": Case(lambda: Network(Case(lambda: nn.Linear(4, 3)))),
    "ModuleDict": Case(lambda: nn.ModuleDict({"a": nn.Linear(4, 3)}), call=lambda m, h, x: m["a"](h)),
    "ModuleList": Case(lambda: nn.ModuleList([nn.Linear(4, 3)]), call=lambda m, h, x: m[0](h)),
    "MultiLabelMarginLoss": Case(lambda: nn.MultiLabelMarginLoss(**_EACH), call=_loss(lambda h, x: x.long() % 4)),
    "MultiLabelSoftMarginLoss": Case(lambda: nn.MultiLabelSoftMarginLoss(**_EACH), call=_loss(lambda h, x: x / 4)),
    "MultiMarginLoss": Case(lambda: nn.MultiMarginLoss(**_EACH), call=_loss(_labels)),
    "MultiheadAttention": Case(
        lambda: nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True), SIGNAL, attend, draws=True
    ),
    "NLLLoss": Case(lambda: nn.NLLLoss(**_EACH), call=lambda m, h, x: m(h.log_softmax(1), _labels(h, x))),
    "NLLLoss2d": Case(
        lambda: nn.NLLLoss2d(**_EACH),
        IMAGE,
        lambda m, h, x: m(h.log_softmax(1), (x.long() % 2)[:, :, None].expand(-1, -1, 4)),
    ),
    "PairwiseDistance": Case(nn.PairwiseDistance, call=lambda m, h, x: m(h, x)),
    "ParameterDict": Case(lambda: nn.ParameterDict({"a": torch.ones(4)}), call=lambda m, h, x: h * m["a"]),
    "ParameterList": Case(lambda: nn.ParameterList([torch.ones(4)]), call=lambda m, h, x: h * m[0]),
    "PixelShuffle": Case(lambda: nn.PixelShuffle(2), (4, 2, 2)),
    "PixelUnshuffle": Case(lambda: nn.PixelUnshuffle(2), IMAGE),
    "PoissonNLLLoss": Case(lambda: nn.PoissonNLLLoss(**_EACH), call=_loss(lambda h, x: x)),
    "RMSNorm": Case(lambda: nn.RMSNorm(4)),
    "RNN": Case(lambda: nn.RNN(6, 3, 2, batch_first=True, nonlinearity="relu"), SIGNAL, first),
    "RNNBase": Case(lambda: nn.RNNBase("GRU", 6, 3), SIGNAL, refused="RNNBase. is missing"),
    "RNNCell": Case(lambda: nn.RNNCell(4, 3)),
    "RNNCellBase": Case(lambda: nn.RNNCellBase(4, 3, True, 1), refused="RNNCellBase. is missing"),
    "RReLU": Case(nn.RReLU, refused="rrelu_with_noise .in RReLU"),
    "ReflectionPad1d": Case(lambda: nn.ReflectionPad1d(2), SIGNAL),
    "ReflectionPad2d": Case(lambda: nn.ReflectionPad2d(1), IMAGE),
    "ReflectionPad3d": Case(lambda: nn.ReflectionPad3d(1), VOLUME),
    "ReplicationPad1d": Case(lambda: nn.ReplicationPad1d(2), SIGNAL),
    "ReplicationPad2d": Case(lambda: nn.ReplicationPad2d(1), IMAGE),
    "ReplicationPad3d": Case(lambda: nn.ReplicationPad3d(1), VOLUME),
    "Sequential": Case(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True))),
    "SmoothL1Loss": Case(nn.SmoothL1Loss, call=_loss(lambda h, x: x)),
    "SoftMarginLoss": Case(lambda: nn.SoftMarginLoss(**_EACH), call=_loss(_signs)),
    "Softmax": Case(lambda: nn.Softmax(1)),
    "Softmin": Case(lambda: nn.Softmin(1)),
    "LogSoftmax": Case(lambda: nn.LogSoftmax(1)),
    "Softmax2d": Case(nn.Softmax2d, IMAGE),
    "SyncBatchNorm": Case(lambda: nn.SyncBatchNorm(4)),
    "Threshold": Case(lambda: nn.Threshold(0.1, 0.2)),
    "Transformer": Case(
        lambda: nn.Transformer(6, 2, 1, 1, 5, 0.3, batch_first=True), SIGNAL, lambda m, h, x: m(h, h), draws=True
    ),
    "TransformerDecoder": Case(
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(**_T, dropout=0), 1), SIGNAL, lambda m, h, x: m(h, h)
    ),
    "TransformerDecoderLayer": Case(
        lambda: nn.TransformerDecoderLayer(**_T, dropout=0.3), SIGNAL, lambda m, h, x: m(h, h), draws=True
    ),
    "TransformerEncoder": Case(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(**_T, dropout=0.3), 2), SIGNAL, draws=True
    ),
    "TransformerEncoderLayer": Case(lambda: nn.TransformerEncoderLayer(**_T, dropout=0), SIGNAL),
    "TripletMarginLoss": Case(lambda: nn.TripletMarginLoss(**_EACH), call=lambda m, h, x: m(h, x, x.flip(0))),
    "TripletMarginWithDistanceLoss": Case(
        lambda: nn.TripletMarginWithDistanceLoss(**_EACH), call=lambda m, h, x: m(h, x, x.flip(1))
    ),
    "Unflatten": Case(lambda: nn.Unflatten(1, (2, 2))),
    "Unfold": Case(lambda: nn.Unfold(2), IMAGE),
    "Upsample": Case(lambda: nn.Upsample(scale_factor=2, mode="bicubic"), IMAGE),
    "UpsamplingBilinear2d": Case(lambda: nn.UpsamplingBilinear2d(scale_factor=2), IMAGE),
    "UpsamplingNearest2d": Case(lambda: nn.UpsamplingNearest2d(scale_factor=2), IMAGE),
    "ZeroPad1d": Case(lambda: nn.ZeroPad1d(2), SIGNAL),
    "ZeroPad2d": Case(lambda: nn.ZeroPad2d(1), IMAGE),
    "ZeroPad3d": Case(lambda: nn.ZeroPad3d(1), VOLUME),
}
