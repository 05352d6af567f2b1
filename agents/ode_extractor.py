"""A features extractor of continuous depth for the algorithms of Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from torch import Tensor, nn

from ode_rl.errors import UsageError
from ode_rl.fixed_step import FIXED_STEP
from ode_rl.integrate import integrate_held
from ode_rl.types import Held, Solver


class ODEExtractor(BaseFeaturesExtractor):
    """Features ``z(1)`` of the flow ``dz/ds = f(z)`` from ``z(0) = tanh(W obs)``, in `n_steps` equal steps.

    ``SAC("MlpPolicy", env, policy_kwargs={"features_extractor_class": ODEExtractor})``, and so TD3, PPO and
    TQC. One network f, with one hidden layer, acts all along (Chen et al., 2018, arXiv 1806.07366): depth
    costs time, `n_steps` times the stages of `method` (euler 1, midpoint 2, rk4 4), but no parameters. The
    last layer of f starts small, so that untrained features are near z(0). A Dict goes through the
    `CombinedExtractor` of Stable-Baselines3 first. Output ``[N, features_dim]``.

    Raises:
        UsageError: for sizes below one, or a method whose steps are not fixed.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_dim: int = 64,
        hidden_dim: int = 64,
        n_steps: int = 4,
        method: str = "midpoint",
    ) -> None:
        for name, value in (("features_dim", features_dim), ("hidden_dim", hidden_dim), ("n_steps", n_steps)):
            if value < 1:
                raise UsageError(f"{name} >= 1", value, f"Write {name}={4 if name == 'n_steps' else 64}.")
        known = [name for name, tableau in FIXED_STEP.items() if not tableau.partitioned]
        if method not in known:
            raise UsageError(f"a method among {', '.join(known)}", repr(method), "Write method='midpoint'.")
        super().__init__(observation_space, features_dim)
        is_dict = isinstance(observation_space, spaces.Dict)
        self.flat = (CombinedExtractor if is_dict else FlattenExtractor)(observation_space)  # type: ignore[arg-type]
        self.encode = nn.Sequential(nn.Linear(self.flat.features_dim, features_dim), nn.Tanh())
        self.field = nn.Sequential(
            nn.Linear(features_dim, hidden_dim), nn.Tanh(), nn.Linear(hidden_dim, features_dim)
        )
        with torch.no_grad():
            for parameter in self.field[-1].parameters():
                parameter.mul_(0.1)
        self.solver = Solver(method, max_step=1 / n_steps)

    def forward(self, observations: Any) -> Tensor:
        z = self.encode(self.flat(observations))
        held = Held(self.field, tuple(self.field.parameters()))
        return integrate_held(held, z, z.new_ones(()), self.solver).z
