"""One search: sample, refine, let the judge choose."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ode_rl.agents.planners.cem import CEM
from ode_rl.agents.planners.config import PlannerConfig
from ode_rl.agents.planners.deadline import Deadline, OutOfTime
from ode_rl.agents.planners.gradient import ascend, check_mode
from ode_rl.agents.planners.icem import ICEM
from ode_rl.agents.planners.mppi import MPPI
from ode_rl.agents.planners.sampling import (
    Belief,
    Sampled,
    Score,
    affordable,
    learnt,
    merged,
    prior,
    sample,
    scored,
    take,
)
from ode_rl.agents.planners.shooting import SHOOTING
from ode_rl.agents.planners.warm import Warm
from ode_rl.errors import UsageError

# By which method plans are sampled; "gradient" goes on from there.
SAMPLERS = {"icem": ICEM, "cem": CEM, "mppi": MPPI, "shooting": SHOOTING, "gradient": ICEM}


class Found(NamedTuple):
    """The end of a search.

    ``plan [B, K, A]`` is to be executed and `warm` what the next search starts from (after a `shift`).
    ``ok [B]`` is false where no plan had a finite score, be it for want of time: such a row gets the
    mean of its warm start, the plan of before, and keeps its warm start. `n_scored` counts evaluations per
    row, the judge's among them, `n_iterations` iterations, `n_steps` steps of gradient ascent.
    `out_of_time` says that the deadline left something undone.
    """

    plan: Tensor
    warm: Warm
    ok: Tensor
    n_scored: int
    n_iterations: int
    n_steps: int = 0
    out_of_time: bool = False


def search(
    score: Score,
    warm: Warm,
    config: PlannerConfig,
    generator: torch.Generator,
    judge: Score | None = None,
    proposals: Tensor | None = None,
    deadline: Deadline | None = None,
    judge_cost: int = 1,
) -> Found:
    """Maximise ``score(plans [B, N, K, A]) -> [B, N]`` over plans in [-1, 1].

    `judge`, a score that may cost more, chooses among the finalists (the best candidates and the mean);
    each counts as `judge_cost` evaluations. ``proposals [B, P, K, A]`` are tried in the first iteration.
    Scores that are not finite are -inf, which is never preferred to a finite one.

    A `deadline` ends the search with the best plan so far: nothing is begun that by the pace of the slowest
    iteration so far would not fit, and `score` and `judge` may raise `OutOfTime`. ``config.budget_ms`` is the
    caller's to start; ``config.budget_evaluations`` is kept here, without the judge if it is too small for
    both an iteration and the judge.

    Raises:
        UsageError: for shapes that do not fit, more proposals than candidates, or a score that the
            gradient planner cannot differentiate.
        RuntimeError: for the gradient planner under `torch.inference_mode`.
    """
    refines = config.method == "gradient"
    if refines:
        check_mode()
    sampler = SAMPLERS[config.method]
    load = 0 if judge is None else judge_cost * (min(config.finalists, config.elites) + 1)
    sizes, n_steps, load = _share_out(config, sampler.sizes(config), load)
    injected = _checked(warm, proposals, sizes[0] - config.n_kept - 1)
    until = Deadline() if deadline is None else deadline
    # The ascent has the rest of the time, and the judge the last of it.
    first, wait = (until.earlier(config.sampling_share), 0) if refines else (until, load)
    run = sample(
        score, prior(*warm, config), sampler, sizes, config, generator, first, wait, proposals=injected
    )
    steps = 0
    if refines and n_steps and run.n_iterations:
        run, steps = _refine(score, run, n_steps, config, until, load)
    plan = run.belief.mean if sampler.mean_acts else run.belief.best[:, 0]
    if judge is not None and load and run.n_iterations:
        plan, run = _judged(judge, plan, run, config, until, load)
    plan = torch.where(run.ok[:, None, None], plan, warm.mean)
    after = Warm(run.belief.mean, run.belief.best[:, : config.n_kept])
    return Found(plan, after, run.ok, run.n_scored, run.n_iterations, steps, run.out_of_time)


def _share_out(config: PlannerConfig, sizes: list[int], load: int) -> tuple[list[int], int, int]:
    """Iterations, steps of ascent and evaluations for the judge within the budget."""
    budget = config.budget_evaluations
    if budget is None:
        return sizes, config.gradient_steps, load
    load = load if budget - load >= config.least else 0
    budget -= load
    if config.method != "gradient":
        return affordable(sizes, budget, config.least), 0, load
    n_starts = min(config.restarts, config.elites)
    for_ascent = min(n_starts * (config.gradient_steps + 1), budget - int(config.sampling_share * budget))
    sizes = affordable(sizes, max(config.least, budget - for_ascent), config.least)
    n_steps = (budget - sum(sizes)) // n_starts - 1
    return sizes, max(0, min(config.gradient_steps, n_steps)), load


def _refine(
    score: Score, run: Sampled, n_steps: int, config: PlannerConfig, until: Deadline, load: int
) -> tuple[Sampled, int]:
    """Ascend from the best plans, and put what is found among them."""
    starts = run.belief.best[:, : config.restarts]
    end = ascend(score, starts, n_steps, config, until, reserve=run.seconds_for(load))
    best = merged(run.belief, end.plans, end.scores)
    found = end.scores.isfinite().any(1)
    belief = learnt(Belief(run.belief.mean, run.belief.std, *best), run.belief, found)
    done = run._replace(
        belief=belief,
        ok=run.ok | found,
        n_scored=run.n_scored + end.n_scored,
        out_of_time=run.out_of_time or end.out_of_time,
    )
    return done, end.n_steps


@torch.no_grad()
def _judged(
    judge: Score, plan: Tensor, run: Sampled, config: PlannerConfig, until: Deadline, load: int
) -> tuple[Tensor, Sampled]:
    """The plan that the judge likes best; `plan` where it likes none, or where time is out."""
    if until.left() <= run.seconds_for(load):
        return plan, run._replace(out_of_time=True)
    finalists = torch.cat([run.belief.best[:, : config.finalists], run.belief.mean.unsqueeze(1)], 1)
    try:
        values = scored(judge, finalists)
    except OutOfTime:
        return plan, run._replace(out_of_time=True)
    chosen = take(finalists, values.argmax(1, keepdim=True))[:, 0]
    liked = values.isfinite().any(1)[:, None, None]
    return torch.where(liked, chosen, plan), run._replace(n_scored=run.n_scored + load)


def _checked(warm: Warm, proposals: Tensor | None, most: int) -> Tensor | None:
    """The proposals as plans within bounds, where everything fits."""
    b, k, a = warm.mean.shape
    if warm.elites.dim() != 4 or warm.elites.shape[0] != b or warm.elites.shape[2:] != (k, a):
        want, got = (b, "n", k, a), tuple(warm.elites.shape)
        raise UsageError(f"elites of shape {want}, as the mean has", got, "Begin with cold_start.")
    if proposals is None:
        return None
    if proposals.dim() != 4 or proposals.shape[0] != b or proposals.shape[2:] != (k, a):
        want, got = (b, "n", k, a), tuple(proposals.shape)
        raise UsageError(f"proposals of shape {want}", got, "Propose plans of the planner's shape.")
    if proposals.shape[1] > most:
        remedy = "Propose fewer plans, or raise candidates or the budget."
        raise UsageError(f"at most {most} proposals", proposals.shape[1], remedy)
    sound = proposals.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(sound, proposals, warm.mean.unsqueeze(1)).clamp(-1, 1)
