"""The extra that provides the packages of an integration."""


def missing_extra(module: str, error: ImportError) -> ImportError:
    """Return the error to raise when an integration cannot import a package; its text names the extra to install."""
    extra = module.rpartition(".")[2].replace("_", "-")
    return type(error)(
        f"{module} needs the package {error.name}: pip install '.[{extra}]' in its checkout", name=error.name
    )
