"""SAC of Stable-Baselines3 whose critics may have layer normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.sac.policies import SACPolicy
from torch import nn


class LayerNormCritic(ContinuousCritic):
    """Critics with layer normalisation after every hidden linear layer.

    It bounds what they say of actions that no data shows, so that many gradient steps per environment step
    do not let them diverge. Source: Ball et al. 2023 (arXiv 2302.02948).
    """

    def __init__(
        self, *, net_arch: list[int], activation_fn: type[nn.Module] = nn.ReLU, **others: Any
    ) -> None:
        super().__init__(net_arch=net_arch, activation_fn=activation_fn, **others)
        width = int(others["features_dim"]) + get_action_dim(self.action_space)
        for i in range(self.n_critics):
            layers = create_mlp(width, 1, net_arch, activation_fn, post_linear_modules=[nn.LayerNorm])
            self.q_networks[i] = nn.Sequential(*layers)
            self.add_module(f"qf{i}", self.q_networks[i])


class DynaPolicy(SACPolicy):
    """The policy of SAC, with `LayerNormCritic` if `layer_norm_critics`."""

    def __init__(self, *args: Any, layer_norm_critics: bool = False, **kwargs: Any) -> None:
        self.layer_norm_critics = layer_norm_critics
        super().__init__(*args, **kwargs)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """A critic, or a target of one."""
        if not self.layer_norm_critics:
            return super().make_critic(features_extractor)
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return LayerNormCritic(**kwargs).to(self.device)


class DynaSAC(SAC):
    """SAC with `DynaPolicy`; `afterwards` is called each time that it has learned."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": DynaPolicy}
    afterwards: Callable[[], None] | None = None

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Learn as SAC does."""
        super().train(gradient_steps, batch_size)
        if self.afterwards is not None:
            self.afterwards()
