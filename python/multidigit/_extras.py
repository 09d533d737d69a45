"""The message for a library that is not installed."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports of libraries that the extra `name` installs. A missing one raises ImportError with the command to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f'{error.name} is not installed; install it: pip install "multidigit[{name}]"') from error
