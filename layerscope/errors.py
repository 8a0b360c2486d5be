"""The one base class of the errors that a user can mend."""

from __future__ import annotations


class LayerscopeError(Exception):
    """Bad input or a wrong use, in one line: what was expected, what was got, the nearest thing
    that exists.

    Every error class of layerscope derives from it. The command line prints it as one line with
    exit status 2; any other exception is a bug and is shown with its traceback. Most derived
    classes are also a ``ValueError`` or ``LookupError``, so that scripts can catch them as such.
    """


class InputError(LayerscopeError, ValueError):
    """A value, a shape or a combination of arguments that cannot be used."""


class UnknownName(LayerscopeError, LookupError):
    """A name that does not exist; the message gives those that do."""


class UseError(LayerscopeError, RuntimeError):
    """A call at the wrong time, such as gradients asked for outside their block."""
