"""The methods by name: those of this folder, those of other packages, and any class as ``module:Class``.

A method is a class that is decorated with :func:`method` in a module of this folder; nothing else lists it. Another
package names its class in the entry-point group ``deltamem.methods``, or the command line names it.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar, get_args

from deltamem.extensions import installed, load_named
from deltamem_lab.backbone import Backbone
from deltamem_lab.methods.base import BackboneMethod, MethodOptions, Weights
from deltamem_lab.names import METHOD_GROUP, PARTS, STATIC

Kind = Literal["text", "excerpt", "trained", "memory", "control"]
Made = TypeVar("Made", bound=type[BackboneMethod])

# The methods that are asked for by an adapter's name, by what stands after its plus.
_PARTS = {"": "memory"} | {part: part for part in PARTS}
# The controls that every adapter has its own of, beside the static one, which is trained.
MATCHED = ("empty", "shuffled")


@dataclass(frozen=True)
class MethodEntry:
    """A method that can be asked for.

    Attributes:
        about: what it is, in words.
        made: its class.
        kind: what it keeps: the ``text``, an ``excerpt`` of it, weights that were ``trained``, or a ``memory``; or
            that it is a ``control``. Methods are listed in this order.
        on_demand: whether it runs only when it is named, or in a suite that asks for it.
        arguments: further arguments of the class, for classes that are several methods.
    """

    about: str
    made: type[BackboneMethod]
    kind: Kind = "excerpt"
    on_demand: bool = True
    arguments: Mapping[str, Any] = field(default_factory=dict)


_registered: dict[str, MethodEntry] = {}


def method(name: str, about: str, kind: Kind, *, on_demand: bool = False, **arguments: Any) -> Callable[[Made], Made]:
    """Makes a class the method of a name; a class can be several. What else there is to say is in :class:`MethodEntry`.

    Raises:
        ValueError: another class has the name.
    """

    def register(made: Made) -> Made:
        if name in _registered:
            raise ValueError(f"{made.__qualname__} and {_registered[name].made.__qualname__} are both named {name!r}.")
        _registered[name] = MethodEntry(about, made, kind, on_demand, arguments)
        return made

    return register


@cache
def own_methods() -> Mapping[str, MethodEntry]:
    """The methods of this folder by name, in the order of their kinds and then of their modules, controls last."""
    package = importlib.import_module("deltamem_lab.methods")
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(found.name)
    own = [(name, one) for name, one in _registered.items() if one.made.__module__.startswith(f"{package.__name__}.")]
    order = get_args(Kind)
    return dict(sorted(own, key=lambda pair: (order.index(pair[1].kind), pair[1].made.__module__)))


def static_of(adapter: str) -> str:
    """The name of the static control of an adapter; ``static`` alone is that of the main one."""
    return f"{STATIC}-{adapter}"


def is_static(name: str) -> bool:
    """Whether an adapter, or the method that is named by it, is a static control."""
    plain = name.partition("+")[0]
    return plain == STATIC or plain.startswith(static_of(""))


def adapter_of(name: str) -> str | None:
    """The adapter that a method is about, by its name: empty if it names none, ``None`` if it is about none."""
    kind, adapter = _split(name)
    entry = _installed_method(kind)
    if entry is not None:
        return adapter if entry.made.adapted else None
    return None if ":" in name else name.partition("+")[0]


def find_method(name: str) -> MethodEntry:
    """The method of a name, or of a class ``module:Class``, which is imported.

    Raises:
        ValueError: there is no such class, or it is not a method.
    """
    own = own_methods()
    if name in own:
        return own[name]
    made = load_named(name, METHOD_GROUP)
    if made is None:
        raise ValueError("not known")
    if not (isinstance(made, type) and issubclass(made, BackboneMethod)):
        raise ValueError(f"{name} is not a method: its class must inherit from deltamem_lab.methods.BackboneMethod.")
    decorated = (one for one in _registered.values() if one.made is made)
    first_line = (made.__doc__ or name).strip().splitlines()[0].rstrip(".")
    return _registered.setdefault(name, next(decorated, MethodEntry(first_line, made)))


def import_methods(names: Iterable[str]) -> None:
    """Imports the classes of other packages among these methods, so that the weights they have are known.

    Raises:
        ValueError: there is no such class.
    """
    for kind in (_split(name)[0] for name in names):
        if ":" in kind or kind in installed(METHOD_GROUP):
            find_method(kind)


def known_weights() -> list[Weights]:
    """How the weights of all methods that are known so far are recognised and loaded."""
    own_methods()
    return list(dict.fromkeys(one.made.weights for one in _registered.values() if one.made.weights is not None))


def parse_method(name: str, adapters: Sequence[str]) -> tuple[str, str]:
    """The kind of a method and the adapter it is about.

    ``multi`` is the memory of the adapter of that name, ``multi+context`` with the full context written along, and
    ``multi+replay`` with the full context only read. The others are ``kind:adapter``, or the kind alone for the last
    adapter that is not a control. A kind can be ``module:Class``.

    Raises:
        ValueError: there is no such method or adapter.
    """
    plain, _, part = name.partition("+")
    if plain in adapters and part in _PARTS:
        return _PARTS[part], plain
    kind, adapter = _split(name)
    try:
        entry = find_method(kind)
        if adapter and not entry.made.adapted:
            raise ValueError("it does not use an adapter")
    except ValueError as error:
        known = [*own_methods(), *installed(METHOD_GROUP), *adapters, *(f"{adapter}+context" for adapter in adapters)]
        raise ValueError(
            f"There is no method {name!r} ({error}); there are: {', '.join(known)}, or write module:Class."
        ) from None
    if not entry.made.adapted:
        return kind, ""
    main = [adapter for adapter in adapters if not is_static(adapter)]
    if not main or (adapter and adapter not in adapters):
        raise ValueError(f"The method {name!r} needs an adapter that is not loaded; load one with --adapter.")
    return kind, adapter or main[-1]


def build_method(name: str, backbone: Backbone, options: MethodOptions | None = None) -> BackboneMethod:
    """A method by its name; see :func:`parse_method`.

    Raises:
        ValueError: there is no such method or adapter.
    """
    kind, adapter = parse_method(name, backbone.adapters)
    entry = find_method(kind)
    return entry.made.build(name, backbone, adapter, options or MethodOptions(), **entry.arguments)


def describe_method(name: str) -> str:
    """What a method is, in words for a table.

    A record's ``module:Class`` is described by its name alone: reading records must not import a module.
    """
    kind, adapter = _split(name)
    if entry := _installed_method(kind):
        return entry.about + (f" ({adapter})" if adapter else "")
    if ":" in name:
        return name
    plain, _, part = name.partition("+")
    if is_static(plain):
        trained = "control: trained on strangers' memories"
        return trained if plain == STATIC else f"{trained} ({plain.removeprefix(static_of(''))})"
    return f"δ-mem {plain}" + {"": "", "replay": " and the text again"}.get(part, " and full context")


def is_control(name: str) -> bool:
    """Whether a method shows what is not memory."""
    entry = _installed_method(_split(name)[0])
    return is_static(name) or (entry is not None and entry.kind == "control")


def lacking(name: str, backbone: Backbone, options: MethodOptions) -> str:
    """Why a method cannot run on this backbone, if it cannot.

    Raises:
        ValueError: there is no such method.
    """
    if is_static(name) and name not in backbone.adapters:
        named = "" if name == STATIC else f"{name.removeprefix(static_of(''))}="
        return f"needs an adapter that was trained on strangers' memories: --static-adapter {named}FOLDER"
    kind, _ = parse_method(name, backbone.adapters)
    return find_method(kind).made.lacks(backbone, options)


def default_methods(backbone: Backbone, options: MethodOptions | None = None) -> tuple[str, ...]:
    """Every method of this package whose adapters and packages are there, controls last; not those on demand.

    Of several adapters each has its own empty and strangers' memories beside the main one's.
    """
    options = options or MethodOptions()
    main = [adapter for adapter in backbone.adapters if not is_static(adapter)]
    usual = {name: one for name, one in own_methods().items() if not one.on_demand}
    plain = [name for name, one in usual.items() if not one.made.adapted and not lacking(name, backbone, options)]
    states = [name for adapter in main for name in (adapter, f"{adapter}+context")]
    others = [name for name, one in usual.items() if main and one.made.adapted and name not in _PARTS.values()]
    matched = [f"{control}:{adapter}" for adapter in main[:-1] for control in MATCHED]
    static = [adapter for adapter in backbone.adapters if is_static(adapter)]
    return (*plain, *states, *others, *matched, *static)


def _installed_method(kind: str) -> MethodEntry | None:
    """The method of a name, if it is of this package or an installed one."""
    return find_method(kind) if kind in own_methods() or kind in installed(METHOD_GROUP) else None


def _split(name: str) -> tuple[str, str]:
    """A method's kind, which may be ``module:Class``, and its adapter, if it is said."""
    kind, _, rest = name.partition(":")
    if kind in own_methods() or kind in installed(METHOD_GROUP):
        return kind, rest
    attribute, _, adapter = rest.partition(":")
    return (f"{kind}:{attribute}" if attribute else kind), adapter
