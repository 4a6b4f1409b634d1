"""The models that the server has, by name and version."""

from collections.abc import Iterable, Iterator

from cutaway_server.errors import UnknownModel
from cutaway_server.models.model import Model


class Repository:
    """Models that are ready. The last version of a name is its default."""

    def __init__(self, models: Iterable[Model]) -> None:
        self._models: dict[str, dict[str, Model]] = {}
        for model in models:
            self._models.setdefault(model.name, {})[model.version] = model

    def __iter__(self) -> Iterator[Model]:
        for versions in self._models.values():
            yield from versions.values()

    def get(self, name: str, version: str = "") -> Model:
        """The model of this name, and version where one is given.

        Raises:
            UnknownModel: names what there is.
        """
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModel(name[:100], "", list(self._models))
        if not version:
            return next(reversed(versions.values()))
        if version not in versions:
            raise UnknownModel(name, version[:100], [f"{name} version {known}" for known in versions])
        return versions[version]
