"""Which nodes belong to a GPU class, and why the others do not: node affinity as the scheduler reads it."""

from collections.abc import Callable, Mapping, Sequence

from finetune_operator.core.objects import GpuClass, Node, Raw

_Labels = Mapping[str, str]


# --- matching --------------------------------------------------------------------------------------------------
def _is_in(actual: str | None, values: Sequence[str]) -> bool:
    return actual is not None and actual in values


def _is_not_in(actual: str | None, values: Sequence[str]) -> bool:
    return actual is None or actual not in values


def _is_greater(actual: str | None, values: Sequence[str]) -> bool:
    return (number := _integer(actual)) is not None and number > int(values[0])


def _is_less(actual: str | None, values: Sequence[str]) -> bool:
    return (number := _integer(actual)) is not None and number < int(values[0])


def _integer(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


_OPERATORS: Mapping[str, Callable[[str | None, Sequence[str]], bool]] = {
    "In": _is_in,
    "NotIn": _is_not_in,
    "Exists": lambda actual, _: actual is not None,
    "DoesNotExist": lambda actual, _: actual is None,
    "Gt": _is_greater,
    "Lt": _is_less,
}


def is_matched(expression: Raw, labels: _Labels) -> bool:
    return _OPERATORS[expression["operator"]](labels.get(expression["key"]), expression.get("values") or ())


def is_member(node: Node, gpu_class: GpuClass) -> bool:
    """Any term matches, or the class has none."""
    return not gpu_class.terms or any(_is_term_matched(term, node.labels) for term in gpu_class.terms)


def _is_term_matched(term: Raw, labels: _Labels) -> bool:
    return all(is_matched(expression, labels) for expression in term["matchExpressions"])


# --- why not ---------------------------------------------------------------------------------------------------
def why_none_matches(nodes: Sequence[Node], gpu_class: GpuClass) -> str:
    """For each term, which expressions fail on how many of how many nodes."""
    if not nodes:
        return "the cluster has no nodes"
    return "; ".join(
        f"term {index}: {_why_term_fails(term, nodes)}" for index, term in enumerate(gpu_class.terms, start=1)
    )


def _why_term_fails(term: Raw, nodes: Sequence[Node]) -> str:
    total = len(nodes)
    failing = [
        f"{_in_words(expression)} is not met by {count} of {total} nodes{_found(expression, nodes)}"
        for expression in term["matchExpressions"]
        if (count := sum(not is_matched(expression, node.labels) for node in nodes))
    ]
    return ", ".join(failing)


def _in_words(expression: Raw) -> str:
    values = ", ".join(expression.get("values") or ())
    return f"{expression['key']} {expression['operator']}" + (f" [{values}]" if values else "")


def _found(expression: Raw, nodes: Sequence[Node]) -> str:
    """The values that are there instead, at most four: a mistyped product name shows at once."""
    values = sorted({node.labels[expression["key"]] for node in nodes if expression["key"] in node.labels})
    if not values:
        return " (no node has this label)"
    shown = ", ".join(values[:4]) + (", …" if len(values) > 4 else "")
    return f" (found: {shown})"
