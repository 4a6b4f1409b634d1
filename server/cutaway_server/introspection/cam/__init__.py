"""Class activation maps and attributions of the input: one file a method, each a pure function from tensors to parts of a map.

A new method is a new file here that holds a `METHOD`: requests, the layer of the docs and the command find it by itself.
"""

from importlib import import_module
from pkgutil import iter_modules

from cutaway_server.introspection.cam.method import Method, Needs

_modules = (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
_methods: list[Method] = [module.METHOD for module in _modules if hasattr(module, "METHOD")]


def _place(method: Method) -> tuple[bool, int, str]:
    return method.at_input, list(Needs).index(method.needs), method.name


METHODS = {method.name: method for method in sorted(_methods, key=_place)}
