"""Acting with changed parameters: whole motions differ, not single actions.

Source: Plappert et al. 2018 (arXiv 1706.01905). The changes themselves, and for how long they hold, are part
of where a training is (`Progress`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ode_rl.agents.actor import MLPActor
from ode_rl.agents.policy_progress import Progress
from ode_rl.agents.policy_search import Record


class Afresh(NamedTuple):
    """How often a policy is drawn anew instead of a change, how wide, and for how many seconds."""

    probability: float
    std: float
    seconds: float


class ParameterNoise:
    """Changes of the parameters of `actor`, each `size` standard deviations, that last for `seconds`."""

    def __init__(self, actor: object, size: float, seconds: float) -> None:
        if not isinstance(actor, MLPActor):
            raise RuntimeError("changed parameters of an actor that does not take them")
        self.actor, self.size, self.seconds = actor, size, seconds

    def act(self, now: Progress, z: Tensor, dt: Tensor) -> Tensor:
        """Scaled actions ``[n, A]`` of the actor, changed in each row as there, at ``z [n, O]``."""
        vector, changes = self.actor.vector(), self._changes(now)
        crowd = self.actor.crowd(vector + self.size * changes.to(vector))
        action: Tensor = crowd(z[:, None], dt[:, None], z[:, None, :0])[0]
        return action[:, 0]

    def with_trials(
        self, now: Progress, anew: Tensor, record: Record, afresh: Afresh, rng: np.random.Generator
    ) -> Progress:
        """With what a search wants to be tried, and policies drawn `afresh`, in place of some new changes."""
        if now.left is None or now.earned is None:
            raise RuntimeError("trials without changes of an actor's parameters")
        changes, left, earned = self._changes(now).clone(), now.left.clone(), now.earned.clone()
        own = self.actor.vector()
        for row in anew.nonzero().flatten().tolist():
            wanted = record.next_untried()
            if wanted is None and afresh.probability and rng.random() < afresh.probability:
                drawn = afresh.std * torch.from_numpy(rng.standard_normal(len(own)))
                wanted = drawn.to(own)
                left[row] = afresh.seconds
                if afresh.seconds < self.seconds:
                    earned[row] = -math.inf  # a moment says little: it does not go on record
            if wanted is not None:
                changes[row] = ((wanted - own) / self.size).to(changes)
        return now._replace(changes=changes, left=left, earned=earned)

    def put_on_record(self, now: Progress, over: Tensor, record: Record) -> None:
        """Changed parameters whose time is over: what they earned is where a search begins."""
        if now.earned is None:
            raise RuntimeError("a record without what was earned")
        own, changes = self.actor.vector(), self._changes(now)
        for row in over.nonzero().flatten().tolist():
            changed = own + self.size * changes[row].to(own)
            record.add(changed, float(now.earned[row]) / self.seconds)

    def _changes(self, now: Progress) -> Tensor:
        if now.changes is None:
            raise RuntimeError("changed parameters before a change was drawn")
        return now.changes
