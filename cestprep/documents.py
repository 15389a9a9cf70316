"""YAML documents as people mean them."""

from __future__ import annotations

from typing import Any

_LONGEST_REASON = 300


def parse_yaml(text: str, *, whole_aliases: bool = False) -> Any:
    """Plain values of a YAML document; keys given twice are refused (PyYAML takes the last).

    Parameters
    ----------
    text : str
    whole_aliases : bool
        Whether an alias may stand for a mapping or a list, and not only a number or a text.

    Raises
    ------
    ValueError
        Saying where in the text and why, in one line.
    """
    import yaml

    try:
        return yaml.load(text, _loader(whole_aliases))
    except (
        yaml.YAMLError, ValueError, RecursionError, ArithmeticError, LookupError,
        TypeError, AttributeError,
    ) as exc:  # PyYAML's constructors of odd tags raise whatever they meet  # fmt: skip
        mark = getattr(exc, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(exc, "problem", None) or next(iter(str(exc).splitlines()), repr(exc))
        raise ValueError(where + shortened(reason)) from None


def shortened(text: str) -> str:
    """Text on one line, without its full stop, cut where it is very long."""
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} ..."


def _loader(whole_aliases: bool) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            alias = self.check_event(yaml.AliasEvent) and self.peek_event()  # type: ignore[no-untyped-call]
            known = (yaml.Node,) if whole_aliases else (yaml.ScalarNode,)
            if alias and not isinstance(self.anchors.get(alias.anchor), known):
                text = f"alias *{alias.anchor} is not one of a number or a text"
                raise yaml.MarkedYAMLError(problem=text, problem_mark=alias.start_mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                value = super().construct_object(key) if isinstance(key, yaml.ScalarNode) else None
                if isinstance(key, yaml.ScalarNode) and value in seen:
                    text = f"key {key.value!r} appears twice"
                    raise yaml.MarkedYAMLError(problem=text, problem_mark=key.start_mark)
                seen.add(value)
            return super().construct_mapping(node, deep)

    return Loader
