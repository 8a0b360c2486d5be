"""The base class of errors that a user can fix."""

from __future__ import annotations


class LayerscopeError(Exception):
    """Bad input or wrong use. The message is one line: what was expected, what was given, and the
    nearest valid value.

    Every error class of layerscope derives from it. The command line prints the message and exits
    with status 2; any other exception is a bug and is shown with its traceback. Most derived
    classes are also a ``ValueError`` or ``LookupError``.
    """


class InputError(LayerscopeError, ValueError):
    """A value, a shape or a combination of arguments that cannot be used."""


class UnknownName(LayerscopeError, LookupError):
    """A name that does not exist; the message lists valid names."""


class UseError(LayerscopeError, RuntimeError):
    """A call at the wrong time, such as gradients outside their block."""
