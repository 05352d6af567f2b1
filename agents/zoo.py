"""Settings in the syntax of rl-baselines3-zoo, read without running any of it.

Plain YAML values go through as they are. Three things of the zoo are text that its own reader hands to
`eval`: schedules (``lin_3e-4``), ``policy_kwargs`` and ``normalize`` (``"dict(net_arch=[400, 300])"``). Here
the text is parsed and only literals and the activations of `ACTIVATIONS` are understood.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from ode_rl.errors import UsageError
from ode_rl.settings import nearest

ACTIVATIONS = ("ReLU", "Tanh", "ELU", "SiLU", "GELU", "LeakyReLU")
POLICY_KWARGS = (
    *("net_arch", "activation_fn", "log_std_init", "use_expln", "ortho_init", "n_critics", "n_quantiles"),
    *("clip_mean", "share_features_extractor", "full_std", "squash_output"),
)
NORMALIZE = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
NOISES = ("normal", "ornstein-uhlenbeck")
LINEAR = "lin_"

Schedule = Callable[[float], float]


def literal(text: str, name: str) -> Any:
    """The value that a text of the zoo describes: literals, ``dict(...)`` and ``nn.ReLU``, nothing else.

    Raises:
        UsageError: naming the setting, for any other text.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        remedy = f"Write {name} as a mapping, e.g. {{net_arch: [256, 256], activation_fn: ReLU}}."
        raise UsageError(f"dict(...) of plain values for {name}", repr(text), remedy) from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("dict() with names alone")
        return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("nn", "th"):
        return node.attr
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(each) for each in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    return ast.literal_eval(node)


def mapping(value: Any, name: str, known: tuple[str, ...]) -> dict[str, Any]:
    """A setting that is a mapping or the zoo's text of one, with names among `known`.

    Raises:
        UsageError: for anything else, with the nearest names.
    """
    found = literal(value, name) if isinstance(value, str) else value
    if not isinstance(found, Mapping):
        raise UsageError(f"settings by name for {name}", repr(value), f"Write {name}={{...}}.")
    for each in found:
        if each not in known:
            raise UsageError(f"a setting of {name}", repr(f"{name}.{each}"), nearest(str(each), known))
    return {str(key): each for key, each in found.items()}


def policy_kwargs(value: Any) -> dict[str, Any]:
    """Arguments of a policy, with the activation by its name.

    Raises:
        UsageError: for an unknown argument or activation.
    """
    found = mapping(value, "policy_kwargs", POLICY_KWARGS)
    activation = found.get("activation_fn")
    if activation is not None and activation not in ACTIVATIONS:
        raise UsageError(f"one of {', '.join(ACTIVATIONS)}", repr(activation), "Write activation_fn: ReLU.")
    return found


def normalize(value: Any) -> dict[str, Any] | None:
    """Arguments of `VecNormalize`, or None where nothing is normalised.

    Raises:
        UsageError: for an unknown argument.
    """
    if isinstance(value, bool) or value is None:
        return {} if value else None
    return mapping(value, "normalize", NORMALIZE)


def schedule(value: Any, name: str) -> float | Schedule:
    """A number, or the function of the remaining progress that ``lin_<number>`` stands for.

    Raises:
        UsageError: for anything else.
    """
    text = value[len(LINEAR) :] if isinstance(value, str) and value.startswith(LINEAR) else value
    try:
        number = float(text)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"a number or lin_<number> for {name}", repr(value), f"Write {name}=lin_3e-4."
        ) from error
    return number if text is value else lambda progress: progress * number
