"""Finding the service a command speaks of."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from crossfoot import settings
from crossfoot.app import Crossfoot
from crossfoot.cli.answering import keep_stdout
from crossfoot.cli.suggesting import look_into, looked_into
from crossfoot.connection import is_postgres, without_driver
from crossfoot.errors import CrossfootError, UsageError


def _told(error: BaseException) -> str:
    """What went wrong in the user's own code, and where."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return text
    frames = [
        f"{frame.filename}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename != __file__
    ]
    return f"{text} ({frames[0]})" if frames else text


def load_app(target: str, *, keeps_stdout: bool = True) -> Crossfoot:
    """The service that `MODULE:NAME` names; modules of the working folder are found, too. Commands that are shown name its book.

    Args:
        keeps_stdout: whether standard output is the command's alone from now on, and what the program prints goes to standard error.

    Raises:
        UsageError: there is no such module or name, or it is no `Crossfoot`; with the remedy.
    """
    if keeps_stdout:
        keep_stdout()
    module, name = _named(target, "a service: write MODULE:NAME, as in billing:app")
    app = getattr(module, name, None)
    if app is None:
        names = [key for key, value in vars(module).items() if isinstance(value, Crossfoot)]
        hint = f"it has {', '.join(names)}" if names else "it has no Crossfoot(...) at its top level"
        raise UsageError(f"module {module.__name__} has no {name!r}: {hint}")
    if not isinstance(app, Crossfoot):
        raise UsageError(
            f"{target} is a {type(app).__name__}, not a Crossfoot: name the object made by Crossfoot('...')"
        )
    if looked_into() is None:
        look_into(book_to_name(app))
    return app


def load_function(target: str) -> Callable[..., Any]:
    """The function that `MODULE:FUNCTION` names. Standard output is the command's alone from now on.

    Raises:
        UsageError: there is none.
    """
    keep_stdout()
    module, name = _named(target, "a function: write MODULE:FUNCTION, as in repairs:add_currency")
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"module {module.__name__} has no function {name!r}")
    made: Callable[..., Any] = function
    return made


def _named(target: str, wanted: str) -> tuple[ModuleType, str]:
    """The module and the name in it. Raises UsageError."""
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise UsageError(f"{target!r} does not name {wanted}")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(
            f"{module_name!r} is no module's name: write it as in an import, billing:app or shop.billing:app"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not (module_name + ".").startswith(error.name + "."):
            raise UsageError(f"{module_name} needs {error.name}, which is not installed: install it first") from error
        raise UsageError(
            f"there is no module {module_name!r} here ({os.getcwd()}) or among the installed packages"
        ) from error
    except CrossfootError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{module_name} could not be imported: {_told(error)}") from error
    return module, name


def book_of(app: Crossfoot) -> str:
    """Where the service's book is, as one would type it here: a file of the working folder by its name."""
    path = app.book.path
    near = path if is_postgres(path) else os.path.relpath(path)
    return path if near.startswith(os.pardir) else near


def book_to_name(app: Crossfoot) -> str | None:
    """The service's book, where a command typed here would look into another one unless it is told; `None` where it would not."""
    found, place = settings.load().database, app.book.path
    if is_postgres(found) or is_postgres(place):
        return None if without_driver(found) == without_driver(place) else book_of(app)
    return None if os.path.abspath(found) == os.path.abspath(place) else book_of(app)
