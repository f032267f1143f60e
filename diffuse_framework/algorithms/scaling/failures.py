"""Why scaling can't go on, a class for each: who knows the parameters adds which of them to change."""

from __future__ import annotations

from diffuse_framework.errors import ConfigError, DataError


class NothingSeenTwiceError(DataError):
    """No voxel has two observations."""


class NoSpaceError(DataError):
    """The observations fit neither into memory nor into the folder for them."""


class NoReflectionsError(DataError):
    """No Bragg reflection can serve as a reference."""


class SameForAllImagesError(ConfigError):
    """A component is the same for all images and can't be told from the map.

    Attributes:
        component: its name.
    """

    def __init__(self, message: str, component: str) -> None:
        """Keep the component's name beside the message."""
        super().__init__(message)
        self.component = component

    def __reduce__(self) -> tuple:
        """Return what makes it again, in another process."""
        return type(self), (str(self), self.component)


class TooManyObservationsError(ConfigError):
    """More observations than a method keeps in memory."""
