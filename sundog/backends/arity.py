"""How many arguments a function takes, checked at ``.remote()`` for the price of two comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

import msgspec

_VARARGS = 0x04
_VARKEYWORDS = 0x08
_ANY = 1 << 30


class Arity(msgspec.Struct, frozen=True):
    """What a call must look like. ``least`` and ``most`` bound the positional arguments of a call without keywords."""

    least: int = 0
    most: int = _ANY
    #: Parameters that may be given by position, in order, and how many of them only so.
    names: tuple[str, ...] = ()
    positional_only: int = 0
    #: How many of ``names``, from the end, have defaults.
    defaults: int = 0
    keyword_names: frozenset[str] = frozenset()
    keywords_required: frozenset[str] = frozenset()
    any_keyword: bool = True

    def problem(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """Return what is wrong with a call, or None."""
        given = len(args)
        if given > self.most:
            return f"takes at most {self.most} positional argument{'s' * (self.most != 1)}, but {given} were given"
        names = self.names
        for name in kwargs:
            if name in names:
                index = names.index(name)
                if index < self.positional_only:
                    if not self.any_keyword:
                        return f"takes argument {name!r} by position only"
                elif index < given:
                    return f"got two values for argument {name!r}"
            elif name not in self.keyword_names and not self.any_keyword:
                return f"has no argument {name!r}"
        required = names[: len(names) - self.defaults]
        missing = [
            name for index, name in enumerate(required)
            if index >= given and (name not in kwargs or index < self.positional_only)
        ]  # fmt: skip
        missing += sorted(name for name in self.keywords_required if name not in kwargs)
        if missing:
            return f"is missing argument{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}"
        return None


UNKNOWN = Arity()


def arity_of(function: Any) -> Arity:
    """Return the arity of anything that can be called; :data:`UNKNOWN`, which allows everything, where Python cannot tell."""
    if type(function) is FunctionType:
        return _of_function(function)
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return UNKNOWN
    kinds = inspect.Parameter
    positional = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    # A partial that fills a parameter by keyword leaves required ones behind it, which then go by keyword only.
    defaults = 0
    for parameter in reversed(positional):
        if parameter.default is kinds.empty:
            break
        defaults += 1
    keyword_only = [p for p in parameters if p.kind is kinds.KEYWORD_ONLY]
    required = frozenset(p.name for p in keyword_only if p.default is kinds.empty)
    return _arity(
        names=tuple([p.name for p in positional]),
        positional_only=sum(p.kind is kinds.POSITIONAL_ONLY for p in positional),
        defaults=defaults,
        keyword_names=frozenset(p.name for p in keyword_only),
        required=required,
        any_positional=any(p.kind is kinds.VAR_POSITIONAL for p in parameters),
        any_keyword=any(p.kind is kinds.VAR_KEYWORD for p in parameters),
    )


def _of_function(function: FunctionType) -> Arity:
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    keyword_names = frozenset(code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount])
    return _arity(
        names=names,
        positional_only=code.co_posonlyargcount,
        defaults=len(function.__defaults__ or ()),
        keyword_names=keyword_names,
        required=keyword_names - (function.__kwdefaults__ or {}).keys(),
        any_positional=bool(code.co_flags & _VARARGS),
        any_keyword=bool(code.co_flags & _VARKEYWORDS),
    )


def _arity(
    *,
    names: tuple[str, ...],
    positional_only: int,
    defaults: int,
    keyword_names: frozenset[str],
    required: frozenset[str],
    any_positional: bool,
    any_keyword: bool,
) -> Arity:
    return Arity(
        # A call without keywords cannot satisfy required ones: no count of arguments is then quickly right.
        least=_ANY if required else len(names) - defaults,
        most=_ANY if any_positional else len(names),
        names=names,
        positional_only=positional_only,
        defaults=defaults,
        keyword_names=keyword_names,
        keywords_required=required,
        any_keyword=any_keyword,
    )
