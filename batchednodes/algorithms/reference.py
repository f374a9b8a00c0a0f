r"""The same algorithm, one event at a time: the meaning of correct.

Nothing here is batched, scheduled or shared with the batched path but the layout of a row and the addresses of the
draws: the gradient is autograd's of one module call, the step is `torch.optim.SGD`, gossip is two rows of x.

Notation: i the node that acts, j the node whose model changes, w weight of the other's model, set
by the node that makes the contact.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from batchednodes.algorithms.gradient_step import filled
from batchednodes.algorithms.mixing import Ages, Entries
from batchednodes.algorithms.mixing.personal import Personal
from batchednodes.algorithms.private import normal
from batchednodes.algorithms.rates import Hyperparameters
from batchednodes.algorithms.state import State
from batchednodes.algorithms.versions import Layout
from batchednodes.events.messages.records import JOINED
from batchednodes.events.timeline import MEET, PULL, UPDATE, Events
from batchednodes.models.problem import Problem


@dataclass(frozen=True)
class Reference:
    """An algorithm's choices, executed event by event in time order."""

    problem: Problem
    rates: Hyperparameters
    weight: Float[Tensor, " n"]
    """w of each node, that of the contacts it makes; dimensionless."""
    layout: Layout
    """Where the versions of each node lie."""
    own: Int64[Tensor, " n"]
    """Place of each node's count of its own updates among the versions; -1: not tracked."""
    quarantine: bool = False
    """Whether a node whose loss or model became non-finite in an update is cut off: contacts with it do nothing."""
    entries: Entries | None = None
    """Which entries of a model a message brings; None: all."""
    replaces: bool = False
    """Whether a node takes a model that it has trained in place of its own, with the momentum buffer."""
    ages: Ages | None = None
    """How step sizes are divided by ages; None: they are not."""
    personal: Personal | None = None
    """Which entries nodes mix; None: all."""
    silent: frozenset[int] = frozenset()
    """Nodes from whom nothing comes."""

    def event_(self, state: State, events: Events, k: int) -> None:
        """Runs event k of a window."""
        kind, actor, peer, time = events.kind[k], int(events.actor[k]), int(events.peer[k]), float(events.time[k])
        if kind == UPDATE:
            self._update_(state, actor, actor if peer < 0 else peer, int(events.count[k]), time)
        elif events.message is not None:
            self._message_(state, events, k)
        elif self.quarantine and bool(state.diverged_at[[actor, peer]].isfinite().any()):
            return
        elif kind == MEET:
            self._meet_(state, actor, peer, time)
        else:
            j, i = (actor, peer) if kind == PULL else (peer, actor)
            if i in self.silent:
                return
            versions = self.layout.of_node(state.versions, i)
            self._write_(state, j, self.weight[actor], state.x[i], versions, time, self.mixed(j, i))

    def _message_(self, state: State, events: Events, k: int) -> None:
        """Copies a model that messages refer to, merges one that came, or lets two nodes meet."""
        assert events.message is not None
        j, i, time = int(events.actor[k]), int(events.peer[k]), float(events.time[k])
        node, sent, part = (int(events.message.node[k]), float(events.message.sent[k]), int(events.message.part[k]))
        w = torch.tensor(events.message.weight[k], dtype=state.x.dtype, device=state.x.device)
        width = int(self.layout.width[node])
        if j >= state.nodes:
            state.x[j] = state.x[i]
            self.row(state, j, width).copy_(self.row(state, i, width))
            self._take_(state, j, i)
            self._grow_(state, j, i, -1, copied=True)
        elif self.quarantine and self.cut(state, j, i if events.kind[k] == MEET else node, sent):
            return
        elif events.kind[k] == MEET:
            self._meet_(state, j, i, time, w)
        elif node not in self.silent:
            kept = self.mixed(j, node)
            if self.entries is not None:
                kept = self.entries.of(torch.tensor([j]), torch.tensor([part]))[0]
            self._write_(state, j, w, state.x[i], self.row(state, i, width), time, kept)
            self._grow_(state, j, i, part, copied=part < 0 and float(w) == 1)
            if self.replaces:
                self._take_(state, j, i)
        if part == JOINED and state.read is not None:
            state.read[j] = state.x[j]

    def mixed(self, j: int, i: int) -> Tensor | None:
        """Returns which entries two nodes mix with each other; None: all."""
        if self.personal is None:
            return None
        return self.personal.both(*(torch.tensor([node], device=self.personal.where) for node in (j, i)))[0]

    def _take_(self, state: State, j: int, i: int) -> None:
        """Gives row j what an optimizer keeps of row i."""
        for name in ("v", *(() if self.rates.optimizer is None else type(self.rates.optimizer).fields)):
            if name in state.fields:
                state.fields[name][j] = state.fields[name][i]

    def _grow_(self, state: State, j: int, i: int, part: int, copied: bool) -> None:
        """Gives row j the ages of what it takes from row i: of a part of the model, or of all of it if that is -1."""
        if state.age is None:
            return
        if copied:
            state.age[j] = state.age[i]
        else:
            some = slice(None) if part < 0 else part
            state.age[j, some] = torch.maximum(state.age[j, some], state.age[i, some])

    def cut(self, state: State, j: int, origin: int, sent: float) -> bool:
        """Returns whether a node is cut off, or was the origin of its message when it was sent."""
        return bool(state.diverged_at[j].isfinite()) or float(state.diverged_at[origin]) <= sent

    def row(self, state: State, row: int, width: int) -> Tensor:
        """Returns the versions of a node or of a slot."""
        first = int(self.layout.place[row])
        return state.versions[first : first + width]

    def _meet_(self, state: State, i: int, j: int, time: float, w: Tensor | None = None) -> None:
        w = self.weight[i] if w is None else w
        x_i, versions_i = state.x[i].clone(), self.layout.of_node(state.versions, i).clone()
        kept = self.mixed(i, j)
        if j not in self.silent:
            self._write_(state, i, w, state.x[j], self.layout.of_node(state.versions, j), time, kept)
        if i not in self.silent:
            self._write_(state, j, w, x_i, versions_i, time, kept)

    def _write_(
        self,
        state: State,
        j: int,
        w: Tensor,
        x_i: Tensor,
        versions_i: Tensor,
        time: float,
        kept: Tensor | None = None,
    ) -> None:
        mean = (1 - w) * state.x[j] + w * x_i
        state.x[j] = mean if kept is None else torch.where(kept.to(mean.device), mean, state.x[j])
        self._gain_(state, j, versions_i, time)

    def _gain_(self, state: State, j: int, versions_i: Tensor, time: float) -> None:
        """Gives node j the versions that it takes from another row, and takes note of the gain."""
        versions_j = self.layout.of_node(state.versions, j)
        before = int(versions_j.sum())
        versions_j.copy_(torch.maximum(versions_j, versions_i))
        state.gained[j] += time * (int(versions_j.sum()) - before)

    def width_of(self, events: Events, k: int, actor: int) -> int:
        """Returns the columns of the versions that a contact is about."""
        return int(self.layout.width[actor if events.message is None else int(events.message.node[k])])

    def merge_(self, state: State, j: int, i: int, width: int, time: float, before: Tensor | None = None) -> None:
        """Gives row j, a node or a slot, the versions of row i, or those that row i had before."""
        found = self.row(state, i, width) if before is None else before
        if j >= state.nodes:
            self.row(state, j, width).copy_(found)
        else:
            self._gain_(state, j, found.clone(), time)

    def _update_(self, state: State, r: int, i: int, count: int, time: float) -> None:
        """Lets node i train row r: its own, or the slot of a message."""
        start = (state.x if state.read is None else state.read)[r]
        row, total = self.trained(state, start, r, i, count, time)
        state.x[r] = row if state.read is None else state.x[r] + (row - start)
        if state.read is not None:
            state.read[r] = state.x[r]
        if self.quarantine and not state.x[r].isfinite().all():
            total = total * torch.nan
        self.note_(state, i, total, time)

    def note_(self, state: State, i: int, loss: Tensor, time: float) -> None:
        """Takes note of an update of node i: of a loss that is not finite, and of one more version of its source."""
        if not loss.isfinite():
            state.diverged_at[i] = min(time, float(state.diverged_at[i]))
        if self.own[i] >= 0:
            state.versions[self.own[i]] += 1
            state.updated[i] += time

    def gradient(
        self, x: Float[Tensor, " p"], i: int, count: int, steps: slice = slice(None)
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, ""]]:
        """Returns gradient and value, at a model, of the mean loss of all examples of some steps of an update of i."""
        point, losses, sizes = x.detach().clone().requires_grad_(), list[Tensor](), list[int]()
        for examples in self.problem.draw(np.array([i]), np.array([count]))[0, steps]:
            if self._is_missing(examples):
                break
            losses.append(self._loss(point, examples))
            size = int((examples[: examples.numel() - self.problem.sampler.keyed] >= 0).sum())
            sizes.append(self.problem.sampler.expected or size)
        total = torch.stack([size * loss for size, loss in zip(sizes, losses, strict=True)]).sum() / sum(sizes)
        (g,) = torch.autograd.grad(total, point)
        if self.rates.clip is not None:
            g = g * (self.rates.clip[i] / (g.norm() + 1e-6)).clamp(max=1.0)
        decay = 0.0 if self.rates.weight_decay is None else self.rates.weight_decay[i]
        return g + decay * x, total.detach()

    def own_loss(self, i: int, x: Float[Tensor, " p"]) -> Float[Tensor, ""]:
        """Returns the mean loss of a model, in evaluation mode, over all examples that node i owns."""
        sampler = self.problem.sampler
        rows = torch.from_numpy(sampler.rows[sampler.offsets[i] : sampler.offsets[i + 1]])
        features, targets = self.problem.rows(rows.to(x.device))
        with torch.no_grad():
            return self.problem.criterion.mean(self.problem.stack.score(x, features, stacked=False), targets)

    def trained(
        self,
        state: State,
        start: Float[Tensor, " p"],
        r: int,
        i: int,
        count: int,
        time: float,
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, ""]]:
        """Returns what local SGD of node i makes of a model, and its loss; the buffers of row r change with it."""
        pieces = [nn.Parameter(piece.clone()) for piece in start.split(self._sizes(start))]
        lr = self.step_size(i, count, time)
        if self.rates.optimizer is not None:
            return self._optimized(state, start, r, i, count, lr)
        optimizer = self._optimizer(state, r, i, pieces, lr)
        index = self.problem.draw(np.array([i]), np.array([count]))[0]
        total = torch.zeros((), dtype=start.dtype, device=start.device)
        for examples in index:
            if self._is_missing(examples):
                break
            optimizer.zero_grad()
            kept = dict[str, Tensor]()
            loss = self._slope_(pieces, examples, start, i, kept)
            if self.rates.clip is not None:
                nn.utils.clip_grad_norm_(pieces, float(self.rates.clip[i]))
            self._age_(state, r, i, optimizer)
            self._keep_(state, optimizer)
            optimizer.step()
            self.problem.stack.write_(pieces[0].detach(), kept)
            total += loss.detach()
        if state.v is not None:
            state.v[r] = torch.cat([optimizer.state[piece]["momentum_buffer"] for piece in pieces])
        return torch.cat([piece.detach() for piece in pieces]), total

    def step_size(self, i: int, count: int, time: float) -> float:
        """Returns the step size of an update of node i."""
        node, at = torch.tensor([i]).to(self.rates.lr.device), torch.tensor([time], dtype=torch.float64)
        factor = self.rates.factor(node, torch.tensor([count]).to(node), at.to(node.device))
        lr = self.rates.lr[i]
        return float(lr if factor is None else (lr.double() * factor[0]).to(lr.dtype))

    def _optimized(
        self, state: State, start: Float[Tensor, " p"], r: int, i: int, count: int, lr: float
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, ""]]:
        """Returns the same by an optimizer: PyTorch's own where there is one, else its step on one row."""
        method, x, total = self.rates.optimizer, nn.Parameter(start.clone()), torch.zeros_like(start[0])
        assert method is not None
        settings = {name: float(value[i]) for name, value in self.rates.own.items()}
        decay = 0.0 if self.rates.weight_decay is None else float(self.rates.weight_decay[i])
        theirs, names = method.serial([x], lr, settings | {"decay": decay}), type(method).fields
        if theirs is not None and any(bool(state.fields[name][r].any()) for name in names):
            kept = {name.replace("steps", "step"): state.fields[name][r].clone() for name in names}
            theirs.state[x] = kept | {"step": kept["step"].squeeze().float()}
        for examples in self.problem.draw(np.array([i]), np.array([count]))[0]:
            if self._is_missing(examples):
                break
            x.grad, kept = None, dict[str, Tensor]()
            loss = self._slope_([x], examples, start, i, kept)
            if self.rates.clip is not None:
                nn.utils.clip_grad_norm_([x], float(self.rates.clip[i]))
            if theirs is not None:
                theirs.step()
            else:
                self._own_step_(state, x, r, lr, settings, decay)
            self.problem.stack.write_(x.detach(), kept)
            total += loss.detach()
        if theirs is not None:
            for name in names:
                state.fields[name][r] = theirs.state[x][name.replace("steps", "step")]
        return x.detach(), total

    def _own_step_(
        self, state: State, x: nn.Parameter, r: int, lr: float, settings: dict[str, float], decay: float
    ) -> None:
        """Makes the step of an optimizer that PyTorch does not have on one row, in place."""
        method = self.rates.optimizer
        assert method is not None
        assert x.grad is not None
        kept = {name: state.fields[name][r : r + 1] for name in type(method).fields}
        row = x.detach().unsqueeze(0)
        named = {name: row.new_tensor([[value]]) for name, value in settings.items()}
        g = x.grad.unsqueeze(0)
        if method.decays:
            named |= {"decay": row.new_tensor([[decay]])}
        else:
            g = g + decay * row
        new = dict(kept)
        x.data = method.step(row, g, new, row.new_tensor([[lr]]), **named)[0]
        for name, value in new.items():
            state.fields[name][r] = value[0]

    def _still_(self, pieces: list[nn.Parameter]) -> None:
        """Takes the gradients of running statistics away, which only a proximal term gives them."""
        for name in self.problem.stack.kept:
            assert pieces[0].grad is not None
            self.problem.stack.views(pieces[0].grad)[name].zero_()

    def _is_missing(self, examples: Int64[Tensor, " b"]) -> bool:
        """Returns whether a row does not have a step: one of an update with fewer steps than others."""
        return self.problem.sampler.uneven and bool(examples[0] < 0)

    def _loss(
        self, x: Float[Tensor, " p"], examples: Int64[Tensor, " b"], kept: dict[str, Tensor] | None = None,
        factors: Tensor | None = None,
    ) -> Float[Tensor, ""]:  # fmt: skip
        """Returns the mean loss of a model on the examples of a minibatch, each gradient some times as long.

        What forward makes of running statistics comes into `kept`.
        """
        sampler, more = self.problem.sampler, {} if factors is None else {"factors": factors}
        if sampler.keyed:
            examples, more["key"] = examples[:-1], examples[-1]
        real = examples >= 0
        if sampler.expected is None and (not sampler.keyed or bool(real.all())):
            more |= {} if factors is None else {"factors": factors[real]}
            return self.problem.loss(x, *self.problem.batch(examples[real]), kept, **more)
        whole, weights = filled(examples.unsqueeze(0), x, sampler.expected)  # so that masks are those of a whole one
        return self.problem.loss(x, *self.problem.batch(whole[0]), kept, **more, weights=weights[0])

    def _slope_(
        self, pieces: list[nn.Parameter], examples: Int64[Tensor, " b"], start: Float[Tensor, " p"], i: int,
        kept: dict[str, Tensor],
    ) -> Float[Tensor, ""]:  # fmt: skip
        """Gives the parts of a model the gradient of a minibatch, with the proximal term; returns its loss."""
        x, private = torch.cat([*pieces]), self.rates.example_clip is not None
        loss = self._loss(x, examples, kept, self._factors(x.detach(), examples, i) if private else None)
        (loss + self._pull(x, start, i)).backward()
        self._still_(pieces)
        if self.rates.noise is not None:
            size = self.problem.sampler.expected or int((examples[:-1] >= 0).sum())
            xi = float(self.rates.noise[i]) / size * normal(examples[-1:], x.numel())[0].to(x.dtype)
            for piece, part in zip(pieces, xi.split([piece.numel() for piece in pieces]), strict=True):
                assert piece.grad is not None
                piece.grad += part
        return loss

    def _factors(self, x: Float[Tensor, " p"], examples: Int64[Tensor, " b"], i: int) -> Float[Tensor, " b1"]:
        """Returns how many times as long the gradient of each example of a minibatch of node i may be."""
        assert self.rates.example_clip is not None
        point, sampler, factors = x.clone().requires_grad_(), self.problem.sampler, list[Tensor]()
        key = {"key": examples[-1]} if sampler.keyed else {}
        whole, _ = filled(examples[: examples.numel() - sampler.keyed].unsqueeze(0), x)
        features, targets = self.problem.batch(whole[0])
        for one in torch.eye(len(features), dtype=x.dtype, device=x.device):
            loss = self.problem.loss(point, features, targets, None, weights=one, **key)
            (g,) = torch.autograd.grad(loss, point)
            factors.append((self.rates.example_clip[i] / g.norm()).clamp(max=1.0))
        return torch.stack(factors)

    def _pull(self, x: Float[Tensor, " p"], start: Float[Tensor, " p"], i: int) -> Float[Tensor, ""]:
        """Returns the proximal term of node i, toward the model from which its update began."""
        strength = 0.0 if self.rates.proximal is None else float(self.rates.proximal[i])
        return strength / 2 * (x - start).square().sum()

    def _sizes(self, row: Tensor) -> list[int]:
        """Returns the sizes of what has step sizes of its own: parts of a row, or all of it."""
        return [row.numel()] if self.ages is None else self.ages.part.bincount().tolist()

    def _age_(self, state: State, r: int, i: int, optimizer: torch.optim.SGD) -> None:
        """Lets each part of row r that node i trains grow older by a step, and divides its step size by the age."""
        if state.age is not None:
            state.age[r] += 1
            for group, age in zip(optimizer.param_groups, state.age[r].tolist(), strict=True):
                group["lr"] = group["lr_of_node"] / age

    def _keep_(self, state: State, optimizer: torch.optim.SGD) -> None:
        """Gives a node without momentum the buffer 0 v + g, which torch.optim.SGD leaves as it was.

        With a model that is sent it comes to nodes that have momentum.
        """
        for group in optimizer.param_groups if state.v is not None else []:
            (piece,) = group["params"]
            if group["momentum"] == 0:
                optimizer.state[piece]["momentum_buffer"] = piece.grad + group["weight_decay"] * piece.detach()

    def _optimizer(self, state: State, r: int, i: int, pieces: list[nn.Parameter], lr: float) -> torch.optim.SGD:
        momentum, decay = (0.0 if r is None else float(r[i]) for r in (self.rates.momentum, self.rates.weight_decay))
        nesterov = self.rates.nesterov and momentum > 0
        groups = [{"params": [piece], "lr_of_node": lr} for piece in pieces]
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov)
        if state.v is not None:
            for piece, buffer in zip(pieces, state.v[r].split(self._sizes(state.v[r])), strict=True):
                optimizer.state[piece]["momentum_buffer"] = buffer.clone()
        return optimizer
