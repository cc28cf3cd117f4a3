"""--zero-stage 1 of train_gpt2.py: each rank keeps the optimizer's state of some parameters and updates these (ZeRO-1,
Rajbhandari et al., arXiv 1910.02054), by PyTorch's ZeroRedundancyOptimizer. It deals out whole parameters; train_gpt2
cuts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llmc.ranks import place_in_group

States: TypeAlias = Mapping[Tensor, dict[str, Any]]  # by parameter


def optimizer_of(
    kind: type[torch.optim.Optimizer], groups: list[dict[str, Any]], stage: int, **defaults: Any
) -> torch.optim.Optimizer:
    """An optimizer of that kind, whose state is divided if there are several ranks and the stage is 1."""
    if stage and place_in_group()[1] > 1:
        from torch.distributed.optim import ZeroRedundancyOptimizer  # takes a second or two

        return ZeroRedundancyOptimizer(groups, optimizer_class=kind, **defaults)
    return kind(groups, **defaults)


def own_part(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer of the parameters that this rank updates."""
    part: torch.optim.Optimizer = getattr(optimizer, "optim", optimizer)
    return part


def whole_state(optimizer: torch.optim.Optimizer) -> States:
    """The state of all parameters, on rank 0; nothing on others. All ranks call this together."""
    states: States = optimizer.state
    if not hasattr(optimizer, "consolidate_state_dict"):
        return states
    optimizer.consolidate_state_dict(to=0)
    if place_in_group()[0] != 0:
        return {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {parameters[i]: state for i, state in optimizer.state_dict()["state"].items()}
