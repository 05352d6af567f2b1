"""Where a planner stands between two decisions, and its training between two steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ode_rl.agents.planners import Warm
from ode_rl.errors import UsageError


class PlanState(NamedTuple):
    """What `predict` carries from call to call: the plans, the number of the call for its noise, and how
    many plans were scored so far per robot."""

    warm: Warm
    calls: int
    scored: int = 0


class Progress(NamedTuple):
    """Where `learn` is between two steps, row by row of the environments.

    Observations ``obs [n, O]``, `starts` of episodes ``[n]``, the state of the planner, and what is left of
    the random actions ``[T, n, A]`` of the warm-up.
    """

    obs: npt.NDArray[Any]
    starts: npt.NDArray[np.bool_]
    plan: PlanState | None = None
    random_plan: Tensor | None = None

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The parts that a checkpoint keeps; observations come from the environments."""
        found = {"progress": {"starts": torch.from_numpy(self.starts)}}
        if self.plan is not None:
            found["plan"] = dict(self.plan.warm._asdict())
        if self.random_plan is not None:
            found["progress"]["random_plan"] = self.random_plan
        return found

    @classmethod
    def of(
        cls, parts: dict[str, dict[str, Tensor]], plan: dict[str, int] | None, device: torch.device
    ) -> Progress:
        """What `tensors` gave; without observations."""
        kept = parts.get("progress", {"starts": torch.zeros(0, dtype=torch.bool)})
        starts, state = kept["starts"].numpy(), None
        if plan is not None:
            warm = Warm(**{name: tensor.to(device) for name, tensor in parts["plan"].items()})
            state = PlanState(warm, int(plan["calls"]), int(plan["scored"]))
        return cls(np.zeros((len(starts), 0)), starts, state, kept.get("random_plan"))

    def check(self, n: int, knots: int, n_action: int) -> None:
        """Refuse what cannot have been the progress of `n` environments.

        Raises:
            UsageError: naming the shapes.
        """
        plans = [] if self.plan is None else list(self.plan.warm)
        tensors = plans if self.random_plan is None else [*plans, self.random_plan]
        found = [self.starts.shape, *(tuple(each.shape) for each in tensors)]
        fits = found[0] == (n,) and self.starts.dtype == bool
        fits &= all(bool(each.isfinite().all()) and each.dtype == torch.float32 for each in tensors)
        fits &= all(each[:1] == (n,) and each[-2:] == (knots, n_action) for each in found[1 : 1 + len(plans)])
        fits &= self.random_plan is None or found[-1][1:] == (n, n_action)
        if not fits:
            remedy = "Restore the file or train again."
            raise UsageError(f"the progress of {n} environments, {knots} knots", found, remedy)
