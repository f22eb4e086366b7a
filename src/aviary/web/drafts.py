"""A first spec for weights of which only the address is known."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from aviary.config.spec import LlamaCppEngine, ModelSpec, Source
from aviary.core.errors import InvalidRequest, WeightsError
from aviary.weights.sources import check_address

LONGEST_ID = 63
_PARTS = re.compile(r"\.(?:gguf|part\d+)$", re.IGNORECASE)
_NOT_IN_IDS = re.compile(r"[^a-z0-9._-]+")


def draft_spec(uri: str, taken: Collection[str]) -> ModelSpec:
    """A spec that serves the file by llama.cpp; nothing is fetched.

    Args:
        uri: The file's address.
        taken: Ids that other models have.

    Raises:
        InvalidRequest: it is no address of a file.
    """
    uri = uri.strip()
    try:
        check_address(uri)
        source = Source(uri=uri)
    except WeightsError as error:
        raise InvalidRequest(str(error), param="source") from error
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        raise InvalidRequest(f"This is no address: {message}.", param="source") from error
    return ModelSpec(id=draft_id(uri, taken), source=source, engine=LlamaCppEngine(kind="llamacpp"))


def draft_id(uri: str, taken: Collection[str] = ()) -> str:
    """An id after the name of the file, that no other model has."""
    path = uri.partition(":")[2]
    if uri.lower().startswith(("http:", "https:", "file://")):
        path = unquote(urlsplit(uri).path)
    name = path.rstrip("/").rpartition("/")[2]
    while shorter := _PARTS.search(name):
        name = name[: shorter.start()]
    name = _NOT_IN_IDS.sub("-", name.lower()).lstrip("._-")[:LONGEST_ID].rstrip("._-") or "model"
    number, free = 2, name
    while free in taken:
        end = f"-{number}"
        free = name[: LONGEST_ID - len(end)] + end
        number += 1
    return free
