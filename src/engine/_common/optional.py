"""Optional libraries: imported where they are used, with an error that says how to install them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from engine.errors import MissingDependencyError


def need(module: str, purpose: str, extra: str | None = None) -> Any:
    """Import and return a module.

    Args:
        module: dotted path; its first part names the package.
        purpose: the subject of the error, "the offline store" for example.
        extra: the extra of this package that installs it; None if no extra does.

    Raises:
        MissingDependencyError: it is not installed, or cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing(module, purpose, extra) from error


def missing(module: str, purpose: str, extra: str | None = None) -> MissingDependencyError:
    """Return the error for a missing library; arguments as in `need`."""
    package = _PACKAGES.get(module.split(".")[0], module.split(".")[0].replace("_", "-"))
    wanted = f"'deadline-engine[{extra}]'" if extra else package
    more = ""
    if extra and not _from_index():  # pip would look for the extra in an index, and may not find it there
        more = f"; deadline-engine came from no package index here, so pip install {package} may be what you need"
    return MissingDependencyError(f"{purpose} needs {package}: pip install {wanted}{more}")


def _from_index() -> bool:
    """Whether this package was installed from a package index: not from a folder, a file or a repository (PEP 610)."""
    from importlib import metadata  # brings email and more, and `import engine` stays light

    try:
        return metadata.distribution("deadline-engine").read_text("direct_url.json") is None
    except metadata.PackageNotFoundError:  # on the path, but not installed
        return False


# Module -> package, for packages whose names differ.
_PACKAGES = {
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
    "prometheus_client": "prometheus-client",
    "google": "google-cloud-bigquery",
}
