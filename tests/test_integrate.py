"""Integration against closed forms, finite differences and itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ode_rl.errors import UsageError
from ode_rl.fields import MLPField
from ode_rl.fixed_step import FIXED_STEP
from ode_rl.integrate import ADAPTIVE, Solution, hold, integrate, integrate_held
from ode_rl.settings import build
from ode_rl.types import Chart, Held, Solver

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")

F64 = torch.float64
ORDERS = {"euler": 1, "semi_implicit": 1, "midpoint": 2, "bosh3_fixed": 3, "rk4": 4}
TIGHT = Solver("dopri5", rtol=1e-10, atol=1e-12)


class Oscillator(nn.Module):
    """``q'' = -k q - c q' + b a``: linear, with positions and velocities, parameters k and c."""

    n_q = 1

    def __init__(self, dtype: torch.dtype = F64) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(4.0, dtype=dtype))
        self.c = nn.Parameter(torch.tensor(0.3, dtype=dtype))

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        q, v = z[..., :1], z[..., 1:]
        return torch.cat([v, -self.k * q - self.c * v + 2.0 * a], -1)


def reward_rate(z: Tensor, a: Tensor) -> Tensor:
    return torch.stack([z[..., 0] + 0.5 * z[..., 1] - a[..., 0], torch.ones_like(z[..., 0])], -1)


def exact(z: Tensor, a: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """State and integrals of `reward_rate` of the `Oscillator` after `dt`, by the matrix exponential."""
    m = torch.zeros(5, 5, dtype=F64)  # of (q, v, a, int reward, int 1); the action drives itself: a' = 0
    m[0, 1], m[1, :3] = 1.0, torch.tensor([-4.0, -0.3, 2.0], dtype=F64)
    m[3, :3] = torch.tensor([1.0, 0.5, -1.0], dtype=F64)
    start = torch.cat([z.double(), a.double(), torch.zeros(*z.shape[:-1], 2, dtype=F64)], -1)
    flow = torch.linalg.matrix_exp(m * dt.double()[..., None, None])
    end = (flow @ start.unsqueeze(-1)).squeeze(-1)
    return end[..., :2], torch.stack([end[..., 3], dt.expand(z.shape[:-1]).double()], -1)


def batch(n: int = 6, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, 2, generator=g, dtype=dtype)
    return z, torch.randn(n, 1, generator=g, dtype=dtype), 0.3 + torch.rand(n, generator=g, dtype=dtype)


def networks(dtype: torch.dtype = F64) -> tuple[MLPField, MLPField, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    field = MLPField(2, 3, 1, 3, (8, 8), g).to(dtype)
    for w in field.net.weights:
        w.data *= 3.0  # far from linear
    rates = MLPField(2, 3, 1, 2, (8,), g).to(dtype)
    for net in (field, rates):  # what normalises the state makes one held tensor depend on another
        net.z_mean += 0.5
        net.z_spread *= 2.0
    z, a = torch.randn(2, 4, 3, generator=g).to(dtype), torch.randn(2, 4, 1, generator=g).to(dtype)
    return field, rates, z, a, 0.2 + 0.3 * torch.rand(2, 4, generator=g).to(dtype)


def error_with(method: str, n: int) -> float:
    z, a, _ = batch()
    end = integrate(Oscillator(), z, a, 1.0, Solver(method, max_step=1.0 / n), reward_rate)
    want, integrals = exact(z, a, torch.ones(()))
    assert end.integrals is not None
    return float(torch.cat([end.z - want, end.integrals - integrals], -1).detach().norm())


# -- closed forms -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "order"), ORDERS.items())
def test_the_measured_order_of_a_fixed_step_method_is_that_of_its_name(method: str, order: int) -> None:
    assert FIXED_STEP[method].order == order
    slope = math.log2(error_with(method, 32) / error_with(method, 64))
    assert slope == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("method", "order"), ORDERS.items())
def test_one_step_differs_from_two_half_steps_by_one_order_more(method: str, order: int) -> None:
    z, a, _ = batch()
    field, solver = Oscillator(), Solver(method)

    def gap(dt: float) -> float:
        half = integrate(field, z, a, dt / 2, solver).z
        gap = integrate(field, z, a, dt, solver).z - integrate(field, half, a, dt / 2, solver).z
        return float(gap.detach().norm())

    assert math.log2(gap(0.1) / gap(0.05)) == pytest.approx(order + 1, abs=0.3)
    assert gap(0.01) < 0.01


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_methods_meet_the_matrix_exponential_within_their_tolerance(method: str) -> None:
    z, a, dt = batch()
    want, integrals = exact(z, a, dt)
    errors = []
    for rtol in (1e-4, 1e-6):
        solver = Solver(method, rtol=rtol, atol=rtol, max_steps=5000)
        end = integrate(Oscillator(), z, a, dt, solver, reward_rate)
        errors.append(float((end.z - want).abs().max()))
        assert errors[-1] < 20 * rtol
        assert end.integrals is not None
        assert float((end.integrals - integrals).abs().max()) < 20 * rtol
        assert bool(end.ok.all())
    assert errors[1] < 0.1 * errors[0]


def pendulum(z: Tensor, a: Tensor) -> Tensor:
    return torch.stack([z[..., 1], -9.81 * torch.sin(z[..., 0]) + a[..., 0]], -1)


pendulum.n_q = 1  # type: ignore[attr-defined]


def energy_drift(method: str, max_step: float) -> float:
    z = torch.tensor([[2.5, 0.0]], dtype=F64)
    energy = []
    for _ in range(100):
        z = integrate(pendulum, z, torch.zeros(1, 1, dtype=F64), 0.2, Solver(method, max_step=max_step)).z
        energy.append(float(0.5 * z[0, 1] ** 2 - 9.81 * torch.cos(z[0, 0])))
    start = -9.81 * math.cos(2.5)
    return max(abs(e - start) for e in energy) / 9.81


def test_rk4_keeps_the_energy_of_a_pendulum_for_twenty_seconds() -> None:
    assert energy_drift("rk4", 0.01) < 1e-5


def test_the_semi_implicit_method_does_not_pump_a_pendulum_as_euler_does() -> None:
    assert energy_drift("semi_implicit", 0.01) < 0.1
    assert energy_drift("euler", 0.01) > 0.5


def test_the_error_estimate_of_bosh3_is_that_of_its_second_order_companion() -> None:
    z, a, _ = batch()
    field = Oscillator()
    estimates = []
    for h in (0.1, 0.05):
        end = integrate(field, z, a, h, Solver("bosh3_fixed"))
        assert end.error is not None
        assert end.error.shape == z.shape
        true_error = float((end.z - exact(z, a, torch.tensor(h))[0]).norm())
        estimates.append(float(end.error.norm()))
        assert estimates[-1] > true_error
    assert math.log2(estimates[0] / estimates[1]) == pytest.approx(3, abs=0.2)


def test_a_chart_keeps_a_rotation_on_the_circle() -> None:
    spin = torch.tensor([[3.0]], dtype=F64)
    flow = Held(lambda z: spin * torch.stack([-z[..., 1], z[..., 0]], -1), ())
    angle = Held(lambda y: spin.expand_as(y), ())
    chart = Chart(
        angle, lambda z: torch.atan2(z[..., 1:], z[..., :1]), lambda y: torch.cat([y.cos(), y.sin()], -1)
    )
    z, one = torch.tensor([[1.0, 0.0]], dtype=F64), torch.ones((), dtype=F64)
    turn = Held(lambda z: z[..., :1], ())  # rates see the state, not the chart
    end = integrate_held(flow._replace(chart=chart), z, one, Solver("rk4", max_step=0.05), turn)
    assert end.z.tolist() == [pytest.approx([math.cos(3.0), math.sin(3.0)], abs=1e-12)]
    assert end.integrals is not None
    assert float(end.integrals) == pytest.approx(math.sin(3.0) / 3.0, abs=1e-6)


# -- batches ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*FIXED_STEP, *ADAPTIVE])
def test_a_dt_for_every_sample_is_a_loop_of_single_solves(method: str) -> None:
    z, a, dt = batch()
    field, solver = Oscillator(), Solver(method, rtol=1e-5, atol=1e-5)
    together = integrate(field, z, a, dt, solver, reward_rate)
    tolerance = 1e-6 if method in FIXED_STEP else 10 * solver.rtol
    for i in range(len(z)):
        alone = integrate(field, z[i : i + 1], a[i : i + 1], dt[i : i + 1], solver, reward_rate)
        assert float((together.z[i] - alone.z[0]).abs().max()) < tolerance
        assert together.integrals is not None
        assert alone.integrals is not None
        assert float((together.integrals[i] - alone.integrals[0]).abs().max()) < tolerance


def test_max_step_bounds_the_steps_of_all_methods() -> None:
    z, a, dt = batch()
    longest = 0.1
    n = math.ceil(float(dt.max()) / longest)
    assert integrate(Oscillator(), z, a, dt, Solver("rk4", max_step=longest)).n_evals == 4 * n
    loose = Solver("dopri5", rtol=0.1, atol=0.1)
    assert integrate(Oscillator(), z, a, dt, loose).n_evals < 6 * n
    assert integrate(Oscillator(), z, a, dt, replace(loose, max_step=longest)).n_evals >= 6 * n


@pytest.mark.parametrize("method", [*FIXED_STEP, *ADAPTIVE])
def test_evaluations_of_the_field_are_counted(method: str) -> None:
    calls = 0

    class Counted(Oscillator):
        def forward(self, z: Tensor, a: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return super().forward(z, a)

    z, a, dt = batch()
    end = integrate(Counted(), z, a, dt, Solver(method, max_step=0.2), reward_rate)
    assert end.n_evals == calls


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", [*FIXED_STEP, *ADAPTIVE])
def test_numbers_keep_their_precision_whatever_the_default(
    method: str, dtype: torch.dtype, default: torch.dtype
) -> None:
    z, a, dt = batch(dtype=dtype)
    torch.set_default_dtype(default)
    try:
        end = integrate(Oscillator(dtype), z, a, dt, Solver(method), reward_rate)
        by_number = integrate(Oscillator(dtype), z, a, 0.1, Solver(method))
    finally:
        torch.set_default_dtype(torch.float32)
    assert end.integrals is not None
    assert {end.z.dtype, end.integrals.dtype, by_number.z.dtype} == {dtype}
    assert end.error is None or end.error.dtype == dtype


def test_double_precision_is_double_all_the_way() -> None:
    z, a, dt = batch()
    end = integrate(Oscillator(), z, a, dt, Solver("rk4", max_step=0.005), reward_rate)
    want, integrals = exact(z, a, dt)
    assert float((end.z - want).abs().max()) < 1e-9
    assert end.integrals is not None
    assert float((end.integrals - integrals).abs().max()) < 1e-9


@pytest.mark.gpu
@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("method", [*FIXED_STEP, *ADAPTIVE])
def test_everything_stays_on_the_device(method: str, adjoint: bool) -> None:
    z, a, dt = (x.cuda() for x in batch())
    field = Oscillator().cuda()
    end = integrate(field, z, a, dt, Solver(method, max_step=0.3, adjoint=adjoint), reward_rate, strict=True)
    assert end.integrals is not None
    (end.z.sum() + end.integrals.sum()).backward()
    assert {end.z.device.type, end.integrals.device.type, end.ok.device.type} == {"cuda"}
    assert field.k.grad is not None


# -- gradients ----------------------------------------------------------------------------------------


def score(
    solver: Solver, tensors: tuple[Tensor, Tensor, Tensor], field: nn.Module, rates: nn.Module
) -> Tensor:
    z, a, dt = tensors
    end = integrate(field, z, a, dt, solver, rates)
    assert end.integrals is not None
    return end.z.square().sum() + (end.integrals * torch.tensor([1.0, -2.0], dtype=F64)).sum()


@pytest.mark.parametrize(
    ("solver", "other", "tolerance"),
    [
        (Solver("rk4", max_step=0.02), Solver("rk4", max_step=0.02, adjoint=True), 1e-12),
        (Solver("midpoint"), Solver("midpoint", adjoint=True), 1e-12),
        (Solver("bosh3_fixed", max_step=0.1), Solver("bosh3_fixed", max_step=0.1, adjoint=True), 1e-12),
        (TIGHT, replace(TIGHT, adjoint=True), 1e-7),
        (Solver("rk4", max_step=0.005), TIGHT, 1e-6),
    ],
)
def test_gradients_agree_between_back_propagation_adjoint_and_finite_differences(
    solver: Solver, other: Solver, tolerance: float
) -> None:
    field, rates, *inputs = networks()
    z, a, dt = (x.requires_grad_() for x in inputs)
    wanted = [z, a, dt, *field.parameters(), *rates.parameters()]
    one, two = (torch.autograd.grad(score(s, (z, a, dt), field, rates), wanted) for s in (solver, other))
    for mine, theirs in zip(one, two, strict=True):
        assert float((mine - theirs).norm()) <= tolerance * max(1.0, float(mine.norm()))
    with torch.no_grad():
        for tensor, gradient in zip(wanted, one, strict=True):
            way = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3), dtype=F64)
            values = []
            for step in (1e-5, -2e-5):
                tensor += step * way
                values.append(float(score(solver, (z, a, dt), field, rates)))
            tensor += 1e-5 * way
            assert (values[0] - values[1]) / 2e-5 == pytest.approx(float((gradient * way).sum()), abs=2e-4)


def test_an_adjoint_reaches_a_field_of_parameters_without_a_hold() -> None:
    z, a, dt = batch()
    gradients = []
    for adjoint in (False, True):
        field = Oscillator()
        integrate(field, z, a, dt, replace(TIGHT, adjoint=adjoint), reward_rate).z.square().sum().backward()
        assert field.k.grad is not None
        assert field.c.grad is not None
        gradients.append((float(field.k.grad), float(field.c.grad)))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-6)


def test_an_adjoint_counts_tensors_that_depend_on_one_another_once() -> None:
    z, _, dt = batch()
    start = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def gradient(adjoint: bool) -> float:
        stiffness = start.square()
        damping = stiffness * start
        held = Held(
            lambda z: -stiffness * z - damping * z.sin() - start, (start, stiffness, damping, damping)
        )
        end = integrate_held(held, z, dt, replace(TIGHT, adjoint=adjoint))
        return float(torch.autograd.grad(end.z.sum(), start)[0])

    assert gradient(adjoint=True) == pytest.approx(gradient(adjoint=False), rel=1e-8)


def saved_bytes(solver: Solver, run: Callable[[Solver], Solution]) -> int:
    """Bytes of distinct tensors that autograd keeps for the way back."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        end = run(solver)
    assert end.z.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("method", ["euler", "midpoint", "bosh3_fixed", "rk4", "dopri5"])
def test_with_adjoint_the_memory_does_not_grow_with_the_number_of_substeps(method: str) -> None:
    field, rates, z, a, dt = networks()

    def run(solver: Solver) -> Solution:
        return integrate(field, z, a, dt, solver, rates)

    few, many = (Solver(method, max_step=0.5 / n) for n in (2, 32))
    assert saved_bytes(many, run) > 5 * saved_bytes(few, run)
    flat = [saved_bytes(replace(s, adjoint=True), run) for s in (few, many)]
    assert flat[1] <= flat[0]


@pytest.mark.gpu
def test_with_adjoint_the_peak_memory_of_both_passes_stays_flat() -> None:
    g = torch.Generator().manual_seed(0)
    field = MLPField(2, 4, 1, 4, (256, 256), g).cuda()
    z, a = torch.randn(2, 4096, 4).cuda(), torch.randn(2, 4096, 1).cuda()

    def peak(solver: Solver) -> int:
        torch.cuda.reset_peak_memory_stats()
        integrate(field, z, a, 0.5, solver).z.sum().backward()
        return torch.cuda.max_memory_allocated()

    few, many = (Solver("rk4", max_step=0.5 / n, adjoint=True) for n in (2, 64))
    peak(few)
    assert peak(many) < 1.5 * peak(few)
    assert peak(replace(many, adjoint=False)) > 4 * peak(many)


def test_planning_in_inference_mode_gives_the_same_numbers() -> None:
    field, rates, z, a, dt = networks()
    for method in ("rk4", "bosh3_fixed", "dopri5"):
        for adjoint in (False, True):
            solver = Solver(method, adjoint=adjoint)
            with torch.inference_mode():
                planned = integrate(field, z, a, dt, solver, rates)
            assert torch.equal(planned.z, integrate(field, z, a, dt, solver, rates).z)


# -- failures -----------------------------------------------------------------------------------------

GOOD, EXPLODING, UNDEFINED, STIFF = 0, 1, 2, 3


class Troubled(nn.Module):
    """Row by row, told by the action: a decay, ``z' = z^2``, ``z' = log(z - 1)`` and a very stiff decay."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.0, dtype=F64))

    def forward(self, z: Tensor, a: Tensor) -> Tensor:
        ways = [-self.rate * z, z.square(), torch.log(z - 1.0), -1e7 * self.rate * (z - torch.cos(z))]
        return sum((torch.where(a == k, way, torch.zeros_like(z)) for k, way in enumerate(ways)), 0 * z)


def troubled_batch() -> tuple[Tensor, Tensor, Tensor]:
    kinds = torch.tensor([GOOD, EXPLODING, GOOD, UNDEFINED, GOOD, STIFF, EXPLODING, GOOD], dtype=F64)
    z = torch.tensor([1.0, 2.0, 0.5, 0.5, -1.0, 3.0, 50.0, torch.nan], dtype=F64)
    return z[:, None], kinds[:, None], torch.tensor([1.0, 1.0, 2.0, 1.0, 0.5, 1.0, 1.0, 1.0], dtype=F64)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_rows_that_cannot_be_solved_are_marked_and_the_others_are_solved(method: str, adjoint: bool) -> None:
    z, a, dt = troubled_batch()
    solver = Solver(method, rtol=1e-4, atol=1e-4, adjoint=adjoint, max_steps=200)
    end = integrate(Troubled(), z, a, dt, solver)
    good = torch.tensor([True, False, True, False, True, False, False, False])
    assert end.ok.tolist() == good.tolist()
    assert end.n_failures == 5
    assert bool(end.z[~good].isnan().all())
    assert torch.allclose(end.z[good], (z * torch.exp(-dt[:, None]))[good], atol=1e-3)
    assert end.n_evals < 20 * 7 * solver.max_steps


@pytest.mark.parametrize("adjoint", [False, True])
def test_a_failed_row_does_not_spoil_the_gradient_of_the_others(adjoint: bool) -> None:
    field = Troubled()
    z, a, dt = (x[:3] for x in troubled_batch())
    end = integrate(field, z, a, dt, Solver("dopri5", rtol=1e-6, adjoint=adjoint))
    end.z[end.ok].sum().backward()
    want = -(z * dt[:, None] * torch.exp(-dt[:, None]))[[0, 2]].sum()
    assert field.rate.grad is not None
    assert float(field.rate.grad) == pytest.approx(float(want), rel=1e-4)


def test_a_diverging_row_of_a_fixed_step_method_is_marked_alone() -> None:
    z, a, dt = troubled_batch()
    end = integrate(Troubled(), z, a, dt, Solver("rk4", max_step=0.01))
    assert end.ok.tolist() == [True, False, True, False, True, False, False, False]


@pytest.mark.parametrize(("method", "remedy"), [("dopri5", "rtol"), ("rk4", "max_step")])
def test_a_strict_call_raises_with_the_rows_and_the_remedy(method: str, remedy: str) -> None:
    z, a, dt = troubled_batch()
    with pytest.raises(UsageError, match=f"5 failed rows of 8, the first at \\[1\\].*{remedy}"):
        integrate(Troubled(), z, a, dt, Solver(method, max_step=0.01, max_steps=50), strict=True)
    integrate(Troubled(), z[:1], a[:1], dt[:1], Solver(method), strict=True)


# -- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dt", [0.0, -0.1, math.nan, math.inf])
def test_a_dt_that_is_no_duration_is_refused(dt: float) -> None:
    z, a, good = batch()
    for bad in (dt, torch.where(torch.arange(len(good)) == 2, dt, good)):
        with pytest.raises(UsageError, match="dt > 0 seconds"):
            integrate(Oscillator(), z, a, bad, Solver())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": torch.zeros(6, 2, dtype=torch.int64)}, "floating point"),
        ({"z": torch.zeros((), dtype=F64)}, "floating point"),
        ({"a": torch.zeros(5, 1, dtype=F64)}, r"actions of shape \(6, 'A'\)"),
        ({"a": torch.zeros((), dtype=F64)}, r"actions of shape \(6, 'A'\)"),
        ({"dt": torch.ones(5, dtype=F64)}, r"dt that broadcasts to \(6,\)"),
        ({"dt": torch.ones(2, 6, dtype=F64)}, r"dt that broadcasts to \(6,\)"),
        ({"field": lambda z, a: z[..., :1]}, r"values of shape \(6, 2\)"),
        ({"field": lambda z, a: z.float()}, "torch.float64"),
        ({"rates": lambda z, a: z[..., 0]}, r"values of shape \(6, 'Q'\)"),
        ({"solver": Solver("rk5")}, "a method among euler"),
        ({"field": lambda z, a: -z, "solver": Solver("semi_implicit")}, "n_q"),
        ({"solver": Solver("dopri5", rtol=1e-15)}, "rtol >="),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_expected(change: dict[str, object], message: str) -> None:
    z, a, dt = batch()
    given: dict[str, object] = {"field": Oscillator(), "z": z, "a": a, "dt": dt, "solver": Solver()}
    with pytest.raises(UsageError, match=message):
        integrate(**(given | change))  # type: ignore[arg-type]


def test_a_state_of_another_width_than_the_field_has_is_refused() -> None:
    field, _, z, a, dt = networks()
    with pytest.raises(UsageError, match="n_state = 3"):
        integrate(field, z[..., :2], a, dt, Solver())


@pytest.mark.parametrize(
    "settings",
    [{"max_step": 0.0}, {"max_step": math.nan}, {"rtol": -1e-3}, {"atol": math.nan}, {"max_steps": 0}],
)
def test_a_solver_that_cannot_be_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="Write Solver"):
        Solver(**settings)  # type: ignore[arg-type]


def test_an_unknown_option_of_the_solver_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="max_step"):
        build(Solver, {"max_stepp": 0.1})


def test_holding_an_action_is_the_same_as_giving_it() -> None:
    field, _, z, a, dt = networks()
    solver = Solver("rk4")
    assert torch.equal(integrate_held(hold(field, a), z, dt, solver).z, integrate(field, z, a, dt, solver).z)
