"""`/api/specs`: specs as the text that people edit: tried, applied, begun."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from aviary.config.dump import dump_spec
from aviary.config.explain import field_path
from aviary.config.loader import MAX_PROBLEMS, Reading, read_spec
from aviary.config.schema import json_schema
from aviary.config.spec import ModelSpec
from aviary.config.strict_yaml import Document, Problem
from aviary.core.errors import AviaryError, ModelNotFound, SpecError
from aviary.fleet.fleet import Fleet
from aviary.web import shapes
from aviary.web.addresses import hidden, restored, shown_spec
from aviary.web.applying import show_change
from aviary.web.drafts import draft_spec
from aviary.web.ports import Control
from aviary.web.roles import ADMIN, USER, caller


def add_specs(router: APIRouter, control: Control) -> None:
    """The routes for specs as text."""
    fleet = control.fleet

    @router.post("/specs/preview", dependencies=ADMIN)
    async def preview(given: shapes.SpecText) -> shapes.Preview:
        """What a spec (YAML or JSON) would change, or what is wrong with it; changes nothing."""
        reading = await asyncio.to_thread(read_spec, given.text)
        reading = _completed(reading, fleet)
        spec = reading.spec
        if spec is None:
            return _wrong(reading)
        try:
            changes = fleet.compare([spec], prune=False)
        except AviaryError as error:
            problem = shapes.SpecProblem(
                message=str(error), line=None, column=None, field=error.param
            )
            return shapes.Preview(spec=None, model=spec.id, changes=[], errors=[problem])
        shown = [show_change(change) for change in changes if change.model == spec.id]
        return shapes.Preview(spec=shown_spec(spec), model=spec.id, changes=shown, errors=[])

    @router.post("/specs/apply", status_code=202, dependencies=ADMIN)
    async def apply(given: shapes.SpecText, request: Request) -> shapes.Applied:
        """Serve a model as its spec (YAML or JSON) says; replaces a model of the same id."""
        reading = await asyncio.to_thread(read_spec, given.text)
        reading = _completed(reading, fleet)
        if reading.spec is None:
            lines = [_line(problem) for problem in reading.problems[:MAX_PROBLEMS]]
            raise SpecError("\n".join(lines))
        application, changes = await fleet.apply([reading.spec], by=caller(request))
        model = reading.spec.id
        action = next(change.action for change in changes if change.model == model)
        return shapes.Applied(model=model, action=action, apply=application.id)

    @router.post("/specs/draft", dependencies=ADMIN)
    async def draft(given: shapes.SpecSource) -> shapes.SpecText:
        """A first spec for weights at an address, by its name alone; fetches nothing."""
        taken = {deployment.spec.id for deployment in fleet.deployments}
        return shapes.SpecText(text=dump_spec(draft_spec(given.source, taken)))

    @router.get("/schema", dependencies=USER)
    async def schema() -> dict[str, Any]:
        """The JSON Schema of a model spec."""
        return json_schema()


def spec_text(spec: ModelSpec) -> str:
    """The spec as YAML to be edited; `/api/specs/apply` puts back what is hidden in it."""
    return dump_spec(hidden(spec))


def _completed(reading: Reading, fleet: Fleet) -> Reading:
    """With the hidden parts of its addresses put back."""
    if reading.spec is None:
        return reading
    try:
        stored = fleet.spec(reading.spec.id)
    except ModelNotFound:
        stored = None
    spec, problems = restored(reading.spec, stored)
    if not problems:
        return Reading(spec, [], reading.document)
    document = reading.document
    placed = [
        Problem(document.position(problem.path), problem.path, problem.message, problem.hint)
        for problem in problems
    ]
    return Reading(None, placed, document)


def _wrong(reading: Reading) -> shapes.Preview:
    problems = [
        shapes.SpecProblem(
            message=problem.text,
            line=problem.position[0] if problem.position else None,
            column=problem.position[1] if problem.position else None,
            field=field_path(problem.path) or None,
        )
        for problem in reading.problems[:MAX_PROBLEMS]
    ]
    return shapes.Preview(spec=None, model=_id(reading.document), changes=[], errors=problems)


def _id(document: Document) -> str | None:
    """The model's id, if at least that can be read."""
    found = document.data.get("id") if isinstance(document.data, dict) else None
    return found if isinstance(found, str) else None


def _line(problem: Problem) -> str:
    place = f"{problem.position[0]}:{problem.position[1]}: " if problem.position else ""
    field = f"{field_path(problem.path)}: " if problem.path else ""
    return f"spec:{place or ' '}{field}{problem.text}"
