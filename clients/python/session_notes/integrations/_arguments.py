"""Type checks for the clients that applications pass to integrations."""

from session_notes._recorder import WrongKind


def check_client(client: object, *classes: type, advice: str = "") -> None:
    """Check that a client is an instance of one of the classes.

    Raises:
        InvalidArgument: If it is not. The message names the classes and ends with `advice`.
    """
    if not isinstance(client, classes):
        names = " or ".join(accepted.__name__ for accepted in classes)
        raise WrongKind(f"client must be an instance of {names}, not {class_name(client)}{advice}")


def class_name(value: object) -> str:
    """Return the name of an object's class, or of a class itself."""
    return (value if isinstance(value, type) else type(value)).__name__
