"""Anytime: what a search does with a budget in evaluations, or in time by a clock that the test turns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ode_rl.agents.planners import Deadline, OutOfTime, PlannerConfig
from ode_rl.agents.planners.sampling import affordable
from ode_rl.errors import UsageError
from ode_rl.names import PLANNERS
from tests.known_optima import Counted, quadratic, rastrigin, solve, targets

TARGET = targets(2, 5, 1)
SAMPLING = [method for method in PLANNERS if method != "gradient"]
every_method = pytest.mark.parametrize("method", PLANNERS)


class Clock:
    """Stands still but for what is added to `now`, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Slow(Counted):
    """A score that takes `seconds` per call, or per plan."""

    def __init__(self, clock: Clock, per_call: float = 0.0, per_plan: float = 0.0) -> None:
        super().__init__(quadratic(TARGET))
        self.clock, self.per_call, self.per_plan = clock, per_call, per_plan

    def __call__(self, plans: Tensor) -> Tensor:
        self.clock.now += self.per_call + self.per_plan * plans.shape[1]
        return super().__call__(plans)


class Rolling(Counted):
    """A score of ten steps of `seconds` each, which looks at the deadline before every one."""

    def __init__(self, deadline: Deadline, clock: Clock, seconds: float) -> None:
        super().__init__(quadratic(TARGET))
        self.deadline, self.clock, self.seconds = deadline, clock, seconds

    def __call__(self, plans: Tensor) -> Tensor:
        for _ in range(10):
            self.deadline.check()
            self.clock.now += self.seconds
        return super().__call__(plans)


# --- evaluations -------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("budget", [24, 60, 119, 120, 200, 333, 5000])
def test_no_more_plans_are_scored_than_the_budget_allows(method: str, judged: bool, budget: int) -> None:
    score, judge = Counted(quadratic(TARGET)), Counted(quadratic(TARGET))
    config = PlannerConfig(method, budget_evaluations=budget)
    how: dict[str, Any] = {"judge": judge, "judge_cost": 3} if judged else {}
    found = solve(score, (2, 5, 1), config, **how)
    assert found.n_scored == score.n + 3 * judge.n <= budget
    assert bool(found.ok.all())
    again = solve(score, (2, 5, 1), config, **how)
    assert torch.equal(found.plan, again.plan)


@every_method
def test_a_budget_that_is_ample_changes_nothing(method: str) -> None:
    config = PlannerConfig(method)
    free = solve(quadratic(TARGET), (2, 5, 1), config, judge=quadratic(-TARGET), judge_cost=5)
    ample = replace(config, budget_evaluations=free.n_scored if method != "gradient" else 2 * free.n_scored)
    held = solve(quadratic(TARGET), (2, 5, 1), ample, judge=quadratic(-TARGET), judge_cost=5)
    assert torch.equal(held.plan, free.plan)
    assert held.n_scored == free.n_scored


def test_the_judge_is_paid_from_the_same_budget_and_left_out_where_it_would_take_all() -> None:
    for budget, judged in ((100, True), (24 + 33, True), (24 + 32, False)):
        judge = Counted(quadratic(TARGET))
        config = PlannerConfig(budget_evaluations=budget)
        found = solve(quadratic(TARGET), (2, 5, 1), config, judge=judge, judge_cost=3)
        assert bool(judge.asked) == judged
        assert found.n_scored <= budget


def test_a_larger_budget_finds_better_plans() -> None:
    target = targets(16, 10, 1)
    left = []
    for budget in (50, 150, 320):
        config = PlannerConfig(budget_evaluations=budget)
        plan = solve(quadratic(target), (16, 10, 1), config).plan
        left.append(float((plan - target).square().sum()))
    assert left[0] > left[1] > left[2]


def test_the_gradient_planner_shares_its_budget_between_sampling_and_ascent() -> None:
    counted = Counted(rastrigin)
    config = PlannerConfig("gradient", budget_evaluations=120, sampling_share=0.7, restarts=4)
    found = solve(counted, (1, 4, 1), config)
    # 36 for the ascent: four starts, scored before it and in each of its eight steps.
    assert counted.sizes == [84, *[4] * 9]
    assert found.n_steps == 8


def test_iterations_are_cut_to_the_budget_and_left_out_below_the_least() -> None:
    assert affordable([120, 96, 77], 293, 24) == [120, 96, 77]
    assert affordable([120, 96, 77], 250, 24) == [120, 96, 34]
    assert affordable([120, 96, 77], 239, 24) == [120, 96]
    assert affordable([12, 12], 30, 24) == [12, 12]


# --- time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ms", "n"), [(4.0, 1), (10.0, 1), (19.0, 1), (21.0, 2), (29.0, 2), (31.0, 3), (99.0, 3)]
)
def test_an_iteration_that_would_not_fit_is_not_begun(ms: float, n: int) -> None:
    clock = Clock()
    score = Slow(clock, per_call=0.010)
    found = solve(score, (2, 5, 1), PlannerConfig(), deadline=Deadline.after(ms, clock))
    assert (len(score.asked), found.n_iterations) == (n, n)
    assert found.out_of_time == (n < 3)
    last = score.asked[-1]
    best = last[torch.arange(2), quadratic(TARGET)(last).argmax(1)]
    assert torch.equal(found.plan, best)


@pytest.mark.parametrize("method", SAMPLING)
def test_when_time_runs_out_in_the_middle_the_best_plan_so_far_is_returned(method: str) -> None:
    clock = Clock()
    deadline = Deadline.after(15, clock)
    found = solve(Rolling(deadline, clock, 0.0006), (2, 5, 1), PlannerConfig(method), deadline=deadline)
    one = solve(quadratic(TARGET), (2, 5, 1), replace(PlannerConfig(method), iterations=1))
    n = 1 if method == "shooting" else 2
    assert (found.n_iterations, bool(found.ok.all())) == (n, True)
    assert clock.now <= deadline.at + 0.0006 + 1e-9
    # Now the last iteration takes longer than the one before, and is broken off.
    clock = Clock()
    deadline = Deadline.after(15, clock)
    rolling = Rolling(deadline, clock, 0.0006)

    def slower(plans: Tensor) -> Tensor:
        scores = rolling(plans)
        rolling.seconds = 0.002
        return scores

    found = solve(slower, (2, 5, 1), PlannerConfig(method), deadline=deadline)
    assert found.n_iterations == 1
    assert found.out_of_time == (method != "shooting")
    assert clock.now <= deadline.at + 0.002 + 1e-9
    if method in ("cem", "mppi"):  # whose iterations do not know which is the last
        assert torch.equal(found.plan, one.plan)


@every_method
def test_when_nothing_was_scored_in_time_the_plan_of_before_goes_on(method: str) -> None:
    clock = Clock()
    before = solve(quadratic(TARGET), (2, 5, 1), PlannerConfig(method)).warm

    def never(plans: Tensor) -> Tensor:
        raise OutOfTime

    late = Deadline.after(5, clock)
    clock.now += 1
    for deadline, score in ((late, quadratic(TARGET)), (Deadline.after(5, clock), never)):
        found = solve(score, (2, 5, 1), PlannerConfig(method), warm=before, deadline=deadline, judge=score)
        assert torch.equal(found.plan, before.mean)
        assert torch.equal(found.warm.mean, before.mean)
        assert torch.equal(found.warm.elites, before.elites)
        assert (found.ok.tolist(), found.n_scored, found.out_of_time) == ([False, False], 0, True)


def test_time_for_the_judge_is_kept_back() -> None:
    for ms, n, judged in ((45.0, 3, True), (36.0, 2, True), (33.0, 2, True), (10.0, 1, False)):
        clock = Clock()
        score, judge = Slow(clock, per_plan=0.0001), Slow(clock, per_plan=0.0005)
        # 12.0, 9.6, 7.8 ms for the iterations, 11 * 0.5 ms for the judge.
        deadline = Deadline.after(ms, clock)
        found = solve(score, (2, 5, 1), PlannerConfig(), judge=judge, judge_cost=5, deadline=deadline)
        assert (len(score.asked), bool(judge.asked)) == (n, judged)
        assert found.out_of_time == (n < 3)
        if judged:
            assert clock.now <= deadline.at + 1e-9


def test_a_judge_who_runs_out_of_time_leaves_the_best_of_the_scores() -> None:
    clock = Clock()
    deadline = Deadline.after(30, clock)

    def judge(plans: Tensor) -> Tensor:
        clock.now += 1
        raise OutOfTime

    found = solve(quadratic(TARGET), (2, 5, 1), PlannerConfig(), judge=judge, deadline=deadline)
    alone = solve(quadratic(TARGET), (2, 5, 1), PlannerConfig())
    assert torch.equal(found.plan, alone.plan)
    assert (found.out_of_time, found.n_scored) == (True, alone.n_scored)


def test_the_ascent_ends_in_time_and_what_it_found_by_then_is_kept() -> None:
    clock = Clock()
    deadline = Deadline.after(40, clock)
    score = Slow(clock, per_call=0.004)
    config = PlannerConfig("gradient", gradient_steps=50)
    found = solve(score, (2, 5, 1), config, deadline=deadline)
    assert clock.now <= deadline.at + 1e-9
    assert found.n_iterations == 3
    assert found.n_steps == 5  # seven evaluations fit; one is of the starts, and the last would end too late
    assert found.out_of_time
    sampled = solve(quadratic(TARGET), (2, 5, 1), PlannerConfig("icem")).plan
    better = quadratic(TARGET)(found.plan.unsqueeze(1)) > quadratic(TARGET)(sampled.unsqueeze(1))
    assert bool(better.all())


def test_the_ascent_leaves_time_for_the_judge() -> None:
    clock = Clock()
    deadline = Deadline.after(60, clock)
    score, judge = Slow(clock, per_plan=0.0001), Slow(clock, per_plan=0.0005)
    config = PlannerConfig("gradient", iterations=1, gradient_steps=500)
    found = solve(score, (2, 5, 1), config, judge=judge, judge_cost=5, deadline=deadline)
    assert len(judge.asked) == 1
    assert found.n_steps > 50
    assert clock.now <= deadline.at + 1e-9


def test_sampling_leaves_the_gradient_its_share_of_the_time() -> None:
    clock = Clock()
    score = Slow(clock, per_call=0.004)
    config = PlannerConfig("gradient", iterations=50, sampling_share=0.5)
    found = solve(score, (2, 5, 1), config, deadline=Deadline.after(42, clock))
    assert found.n_iterations == 5
    assert found.n_steps >= 3


def test_a_deadline_knows_what_is_left_of_it() -> None:
    clock = Clock()
    deadline = Deadline.after(20, clock)
    assert deadline.left() == pytest.approx(0.02)
    assert deadline.earlier(0.25).left() == pytest.approx(0.005)
    deadline.check()
    clock.now += 0.02001
    assert deadline.passed
    with pytest.raises(OutOfTime):
        deadline.check()
    assert Deadline.after(None, clock).left() == math.inf
    assert Deadline().earlier(0.5).left() == math.inf


@pytest.mark.parametrize("ms", [0.0, -1.0, math.nan])
def test_a_budget_of_no_time_is_refused(ms: float) -> None:
    with pytest.raises(UsageError, match="> 0 milliseconds"):
        Deadline.after(ms)
