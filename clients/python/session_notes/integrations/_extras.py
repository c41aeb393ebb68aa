"""The error for an integration whose packages are not installed."""


def missing_extra(module: str, error: ImportError) -> ImportError:
    """Return an error that names the extra to install, for an integration that cannot import a package."""
    extra = module.rpartition(".")[2].replace("_", "-")
    return type(error)(
        f"{module} needs the package {error.name}: pip install '.[{extra}]' in its checkout", name=error.name
    )
