"""Checks of the clients that an application passes to an integration."""

from session_notes._recorder import WrongKind


def check_client(client: object, *classes: type, advice: str = "") -> None:
    """Check that a client is an instance of one of the classes.

    Raises:
        InvalidArgument: If it is not. The text names the classes and ends in `advice`.
    """
    if not isinstance(client, classes):
        names = " or ".join(accepted.__name__ for accepted in classes)
        raise WrongKind(f"client must be of the class {names}, not {class_name(client)}{advice}")


def class_name(value: object) -> str:
    """Return the name of an object's class, or of a class itself."""
    return (value if isinstance(value, type) else type(value)).__name__
