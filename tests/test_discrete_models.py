"""The discrete rivals of the ODE: same data, same heads, one flag."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ode_rl.buffer import ReplayBuffer
from ode_rl.consistency import check_solver_consistency
from ode_rl.errors import UsageError
from ode_rl.fit import FitConfig, fit
from ode_rl.names import DISCRETE_MODELS
from ode_rl.types import Transition
from ode_rl.world_model import WorldModel, WorldModelConfig

NATIVE = 0.1


def made(structure: str) -> WorldModel:
    config = WorldModelConfig(n_members=2, hidden=(32, 32), head_hidden=(16,), structure=structure)
    return WorldModel(1, 1, NATIVE, config, torch.Generator().manual_seed(0))


def decay_data(n: int, dts: tuple[float, ...], seed: int) -> ReplayBuffer:
    """Transitions of ``dx/dt = -x + a`` (closed form) with reward ``dt * x0``, episodes of one step."""
    rng = np.random.default_rng(seed)
    buffer = ReplayBuffer(n, 1, 1)
    for _ in range(n):
        x, a, dt = rng.uniform(-1, 1), rng.uniform(-1, 1), float(rng.choice(dts))
        after = a + (x - a) * np.exp(-dt)
        buffer.add(Transition(np.array([x]), np.array([a]), dt * x, np.array([after]), dt, False, True))
    return buffer


def error_at(model: WorldModel, dt: float) -> float:
    x, a = torch.linspace(-0.9, 0.9, 20), torch.linspace(0.8, -0.8, 20)
    truth = a + (x - a) * np.exp(-dt)
    z: Tensor = model.step(
        x[None, :, None].expand(2, -1, -1), a[None, :, None].expand(2, -1, -1), torch.tensor(dt)
    ).z
    return float((z[..., 0] - truth).detach().square().mean().sqrt() / (truth - x).std())


def test_residual_mlp_predicts_the_same_change_whatever_the_interval() -> None:
    model = made("residual-mlp")
    z, a = torch.rand(2, 5, 1), torch.rand(2, 5, 1)
    short, long = (model.step(z, a, torch.tensor(dt)) for dt in (0.01, 1.0))
    torch.testing.assert_close(short.z, long.z)
    torch.testing.assert_close(short.reward, long.reward)


def test_dt_mlp_sees_the_interval_of_every_sample() -> None:
    model = made("dt-mlp")
    z, a = torch.rand(2, 1, 1).expand(2, 3, 1), torch.rand(2, 1, 1).expand(2, 3, 1)
    together = model.step(z, a, torch.tensor([0.05, 0.1, 0.4])).z
    alone = [model.step(z[:, :1], a[:, :1], torch.tensor(dt)).z for dt in (0.05, 0.1, 0.4)]
    torch.testing.assert_close(together, torch.cat(alone, 1))
    assert not torch.allclose(together[:, 0], together[:, 2])


@pytest.mark.parametrize("structure", DISCRETE_MODELS)
def test_the_first_interval_of_a_roll_is_a_step(structure: str) -> None:
    model = made(structure)
    z, plan, dt = torch.rand(2, 4, 1), torch.rand(2, 4, 3, 1), torch.tensor([0.1, 0.2, 0.05])
    first = next(iter(model.roll(z, plan, dt)))
    torch.testing.assert_close(first.z, model.step(z, plan[..., 0, :], dt[0]).z)


def test_gru_dt_alone_remembers_the_intervals_before() -> None:
    z, plan, dt = torch.rand(2, 4, 1), torch.rand(2, 4, 2, 1), torch.tensor([0.1, 0.2])
    for structure in DISCRETE_MODELS:
        model = made(structure)
        first, second = model.roll(z, plan, dt)
        alone = model.step(first.z, plan[..., 1, :], dt[1])
        assert torch.allclose(second.z, alone.z, atol=1e-7) == (structure != "gru-dt"), structure


def test_what_sees_the_interval_learns_mixed_ones_where_the_blind_rival_cannot() -> None:
    buffer = decay_data(600, (0.05, 0.1, 0.4), seed=1)
    config = FitConfig(updates=400, warm_start_updates=0, segment_length=1, batch_size=64)
    errors = {}
    for structure in DISCRETE_MODELS:
        model = made(structure)
        fit(model, buffer, config, np.random.default_rng(0), "cpu")
        errors[structure] = max(error_at(model, dt) for dt in (0.05, 0.4))
    for sees in ("dt-mlp", "gru-dt"):
        assert errors[sees] < 0.1
        assert errors["residual-mlp"] > 3 * errors[sees]


def test_a_discrete_model_has_no_solver_to_check() -> None:
    segments = decay_data(20, (0.1,), seed=0).segments(np.arange(10), 1)
    with pytest.raises(UsageError, match="vector field"):
        check_solver_consistency(made("residual-mlp"), segments)
