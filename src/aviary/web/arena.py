"""`/api`: stored battles, votes, the leaderboard, and the choice of a model by it.

Battles themselves run in the gateway workers, which hand them over at their end (`store_battle`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from time import monotonic
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse

from aviary.arena.leaderboard import Row, board, choose, since_of, to_csv
from aviary.arena.ratings import rate
from aviary.auth.limits import Limits
from aviary.core.errors import InvalidRequest, ModelNotFound, RouteMissing
from aviary.core.preference import Ballots, Battle, Vote
from aviary.core.states import ModelState
from aviary.web import arena_shapes as shapes
from aviary.web.ports import Control
from aviary.web.roles import KEY
from aviary.wire.asgi import ADDRESS_HEADER, Receive, read_body

BATTLE_LIMIT_BYTES: Final = 128 * 1024 * 1024
VOTES_A_SESSION_PER_MINUTE: Final = 30
VOTES_AN_ADDRESS_PER_MINUTE: Final = 120
CHOICE_PERIOD_S: Final = 86_400.0
"""Choices look at answers of the last day, and at votes of all times."""

_battle = msgspec.json.Decoder(Battle)
Name = Annotated[str | None, Query(max_length=256)]


async def store_battle(ballots: Ballots, receive: Receive) -> None:
    """Store a battle that a worker has run; durable when this returns.

    Raises:
        InvalidRequest: it is none.
        StoreError: the database failed.
    """
    try:
        battle = _battle.decode(await read_body(receive, BATTLE_LIMIT_BYTES))
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"No battle: {error}") from None
    await asyncio.to_thread(ballots.save, battle)


def add_arena(router: APIRouter, control: Control) -> None:
    """Add the routes."""
    _add_battles(router, control)
    _add_leaderboard(router, control)


def _add_battles(router: APIRouter, control: Control) -> None:
    limits = Limits(VOTES_A_SESSION_PER_MINUTE, VOTES_AN_ADDRESS_PER_MINUTE, "votes")

    async def shown(battle: str, session: str) -> shapes.StoredBattle:
        found = await asyncio.to_thread(control.ballots.battle, battle)
        if found is None:
            raise RouteMissing(f"There is no battle {battle[:64]!r}.", param="battle")
        votes = await asyncio.to_thread(control.ballots.votes, battle)
        return shapes.StoredBattle.of(found, list(votes), session)

    @router.get("/battles/{battle}")
    async def get_battle(
        battle: str, session: Annotated[str, Query(max_length=64)] = ""
    ) -> shapes.StoredBattle:
        """A stored battle; a blind one names its models to a session that has voted."""
        return await shown(battle, session)

    @router.post("/votes")
    async def vote(new: shapes.NewVote, request: Request) -> shapes.StoredBattle:
        """Vote on a battle, or change the vote; stored for good when this answers."""
        limits.take(new.session, request.headers.get(_ADDRESS, ""), monotonic())
        cast = Vote(
            battle=new.battle,
            session=new.session,
            verdict=new.verdict,
            column=new.column,
            reason=new.reason,
            time=time.time(),
            key=request.headers.get(KEY, ""),
        )
        await asyncio.to_thread(control.ballots.vote, cast)
        return await shown(new.battle, new.session)


def _add_leaderboard(router: APIRouter, control: Control) -> None:
    async def rows(
        votes_since: float, answers_since: float, task: str | None, tag: str | None
    ) -> tuple[int, list[Row]]:
        ballots = await asyncio.to_thread(control.ballots.ballots, votes_since, task)
        ratings = await asyncio.to_thread(rate, ballots)
        served = {view.id: view.tags for view in control.fleet.snapshot.models}
        models = {*served, *(rating.model for rating in ratings)}
        figures = await control.observed.figures(sorted(models), answers_since)
        return len(ballots), board(ratings, figures, served, tag)

    @router.get("/leaderboard", response_model=shapes.Leaderboard)
    async def leaderboard(
        task: Name = None,
        tag: Name = None,
        since: Annotated[str, Query(max_length=32)] = "",
        format: shapes.Format = "json",  # noqa: A002
    ) -> shapes.Leaderboard | PlainTextResponse:
        """Quality by votes, speed and cost by the request log; `since` is `7d` or a unix time."""
        start = since_of(since, time.time())
        votes, found = await rows(start, start, task, tag)
        if format == "csv":
            headers = {"content-disposition": 'attachment; filename="leaderboard.csv"'}
            return PlainTextResponse(to_csv(found), media_type="text/csv", headers=headers)
        return shapes.Leaderboard(
            votes=votes, rows=[shapes.LeaderboardRow.of(row) for row in found]
        )

    @router.post("/choose")
    async def choose_model(new: shapes.NewChoice) -> shapes.Choice:
        """Choose the fastest, cheapest, best rated or a random model of those that are ready."""
        views = {view.id: view for view in control.fleet.snapshot.models}
        among = set(views) if new.among is None else set(new.among)
        for model in sorted(among - set(views)):
            raise ModelNotFound(f"There is no model {model[:100]!r}.", param="among")
        ready = {
            model
            for model in among
            if views[model].state is ModelState.READY and _answers(control, model)
        }
        _, found = await rows(0.0, time.time() - CHOICE_PERIOD_S, None, None)
        model, why = choose(new.how, found, ready, secrets.choice)
        return shapes.Choice(model=model, how=new.how, why=why)


def _answers(control: Control, model: str) -> bool:
    """Whether the model writes text; one that turns text into vectors does not."""
    return not getattr(control.fleet.spec(model).engine, "embeddings", False)


_ADDRESS: Final = ADDRESS_HEADER.decode()
