"""Policies with a continuous-time memory for `RecurrentPPO` of sb3-contrib."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from gymnasium import spaces
from torch import nn

from ode_rl.agents.cfc import CfCCell
from ode_rl.agents.gru_ode import GRUODECell
from ode_rl.agents.recurrence import Recurrence
from ode_rl.agents.timed_features import REMEDY, TimedFeatures
from ode_rl.errors import UsageError

if TYPE_CHECKING:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

CONTRIB = "Run pip install 'ode-rl[contrib]'."


class NotInstalled:
    """In the place of a policy of sb3-contrib where that is not installed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UsageError("the package sb3-contrib for recurrent policies", "none", CONTRIB)


# So that the module can be imported, and looks the same to type checkers, without the package.
try:
    contrib: Any = import_module("sb3_contrib.ppo_recurrent")
    RecurrentBase: Any = contrib.MlpLstmPolicy
except ImportError:
    contrib, RecurrentBase = None, NotInstalled


class ContinuousTimePolicy(RecurrentBase):
    """What `CfCPolicy` and `GRUODEPolicy` share: an actor and a critic whose memory knows the time.

    ``RecurrentPPO("CfCPolicy", TimeAware(env), policy_kwargs={"lstm_hidden_size": 64})`` after ``import
    ode_rl.agents.recurrent_policy``, or with the class instead of its name. Arguments are those of
    `MlpLstmPolicy`, for the memory too (`lstm_hidden_size`, `shared_lstm`, `enable_critic_lstm`), and

    - `dt_index`: the component of a vector that is the seconds since the observation before (0 at the first
      of an episode); `TimeAware` puts it last, with ``since_valid=True`` last but one. `dt_key`: the entry of
      a Dict whose first component it is.
    - `time_constant`: seconds that count as one unit of time in the cell; some two control intervals.

    The state of `predict` is ``(h, c)``, each ``[1, n, lstm_hidden_size]``; c is not used.

    Raises:
        UsageError: for observations without time, more than one layer, or a package that is not installed.
    """

    cell_arguments: ClassVar[tuple[str, ...]] = ()
    """Names of the arguments of the cell, which a saved policy keeps."""
    lstm_actor: Any
    lstm_critic: Any

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        *,
        dt_index: int = -1,
        dt_key: str = "dt",
        time_constant: float = 0.1,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        n_lstm_layers: int = 1,
        lstm_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if n_lstm_layers != 1 or lstm_kwargs:
            got = f"n_lstm_layers={n_lstm_layers}, lstm_kwargs={lstm_kwargs}"
            raise UsageError(
                "one layer without arguments of an LSTM", got, "Leave both out; set lstm_hidden_size."
            )
        self.dt_index, self.dt_key, self.time_constant = dt_index, dt_key, time_constant
        self._inner_class = features_extractor_class
        self._warned = False
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=TimedFeatures,
            **kwargs,
        )
        self.lstm_actor = self._recurrence()
        if self.lstm_critic is not None:
            self.lstm_critic = self._recurrence()
        # The optimiser of the parent class holds the weights of the LSTMs that were replaced.
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def make_features_extractor(self) -> TimedFeatures:
        """The user's extractor, which sees everything but the time, with the time behind."""
        return TimedFeatures(
            self.observation_space,
            self.dt_index,
            self.dt_key,
            self.time_constant,
            self._inner_class,
            self.features_extractor_kwargs,
        )

    @abstractmethod
    def _cell(self, input_size: int, hidden_size: int) -> nn.Module:
        """Make a `Cell`."""

    def _recurrence(self) -> Recurrence:
        n_in, n_hidden = self.features_dim, self.lstm_output_dim
        return Recurrence(self._cell(n_in, n_hidden), n_in, n_hidden)

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """Return the actions and the state for the next call, as sb3-contrib does.

        Warns once, if it is called without a state at an observation that has time behind it.

        Raises:
            UsageError: for an observation without the time that it was trained with.
        """
        seconds = self._seconds(observation)
        fresh = np.asarray(False if episode_start is None else episode_start, bool)
        if state is None and not self._warned and bool(((seconds > 0) & ~fresh).any()):
            self._warned = True
            warnings.warn(
                "a recurrent policy was called without its state in the middle of an episode and starts from "
                "an empty memory; write `action, state = model.predict(obs, state, episode_start)`.",
                stacklevel=3,
            )
        actions, after = super().predict(observation, state, episode_start, deterministic)
        return actions, after

    def _seconds(self, observation: Any) -> np.ndarray[Any, Any]:
        """The seconds since the observation before, one for each environment."""
        space = self.observation_space
        if isinstance(space, spaces.Dict):
            if not isinstance(observation, dict) or self.dt_key not in observation:
                got = ", ".join(observation) if isinstance(observation, dict) else type(observation).__name__
                raise UsageError(f"observations with the entry {self.dt_key!r} of the training", got, REMEDY)
            return np.asarray(observation[self.dt_key])[..., 0].reshape(-1)
        is_dict = isinstance(observation, dict)
        if is_dict or np.shape(observation)[-1:] != space.shape:
            got = "a Dict" if is_dict else f"a shape {np.shape(observation)}"
            want = f"observations of shape {space.shape}, seconds at {self.dt_index}, as in training"
            raise UsageError(want, got, REMEDY)
        return np.asarray(observation)[..., self.dt_index].reshape(-1)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = ("dt_index", "dt_key", "time_constant", "shared_lstm", "enable_critic_lstm")
        data: dict[str, Any] = super()._get_constructor_parameters()
        data |= {name: getattr(self, name) for name in (*own, *self.cell_arguments)}
        return data | {
            "features_extractor_class": self._inner_class,
            "share_features_extractor": self.share_features_extractor,
            "lstm_hidden_size": self.lstm_output_dim,
        }


class CfCPolicy(ContinuousTimePolicy):
    """A closed-form continuous-time memory (Hasani et al., 2022, arXiv 2106.13898), the cell of `ncps`.

    ``h' = (1 - s) f(x, h) + s g(x, h)`` with ``s = sigmoid(a(x, h) t + b(x, h))`` after a time t: no equation
    is solved. `backbone_units`, `backbone_layers` and `cfc_mode` (``"default"``, ``"pure"``, ``"no_gate"``)
    are those of `ncps.torch.CfCCell`; the others those of `ContinuousTimePolicy`.
    """

    cell_arguments = ("backbone_units", "backbone_layers", "cfc_mode")

    def __init__(
        self,
        *args: Any,
        backbone_units: int = 64,
        backbone_layers: int = 1,
        cfc_mode: str = "default",
        **kwargs: Any,
    ) -> None:
        self.backbone_units, self.backbone_layers, self.cfc_mode = backbone_units, backbone_layers, cfc_mode
        super().__init__(*args, **kwargs)

    def _cell(self, input_size: int, hidden_size: int) -> nn.Module:
        return CfCCell(input_size, hidden_size, self.cfc_mode, self.backbone_units, self.backbone_layers)


class GRUODEPolicy(ContinuousTimePolicy):
    """A gated memory that flows between observations, `GRUODECell`, in `n_substeps` an interval.

    The other arguments are those of `ContinuousTimePolicy`.
    """

    cell_arguments = ("n_substeps",)

    def __init__(self, *args: Any, n_substeps: int = 1, **kwargs: Any) -> None:
        self.n_substeps = n_substeps
        super().__init__(*args, **kwargs)

    def _cell(self, input_size: int, hidden_size: int) -> nn.Module:
        return GRUODECell(input_size, hidden_size, self.n_substeps)


if contrib is not None:
    contrib.RecurrentPPO.policy_aliases |= {"CfCPolicy": CfCPolicy, "GRUODEPolicy": GRUODEPolicy}
