"""The program's modules as its tests import them, and the tests' own, which lie in memory."""

import types
from importlib.machinery import ModuleSpec

from seen_by_tests import is_proxy


class ProgramModule(types.ModuleType):
    """Stands for a module of the program; its attributes are asked for when they are used."""

    def __init__(self, name, end, proxy):
        super().__init__(name)
        self.__dict__["_wire_end_"], self.__dict__["_wire_module_"] = end, proxy

    def __getattr__(self, name):
        if name == "__all__":
            return self._names()
        if name.startswith("__"):
            raise AttributeError(name)
        return _end_of(self).get_of_module(self._wire_module_, name)

    def _names(self):
        try:
            names = _end_of(self).ask("get", self._wire_module_, "__all__")
        except AttributeError:
            names = [name for name in dir(self._wire_module_) if not name.startswith("_")]
        return [name for name in names if type(name) is str]

    def __dir__(self):
        return self._names()

    def __setattr__(self, name, value):
        if name.startswith("__") or isinstance(value, types.ModuleType):  # notes of the import system
            super().__setattr__(name, value)
        else:
            _end_of(self).ask("set", self._wire_module_, name, value)

    def __delattr__(self, name):
        _end_of(self).ask("del", self._wire_module_, name)


def _end_of(module):
    return module.__dict__["_wire_end_"]


class Finder:
    """Finds the tests' modules in memory, and the program's at the other end."""

    def __init__(self, end, program, tests):
        self._end = end
        self._program = program
        self._tests = tests

    def find_spec(self, name, path=None, target=None):
        """See `importlib.abc.MetaPathFinder`."""
        packages = {each.rpartition(".")[0] for each in (*self._tests, *self._program)}
        if name in self._tests or name in self._program or name in packages:
            spec = ModuleSpec(name, self, is_package=name in packages)  # pyright: ignore[reportArgumentType]
            spec.origin = f"{name}.py"
            return spec
        return None

    def create_module(self, spec):
        """See `importlib.abc.Loader`. Raises what the program raises where it is imported."""
        if spec.name in self._tests or spec.name not in self._program:
            return None
        proxy = self._end.ask("import", spec.name)
        if not is_proxy(proxy):
            raise ImportError(f"{spec.name} of the program is no module.")
        return ProgramModule(spec.name, self._end, proxy)

    def exec_module(self, module):
        """See `importlib.abc.Loader`."""
        source = self._tests.get(module.__name__)
        if source is not None:
            import linecache

            path = module.__dict__["__file__"] = f"{module.__name__}.py"
            linecache.cache[path] = (len(source), None, source.splitlines(True), path)
            exec(compile(source, path, "exec"), module.__dict__)


def seeds_both(end):
    """`random.seed` of the tests seeds the program's generator too."""
    import random

    of_tests = random.seed

    def seed(a=None, version=2):
        of_tests(a, version)
        end.ask("seed", a)

    random.seed = seed
