"""Typed plain objects from nested plain values: strict about names and types, exact in what it says."""

from __future__ import annotations

import builtins
import difflib
import importlib
import inspect
import re
import types
import typing
from typing import Any, Literal

from dpo.errors import UsageError
from dpo.ranges import ANY, Range

PLAIN = ("builtins", "types", "typing")
"""Modules of types that are no groups."""


def hints(kind: Any) -> dict[str, Any]:
    """Types of a class's constructor arguments; names it imports only for type checkers are ByName."""
    scope: dict[str, Any] = {}
    for base in reversed(kind.__mro__):  # an inherited argument's type is named where it was written
        scope |= vars(importlib.import_module(base.__module__))
    only_checked = {
        word
        for annotation in kind.__init__.__annotations__.values()
        for word in re.findall(r"[A-Za-z_]\w*", str(annotation))
        if word not in scope and not hasattr(builtins, word)
    }
    stand_ins = {word: type(word, (ByName,), {}) for word in only_checked}
    return typing.get_type_hints(kind.__init__, localns=scope | stand_ins, include_extras=True)


def nearest(name: str, known: list[str]) -> str:
    """' (did you mean ...?)' where a known name is close, else nothing; dotted names are compared with dotted ones."""
    alike = [key for key in known if key.count(".") == name.count(".") and not key.endswith("_target_")]
    close = difflib.get_close_matches(name, alike, 1) or difflib.get_close_matches(name, known, 1, 0.8)
    return f" (did you mean {close[0]}?)" if close else ""


def build(kind: Any, node: dict[str, Any], path: str) -> tuple[Any, dict[str, Any]]:
    """(object, normalised values) of a group: the class named by `_target_`, else `kind` itself."""
    target = node.get("_target_")
    if target is not None:
        kind = class_of(target, kind, path)
    elif not inspect.isclass(kind) or issubclass(kind, ByName):
        raise UsageError(f"{path}._target_ is missing: it names the class that reads these keys")
    values, normal = arguments(kind, {k: v for k, v in node.items() if k != "_target_"}, f"{path}.")
    return kind(**values), ({"_target_": target} if target is not None else {}) | normal


class ByName:
    """Stands for a class that an annotation names and that is imported for type checkers only."""


PLUGINS = "dpo.plugins"
"""Entry point group of installed plug-ins; the value of each is a package whose classes a `_target_` may name."""


def class_of(target: Any, hint: Any, path: str) -> Any:
    """The class that a `_target_` names, of the kind that belongs there.

    A configuration may come from anybody, so nothing is imported for it that is not a module of this package or of an
    installed plug-in, and nothing is taken from there but a class that the module defines and that derives from the
    hinted one. Raises UsageError for anything else.
    """
    said, wanted = f"{path}._target_={cut(str(target))}", names_of(hint)
    module, _, name = str(target).rpartition(".")
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", str(target)) or not registered(module):
        raise UsageError(f"{said}: must be a class of dpo, or of an installed plug-in (entry point group {PLUGINS})")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{said}: no such class ({error})") from error
    ours = inspect.isclass(found) and found.__module__ == module
    if not ours or not any(base.__name__ in wanted for base in found.__mro__):
        raise UsageError(f"{said}: must be a class of the kind {' or '.join(sorted(wanted))}")
    return found


def registered(module: str) -> bool:
    """Whether a module belongs to this package or to a plug-in that was installed as one."""
    if module.partition(".")[0] == __package__:
        return True
    from importlib.metadata import entry_points  # a tenth of a second, which our own classes do not cost

    packages = [point.value for point in entry_points(group=PLUGINS)]
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def names_of(hint: Any) -> set[str]:
    """Names of the classes that a hint allows."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    return {option.__name__ for option in options if inspect.isclass(option) and option is not type(None)}


def arguments(
    kind: Any, node: dict[str, Any], prefix: str, skip: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Typed constructor arguments of `kind` from `node`, and the same as normalised plain values."""
    parameters = [name for name in inspect.signature(kind).parameters if name not in skip]
    types_of = hints(kind)
    for name in node:
        if name not in parameters:
            raise UsageError(f"unknown key {prefix}{name}{nearest(prefix + name, [prefix + p for p in parameters])}")
    values: dict[str, Any] = {}
    normal: dict[str, Any] = {}
    for name in parameters:
        if name not in node:
            raise UsageError(f"{prefix}{name} is missing: {kind.__name__} needs it")
        if typing.get_origin(types_of[name]) is dict and isinstance(node[name], dict):
            values[name], normal[name] = mapping(types_of[name], node[name], prefix + name)
        elif isinstance(node[name], dict) and takes_group(types_of[name]):
            values[name], normal[name] = build(types_of[name], node[name], prefix + name)
        elif (item := group_of_list(types_of[name])) and isinstance(node[name], list):
            built = [build(item, x, f"{prefix}{name}[{i}]") for i, x in enumerate(node[name])]
            values[name], normal[name] = [x for x, _ in built], [x for _, x in built]
        else:
            values[name] = normal[name] = convert(types_of[name], node[name], prefix + name)
    return values, normal


def mapping(hint: Any, node: dict[str, Any], path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(typed values, normalised values) of a dict[str, X]: objects where the values are groups, else plain values."""
    kind = typing.get_args(hint)[1]
    values: dict[str, Any] = {}
    normal: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, dict) and takes_group(kind):
            values[name], normal[name] = build(kind, value, f"{path}.{name}")
        else:
            values[name] = normal[name] = convert(kind, value, f"{path}.{name}")
    return values, normal


def options_of(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a hint."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def takes_group(hint: Any) -> bool:
    """Whether a hint allows an object with keys of its own."""
    return any(option is Any or is_group(option) for option in options_of(hint))


def is_group(option: Any) -> bool:
    """Whether an alternative of a hint is a class of ours, built from its keys."""
    return inspect.isclass(option) and typing.get_origin(option) is None and option.__module__ not in PLAIN


def group_of_list(hint: Any) -> Any:
    """The class of the items where the hint is a list of groups, else None."""
    item = typing.get_args(hint)[0] if typing.get_origin(hint) is list else None
    return item if is_group(item) else None


def convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the hinted type, where that loses nothing (1 is a float, 1.0 an int, "1" neither), in its range."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    for option in options_of(hint):
        limits = next((item for item in getattr(option, "__metadata__", ()) if isinstance(item, Range)), ANY)
        option = bare(option)
        origin = typing.get_origin(option)
        if option is Any or (origin is Literal and value in typing.get_args(option)):
            return value
        if origin is list and isinstance(value, list):
            return [convert(typing.get_args(option)[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
        if option in (int, float) and number and (option is float or isinstance(value, int) or value.is_integer()):
            if value not in limits:
                shown = float(value) if option is float and abs(value) < 10**300 else value
                raise UsageError(f"{path}={shortened(shown)}: must be {limits}")
            return option(value)
        if option in (str, bool, type(None)) and isinstance(value, option):
            return writable(value, path) if option is str else value
    raise UsageError(f"{path}={shortened(value)}: must be {describe(options_of(hint))}")


def writable(text: str, path: str) -> str:
    """The text; raises UsageError for what cannot stand in a file or a path."""
    if "\0" in text or (not text.isascii() and text != text.encode("utf-8", "ignore").decode()):
        raise UsageError(f"{path}={text!r}: holds a zero byte or a character that is not text")
    return text


def shortened(value: Any) -> str:
    """A value as it is said, cut where it is endless."""
    return cut(f"{value:.6g}" if isinstance(value, int) and 10**24 < abs(value) < 10**300 else repr(value))


def cut(text: str) -> str:
    """The text, or its beginning where it is endless."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def bare(option: Any) -> Any:
    """An alternative of a hint without its range."""
    return typing.get_args(option)[0] if hasattr(option, "__metadata__") else option


def describe(options: typing.Iterable[Any]) -> str:
    """The types in words."""
    words = {float: "a number", int: "an integer", str: "text", bool: "true or false", type(None): "null"}
    return " or ".join(
        "one of " + ", ".join(map(str, typing.get_args(option)))
        if typing.get_origin(option) is Literal
        else "a list"
        if typing.get_origin(option) is list
        else words.get(option, f"a group ({getattr(option, '__name__', option)})")
        for option in map(bare, options)
    )
