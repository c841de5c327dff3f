"""As much of AWS' policy language as this project's policies use, to ask them about calls."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

Policy = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One request as AWS judges it."""

    action: str
    resource: str
    context: dict[str, str] = field(default_factory=dict)
    """Condition keys that the request has."""


def is_allowed(call: Call, *policies: Policy) -> bool:
    """Tell whether some statement allows a call and none denies it."""
    effects = [
        statement["Effect"]
        for policy in policies
        for statement in policy["Statement"]
        if _matches(statement["Action"], call.action)
        and _matches(statement["Resource"], call.resource)
        and all(_holds(kind, wanted, call.context) for kind, wanted in statement.get("Condition", {}).items())
    ]
    return "Allow" in effects and "Deny" not in effects


def _matches(patterns: str | list[str], value: str) -> bool:
    return any(fnmatchcase(value, each) for each in _as_list(patterns))


def _holds(kind: str, wanted: dict[str, Any], context: dict[str, str]) -> bool:
    match kind:
        case "Null":
            return all((key not in context) == (value == "true") for key, value in wanted.items())
        case "Bool":
            return all(context.get(key) == value for key, value in wanted.items())
        case "StringLikeIfExists":
            return all(key not in context or _matches(value, context[key]) for key, value in wanted.items())
    raise AssertionError(f"condition {kind}: not known here")


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
