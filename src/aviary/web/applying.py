"""`/api/apply`: change many models at once, and follow what became of it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import APIRouter, Request

from aviary.config.loader import parse_spec
from aviary.config.spec import ModelSpec
from aviary.config.strict_yaml import MAX_BYTES
from aviary.core.errors import BodyTooLarge, InvalidRequest
from aviary.fleet.diff import Change
from aviary.web import shapes
from aviary.web.addresses import hidden_value
from aviary.web.ports import Control
from aviary.web.roles import ADMIN, caller

APPLY_LIMIT_BYTES = 16 * 1024 * 1024


class _Apply(msgspec.Struct, forbid_unknown_fields=True):
    specs: list[msgspec.Raw]
    prune: bool = False
    dry_run: bool = False
    rollback: bool = True


_apply = msgspec.json.Decoder(_Apply)
APPLY_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "title": "Apply",
                    "type": "object",
                    "required": ["specs"],
                    "properties": {
                        "specs": {
                            "type": "array",
                            "items": {"type": "object", "title": "Model spec"},
                        },
                        "prune": {
                            "type": "boolean",
                            "description": "Stop models that are not among the specs.",
                        },
                        "dry_run": {
                            "type": "boolean",
                            "description": "Only say what would change.",
                        },
                        "rollback": {
                            "type": "boolean",
                            "default": True,
                            "description": "Take back a version that cannot start.",
                        },
                    },
                }
            }
        },
    }
}
SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object", "title": "Model spec"}}},
    }
}


def add_applying(router: APIRouter, control: Control) -> None:
    """The routes that change which models are served."""
    fleet = control.fleet

    @router.post("/apply", status_code=202, dependencies=ADMIN, openapi_extra=APPLY_BODY)
    async def apply(request: Request) -> shapes.Applying:
        """Serve models as their specs say; returns when it is stored, before they are ready."""
        given = _decode(await read_limited(request, APPLY_LIMIT_BYTES))
        specs = await asyncio.to_thread(_parse_all, given.specs)
        if given.dry_run:
            changes = fleet.compare(specs, prune=given.prune)
            return shapes.Applying(id=None, changes=[show_change(change) for change in changes])
        application, changes = await fleet.apply(
            specs, prune=given.prune, rollback=given.rollback, by=caller(request)
        )
        return shapes.Applying(
            id=application.id, changes=[show_change(change) for change in changes]
        )

    @router.get("/apply/{identity}", dependencies=ADMIN)
    async def get_apply(identity: str) -> shapes.Application:
        """What became of an apply, model by model."""
        application = fleet.application(identity)
        return shapes.Application(
            id=application.id,
            done=application.done,
            models=[
                shapes.Outcome(
                    model=model, state=outcome.state, detail=outcome.detail, log=outcome.log
                )
                for model, outcome in application.models.items()
            ],
        )

    @router.post("/models", status_code=202, dependencies=ADMIN, openapi_extra=SPEC_BODY)
    async def add_model(request: Request) -> shapes.Applied:
        """Serve a model as its spec (as JSON) says; replaces a model of the same id."""
        text = await read_limited(request, MAX_BYTES)
        spec = await asyncio.to_thread(parse_spec, text, "spec")
        application, changes = await fleet.apply([spec], by=caller(request))
        action = next(change.action for change in changes if change.model == spec.id)
        return shapes.Applied(model=spec.id, action=action, apply=application.id)

    @router.delete("/models/{model}", dependencies=ADMIN)
    async def stop_model(model: str, request: Request) -> shapes.Applied:
        """Stop serving a model; answers in progress end first."""
        await fleet.stop_model(model, by=caller(request))
        return shapes.Applied(model=model, action="stopped", apply=None)


async def read_limited(request: Request, limit_bytes: int) -> bytes:
    """The request's body.

    Raises:
        BodyTooLarge: as soon as it is larger than the limit.
    """
    text = bytearray()
    async for piece in request.stream():
        text += piece
        if len(text) > limit_bytes:
            raise BodyTooLarge(f"At most {limit_bytes:,} bytes are taken here.")
    return bytes(text)


def _decode(body: bytes) -> _Apply:
    try:
        return _apply.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"The body is no apply: {error}.",
            hint='Send {"specs": [spec, …], "prune": false, "dry_run": false, "rollback": true}.',
        ) from error


def _parse_all(given: list[msgspec.Raw]) -> list[ModelSpec]:
    return [parse_spec(bytes(raw), f"specs[{index}]") for index, raw in enumerate(given)]


def show_change(change: Change) -> shapes.Change:
    """What becomes of one model, as it is shown: without secrets in addresses."""
    fields: list[dict[str, Any]] = []
    for field in change.fields:
        before = hidden_value(field.field, field.before)
        after = hidden_value(field.field, field.after)
        if before == after and isinstance(after, str):
            after = f"{after} (another one)"  # what differs is hidden
        fields.append({"field": field.field, "before": before, "after": after})
    return shapes.Change(
        model=change.model,
        action=change.action,
        restarts=change.restarts,
        fields=[shapes.FieldChange(**field) for field in fields],
    )
