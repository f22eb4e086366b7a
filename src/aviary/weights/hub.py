"""`hf:` addresses: files of Hugging Face repositories.

huggingface_hub finds the file: endpoint (`HF_ENDPOINT`), token, revision, redirects, gates. The
bytes then come through our own HTTP source, since it goes on with a partial file after a restart
(`hf_hub_download` of huggingface_hub 2.4 throws it away) and leaves no second copy in another
cache. Files too large for plain HTTP are left to `hf_hub_download`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aviary.core.errors import WeightsError
from aviary.core.ports import Progress
from aviary.weights.address import display_name, printable
from aviary.weights.checksum import WrongChecksum, sha256_of
from aviary.weights.disk import disk_errors, require_space, size_of
from aviary.weights.http import HttpSource, discard
from aviary.weights.meter import Meter

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_ADDRESS = re.compile(rf"hf:({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._%-]{{0,254}}))?/(.+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FORM = "Write hf:ORG/REPO[@REVISION]/PATH/IN/REPO; a slash in a revision is written %2F."


@dataclass(frozen=True, slots=True)
class HubAddress:
    """An `hf:` address in its parts.

    Attributes:
        repo: `org/name`.
        revision: Branch, tag or commit; `None` is the default branch.
        path: Of the file in the repository.
    """

    repo: str
    revision: str | None
    path: str


def parse_hub(uri: str) -> HubAddress:
    """The parts of an `hf:` address.

    Raises:
        WeightsError: when it is none.
    """
    match = _ADDRESS.fullmatch(uri)
    if match is None or not uri.isprintable():
        raise WeightsError(f"{printable(uri)}: not an hf: address.", hint=_FORM)
    repo, revision, path = match.groups()
    if any(segment in {"", ".", ".."} for segment in path.split("/")) or "\\" in path:
        raise WeightsError(f"{uri}: {path} is no path of a file in a repository.", hint=_FORM)
    if ".." in repo or "--" in repo:
        raise WeightsError(f"{uri}: {repo} is no name of a repository.", hint=_FORM)
    if revision is not None:
        revision = re.sub("%2F", "/", revision, flags=re.IGNORECASE)
        if "%" in revision or ".." in revision:
            raise WeightsError(f"{uri}: {revision} is no revision.", hint=_FORM)
    return HubAddress(repo, revision, path)


class HubSource:
    """Fetches a file of a Hugging Face repository.

    Args:
        endpoint: Of the hub; left out: what huggingface_hub takes from `HF_ENDPOINT`.
        http: Fetches the bytes.
        largest_plain: Largest size in bytes that plain HTTP serves; left out: the library's.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        http: HttpSource | None = None,
        largest_plain: int | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._http = http or HttpSource()
        self._largest_plain = largest_plain

    def fetch(self, uri: str, target: Path, progress: Progress) -> None:
        """Write the file's bytes to `target`, resuming what is there; raises `WeightsError`."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        address = parse_hub(uri)
        name = display_name(uri)
        progress(f"asking the hub for {name}", None)
        metadata = self._metadata(uri, address)
        largest = self._largest_plain or constants.MAX_HTTP_DOWNLOAD_SIZE
        if metadata.size is not None and metadata.size > largest:
            self._through_library(uri, address, metadata, target, progress)
        else:
            url = hf_hub_url(
                address.repo,
                address.path,
                revision=metadata.commit_hash,
                endpoint=self._endpoint,
            )
            headers = {str(key): str(value) for key, value in build_hf_headers().items()}
            self._http.download(
                url, target, progress, name=name, headers=headers, size=metadata.size
            )
        self._check(uri, metadata, target, progress)

    def _metadata(self, uri: str, address: HubAddress) -> HfFileMetadata:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        try:
            url = hf_hub_url(
                address.repo, address.path, revision=address.revision, endpoint=self._endpoint
            )
            metadata = get_hf_file_metadata(url, endpoint=self._endpoint)
        except Exception as error:
            raise _explain(uri, address, error) from error
        if metadata.commit_hash is None:
            raise WeightsError(
                f"{uri}: {metadata.location} does not answer as a Hugging Face hub does.",
                hint="Check HF_ENDPOINT and any proxy in between.",
            )
        return metadata

    def _through_library(
        self,
        uri: str,
        address: HubAddress,
        metadata: HfFileMetadata,
        target: Path,
        progress: Progress,
    ) -> None:
        from huggingface_hub import hf_hub_download

        size = metadata.size or 0
        meter = Meter(progress, "downloading", display_name(uri), size)
        require_space(target, size, display_name(uri))
        folder = target.with_name(f"{target.name}.hub")
        with disk_errors(target, "writing"):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            path = hf_hub_download(
                address.repo,
                address.path,
                revision=metadata.commit_hash,
                local_dir=folder,
                endpoint=self._endpoint,
                tqdm_class=_bar_for(meter),
            )
            with disk_errors(target, "writing"):
                os.replace(path, target)  # noqa: PTH105
        except WeightsError:
            raise
        except Exception as error:
            raise _explain(uri, address, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _check(self, uri: str, metadata: HfFileMetadata, target: Path, progress: Progress) -> None:
        size = size_of(target)
        if metadata.size is not None and size != metadata.size:
            discard(target)
            raise WeightsError(f"{uri}: {size} bytes came, the hub states {metadata.size}.")
        if metadata.etag is None or not _SHA256.fullmatch(metadata.etag):
            return
        digest = sha256_of(target, Meter(progress, "checking", display_name(uri), size))
        if digest != metadata.etag:
            discard(target)
            raise WrongChecksum(uri, metadata.etag, digest, removed=True)


def _bar_for(meter: Meter) -> type[Any]:
    """A stand-in for the library's progress bar that reports to the meter and draws nothing."""

    class Bar:
        def __init__(self, *_args: object, **_kwargs: object) -> None:
            pass

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_error: object) -> None:
            pass

        def update(self, count: float | None = 1) -> None:
            meter.add(int(count or 0))

        def __getattr__(self, _name: str) -> Callable[..., None]:
            return lambda *_args, **_kwargs: None

    return Bar


def _explain(uri: str, address: HubAddress, error: Exception) -> WeightsError:
    """The `WeightsError` for what huggingface_hub raises."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return WeightsError(
            f"{uri}: access to {address.repo} is restricted.",
            hint="Accept its terms on the hub's page, then log in: hf auth login, or HF_TOKEN.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return WeightsError(
            f"{uri}: the hub knows no repository {address.repo}, or it is private.",
            hint="Check the name; for a private one give a token: hf auth login, or HF_TOKEN.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsError(f"{uri}: {address.repo} has no revision {address.revision}.")
    if isinstance(error, errors.EntryNotFoundError):
        return WeightsError(
            f"{uri}: {address.repo} has no file {address.path}.",
            hint="Look at the repository's list of files.",
        )
    if isinstance(error, errors.OfflineModeIsEnabled):
        return WeightsError(
            f"{uri}: huggingface_hub is offline (HF_HUB_OFFLINE).",
            hint="Unset HF_HUB_OFFLINE to download.",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return WeightsError(f"{uri}: the hub answered: {_first_line(error)}.")
    if isinstance(error, httpx2.TransportError):
        return WeightsError(
            f"{uri}: cannot reach the hub: {_first_line(error)}.",
            hint="Check the network, any proxy and HF_ENDPOINT, or add a mirror.",
        )
    return WeightsError(f"{uri}: {_first_line(error)}.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
