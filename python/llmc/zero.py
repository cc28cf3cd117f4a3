"""--zero-stage 1 of train_gpt2.py: each rank keeps and updates its part of the optimizer's state (ZeRO-1, Rajbhandari
et al., arXiv 1910.02054)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmc.checkpoint import Rules, load_training_state
from llmc.config import Config
from llmc.ranks import place_in_group

BUCKET = 1 << 22  # elements that are exchanged together, or one larger parameter
State: TypeAlias = Mapping[Tensor, Mapping[str, Any]]  # of a torch optimizer of the pieces
Names: TypeAlias = Mapping[str, str]  # of a tensor in a checkpoint -> in that state: "m" -> "exp_avg"


class Shards:
    """Every parameter is cut into one piece for each rank, of equal lengths except the last ones: the updates of AdamW
    and SGD are of single elements. PyTorch's ZeroRedundancyOptimizer deals out whole parameters, of which an embedding
    may be the most. With stage 0, or one process, a piece is the parameter itself.

    own     the piece of this rank, by parameter: a view, so that an optimizer of the pieces updates the parameters
    """

    def __init__(self, model: nn.Module, config: Config) -> None:
        self.rank, self.ranks = place_in_group() if config.zero_stage else (0, 1)
        self._named, self._has_masters = dict(model.named_parameters()), config.dtype == "bf16"
        self.own = {p: p if self.ranks == 1 else nn.Parameter(self._piece(p.detach())) for p in self._named.values()}
        self._buckets: list[list[nn.Parameter]] = [[]]
        for parameter in self.own:
            if sum(p.numel() for p in self._buckets[-1]) + parameter.numel() > BUCKET:
                self._buckets.append([])
            self._buckets[-1].append(parameter)

    def _length(self, parameter: Tensor) -> int:
        """Of a piece, except the last ones."""
        elements: int = parameter.numel()
        return -(-elements // self.ranks)

    def _piece(self, whole: Tensor) -> Tensor:
        length = self._length(whole)
        return whole.view(-1)[self.rank * length : (self.rank + 1) * length]

    def _padded(self, parameter: Tensor, piece: Tensor) -> Tensor:
        """All ranks exchange the same number of elements."""
        return nn.functional.pad(piece.detach(), (0, self._length(parameter) - piece.numel()))

    def take_gradients(self) -> None:
        """Gives the pieces their gradients, before an update."""
        if self.ranks > 1:
            for parameter, own in self.own.items():
                own.grad = None if parameter.grad is None else self._piece(parameter.grad.contiguous())

    def exchange(self) -> None:
        """All ranks get what the others updated."""
        if self.ranks == 1:
            return
        for own in self.own.values():
            own.grad = None  # would keep the gradients in memory during the next backward pass
        for bucket in filter(None, self._buckets):
            mine = torch.cat([self._padded(parameter, self.own[parameter]) for parameter in bucket])
            everyone = mine.new_empty(self.ranks, mine.numel())
            dist.all_gather(list(everyone), mine)  # 2.13 warns about the name all_gather_into_tensor
            pieces = everyone.split([self._length(parameter) for parameter in bucket], dim=1)
            for parameter, piece in zip(bucket, pieces, strict=True):
                parameter.data.view(-1).copy_(piece.reshape(-1)[: parameter.numel()])

    def whole_state(self, state: State, names: Names) -> dict[str, Tensor]:
        """The tensors of a checkpoint, by name, on rank 0; all ranks call this together."""
        return {name: self._whole(parameter, piece) for name, parameter, piece in self._pieces(state, names)}

    def load(self, folder: Path, rules: Rules, state: State, names: Names) -> dict[str, Any]:
        """Takes the tensors of a checkpoint; returns the state of its run."""
        pieces = self._pieces(state, names)
        fill = {name: functools.partial(self._fill, parameter, piece) for name, parameter, piece in pieces}
        of_run = load_training_state(folder, fill, rules)
        self.exchange()  # each rank took its pieces of the masters only
        return of_run

    def _pieces(self, state: State, names: Names) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
        """Of the optimizer's tensors of a checkpoint: name, parameter, this rank's piece."""
        for name, parameter in self._named.items():
            own = self.own[parameter]
            for short, long in names.items():
                yield f"{short}.{name}", parameter, state[own][long]
            if self._has_masters:
                yield "master." + name, parameter, own.detach()

    def _whole(self, parameter: nn.Parameter, piece: Tensor) -> Tensor:
        """On rank 0, the tensor like the parameter of which all ranks have pieces."""
        if self.ranks == 1:
            return piece
        mine = self._padded(parameter, piece)
        everyone = mine.new_empty(self.ranks, mine.numel()) if self.rank == 0 else None
        dist.gather(mine, None if everyone is None else list(everyone), 0)
        if everyone is None:
            return piece
        return everyone.view(-1)[: parameter.numel()].view_as(parameter).cpu()  # a GPU may not hold all of the state

    def _fill(self, parameter: nn.Parameter, piece: Tensor, value: Tensor) -> None:
        """Copies a value of the whole tensor, which may lack the parameter's last rows, into the piece."""
        if self.ranks == 1:
            piece[: len(value)].copy_(value)
            return
        begin = self.rank * self._length(parameter)
        part = value.reshape(-1)[begin : begin + piece.numel()]
        piece[: len(part)].copy_(part)
