"""The return of a policy in a learned world: its gradient against finite differences, its value by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ode_rl.agents.actor import MLPActor, ODEActor, make_actor
from ode_rl.agents.model_gradient import (
    Course,
    Discount,
    constant,
    decoupled,
    imagined,
    mean_over_horizons,
)
from ode_rl.types import Segment
from ode_rl.world_model import WorldModel, WorldModelConfig
from tests.known_worlds import known_world

E, N, K, N_OBS, A, M = 2, 3, 6, 3, 2, 4
DISCOUNT = Discount(0.8, 0.1)
KINDS = ["mlp", "ode"]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def world(termination: str) -> WorldModel:
    """A world in float64 with odd weights that ends now and then."""
    config = WorldModelConfig(n_members=E, hidden=(16,), head_hidden=(8,), termination=termination)
    model = WorldModel(N_OBS, A, 0.1, config, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.add_(0.5 * draw(*parameter.shape, seed=seed))
    model.ends = True
    return model


def actor(kind: str) -> MLPActor | ODEActor:
    made = make_actor(kind, N_OBS, A, (8,), M, 0.1, torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        for seed, parameter in enumerate(made.parameters()):
            parameter.add_(0.3 * draw(*parameter.shape, seed=50 + seed))
    return made


def intervals() -> Tensor:
    return 0.05 + 0.1 * torch.rand(K, E, N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def value(z: Tensor) -> Tensor:
    """Any smooth value of states ``[*, O] -> [*]``."""
    return (z * torch.tensor([1.0, -0.5, 2.0], dtype=z.dtype)).sin().sum(-1)


def objective(course: Course) -> Tensor:
    return mean_over_horizons(course, value(course.z), 0.7)[0].mean()


def check_gradient(made: MLPActor | ODEActor, found: Tensor, again: Callable[[], Tensor]) -> None:
    """Compare the gradient of `found` along some directions with central differences of `again()`."""
    parameters = list(made.parameters())
    gradient = torch.autograd.grad(found, parameters, allow_unused=True)
    assert any(g is not None and float(g.abs().max()) > 1e-4 for g in gradient)
    for seed in range(3):
        way = [draw(*p.shape, seed=90 + 20 * seed + i) for i, p in enumerate(parameters)]
        slope = sum(float((g * w).sum()) for g, w in zip(gradient, way, strict=True) if g is not None)
        ends, h = [], 1e-5
        for sign in (1, -2, 1):
            with torch.no_grad():
                for p, w in zip(parameters, way, strict=True):
                    p += sign * h * w
                ends.append(float(again()))
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("termination", ["hazard", "boundary"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_imagination_is_that_of_the_models_return(kind: str, termination: str) -> None:
    model, made, dt = world(termination), actor(kind), intervals()
    z, memory = draw(E, N, N_OBS, seed=4), draw(E, N, made.n_memory, seed=5)

    def again() -> Tensor:
        return objective(imagined(model, made, z, memory, dt, DISCOUNT))

    check_gradient(made, again(), again)


def recorded() -> Segment:
    terminated = torch.zeros(E, N, K, dtype=torch.bool)
    terminated[0, 1, -1] = True
    return Segment(
        obs=draw(E, N, K + 1, N_OBS, seed=6),
        action=draw(E, N, K, A, seed=7).clamp(-1, 1),
        reward=draw(E, N, K, seed=8),
        dt=intervals().movedim(0, -1),
        terminated=terminated,
        mask=torch.ones(E, N, K, dtype=torch.float64),
    )


class Corrected:
    """The return in the model that is corrected by constants, so that a policy repeats the record.

    Written for this test from the equations, step by step: no trick with derivatives.
    """

    def __init__(self, model: WorldModel, made: MLPActor | ODEActor, segment: Segment) -> None:
        self.model, self.actor, self.segment = model, made, segment
        self.memory = draw(E, N, made.n_memory, seed=5)
        self.constants: list[tuple[Tensor, ...]] = []
        memory = self.memory
        with torch.no_grad():
            for k in range(K):
                z, dt, taken = segment.obs[:, :, k], segment.dt[:, :, k], segment.action[:, :, k]
                action, memory = made(z, dt, memory)
                end = model.step(z, taken, dt)
                assert end.log_survival is not None
                lives = (~segment.terminated[:, :, k]).double()
                self.constants.append(
                    (
                        taken - action,
                        segment.obs[:, :, k + 1] - end.z,
                        segment.reward[:, :, k] - end.reward,
                        lives - end.log_survival.exp(),
                    )
                )

    @torch.no_grad()
    def __call__(self) -> Tensor:
        z, memory = self.segment.obs[:, :, 0], self.memory
        states, rewards, onward = [z], [], []
        for k, (noise, missed, unpaid, alive) in enumerate(self.constants):
            dt = self.segment.dt[:, :, k]
            action, memory = self.actor(z, dt, memory)
            end = self.model.step(z, action + noise, dt)
            assert end.log_survival is not None
            z = end.z + missed
            weight, fade = DISCOUNT.over(dt)
            states.append(z)
            rewards.append(weight * (end.reward + unpaid))
            onward.append(fade * (end.log_survival.exp() + alive))
        mask, ok = torch.ones(K, E, N).double(), torch.ones(E, N, dtype=torch.bool)
        return objective(Course(torch.stack(states), torch.stack(rewards), torch.stack(onward), mask, ok))


@pytest.mark.parametrize("termination", ["hazard", "boundary"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_decoupled_gradient_is_that_of_the_return_in_the_corrected_model(
    kind: str, termination: str
) -> None:
    model, made, segment = world(termination), actor(kind), recorded()
    again = Corrected(model, made, segment)
    found = objective(decoupled(model, made, again.memory, segment, DISCOUNT))
    assert float(found.detach()) == pytest.approx(float(again()), rel=1e-12)
    check_gradient(made, found, again)


def test_decoupled_numbers_are_those_of_the_record() -> None:
    segment, made = recorded(), actor("mlp")
    course = decoupled(world("hazard"), made, draw(E, N, 0, seed=0), segment, DISCOUNT)
    torch.testing.assert_close(course.z.movedim(0, 2), segment.obs)
    weight, fade = DISCOUNT.over(segment.dt)
    torch.testing.assert_close(course.reward.movedim(0, 2), weight * segment.reward)
    torch.testing.assert_close(course.onward.movedim(0, 2), fade * ~segment.terminated)


def course(reward: list[float], onward: list[float], mask: list[float] | None = None) -> Course:
    """One start; the states do not matter."""
    k = len(reward)
    column = [torch.tensor(x).reshape(k, 1, 1) for x in (reward, onward, mask or [1.0] * k)]
    return Course(torch.zeros(k + 1, 1, 1, 1), *column, torch.ones(1, 1, dtype=torch.bool))


def means(found: Course, values: list[float], weight: float = 1.0) -> list[float]:
    return mean_over_horizons(found, torch.tensor(values).reshape(-1, 1, 1), weight).flatten().tolist()


def test_targets_average_the_returns_of_all_horizons() -> None:
    # From the second state: 2 + 0.25 * 20. From the first: 1 + 0.5 * 10, and 1 + 0.5 * (2 + 0.25 * 20).
    assert means(course([1.0, 2.0], [0.5, 0.25]), [99.0, 10.0, 20.0]) == pytest.approx([(6 + 4.5) / 2, 7.0])
    # With half the weight of the value: 1 + 2.5 and 1 + 0.5 * (2 + 2.5).
    assert means(course([1.0, 2.0], [0.5, 0.25]), [0.0, 10.0, 20.0], 0.5)[0] == pytest.approx(
        (3.5 + 3.25) / 2
    )


def test_nothing_comes_after_the_end_of_a_task() -> None:
    found = course([1.0, 2.0, 4.0], [0.5, 0.0, 0.5])
    # It ends in the second interval: horizons 1 + 0.5 * 10, then twice 1 + 0.5 * 2.
    assert means(found, [0.0, 10.0, 1e6, 1e6])[0] == pytest.approx((6 + 2 + 2) / 3)


def test_intervals_that_were_not_recorded_count_for_nothing() -> None:
    whole, cut = course([1.0, 2.0], [0.5, 0.25]), course([1.0, 2.0, 7.0], [0.5, 0.25, 1.0], [1.0, 1.0, 0.0])
    assert means(cut, [0.0, 10.0, 20.0, 50.0]) == pytest.approx([*means(whole, [0.0, 10.0, 20.0]), 0.0])


def test_a_steady_reward_is_worth_the_same_however_it_is_cut_into_intervals() -> None:
    model = known_world(lambda z, a: 0 * z, lambda z, a: 3.0 + 0 * z, n_members=1)
    made = make_actor("mlp", 1, 1, (4,), 0, 0.1, torch.Generator()).double()
    z = torch.zeros(1, 1, 1).double()
    rho, native = 0.7, 0.1
    # Per native step it pays 0.3; for ever 0.3 / (1 - exp(-rho native)).
    v = 0.3 / -math.expm1(-rho * native)
    for cut in ([0.1] * 4, [0.4], [0.05, 0.25, 0.1]):
        dt = torch.tensor(cut).double().reshape(-1, 1, 1)
        went = imagined(model, made, z, z[..., :0], dt, Discount(rho, native))
        found = mean_over_horizons(went, torch.full((len(cut) + 1, 1, 1), v).double())
        torch.testing.assert_close(found, torch.full_like(found, v))


def test_what_is_held_constant_passes_gradients_on_and_learns_nothing() -> None:
    model, made = world("hazard"), actor("mlp")
    with constant(model):
        went = imagined(model, made, draw(E, N, N_OBS, seed=4), draw(E, N, 0, seed=5), intervals(), DISCOUNT)
        objective(went).backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is not None for p in made.parameters())
