"""`/api`: stored battles, votes, the leaderboard, and the choice of a model by it.

Battles themselves run in the gateway workers, which hand over what comes of them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from time import monotonic
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import PlainTextResponse

from aviary.arena.leaderboard import choose, since_of, to_csv
from aviary.auth.addresses import hash_address
from aviary.auth.limits import Limits
from aviary.core.errors import ModelNotFound, RouteMissing
from aviary.core.preference import COUNTED_A_BATTLE, COUNTED_A_DAY, Vote
from aviary.core.states import ModelState
from aviary.web import arena_shapes as shapes
from aviary.web.ports import Control
from aviary.web.roles import ADMIN, KEY
from aviary.web.standings import Standings
from aviary.wire.asgi import ADDRESS_HEADER

VOTES_A_SESSION_PER_MINUTE: Final = 30
VOTES_AN_ADDRESS_PER_MINUTE: Final = 120
CHOICE_PERIOD: Final = "24h"
"""Choices look at answers of the last day, and at votes of all times."""

MOST_VOTERS: Final = 200
MANY_VOTES: Final = 20
"""An address with so many votes is shown, whatever they are."""

Name = Annotated[str | None, Query(max_length=256)]


def add_arena(router: APIRouter, control: Control) -> None:
    """Add the routes."""
    standings = Standings(control)
    _add_battles(router, control, standings)
    _add_abuse(router, control)
    _add_leaderboard(router, control, standings)


def _add_battles(router: APIRouter, control: Control, standings: Standings) -> None:
    secret: list[bytes] = []
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
        address = request.headers.get(_ADDRESS, "")
        limits.take(new.session, address, monotonic())
        if not secret:
            secret.append(await asyncio.to_thread(control.ballots.secret))
        cast = Vote(
            battle=new.battle,
            session=new.session,
            verdict=new.verdict,
            column=new.column,
            reason=new.reason,
            time=time.time(),
            key=request.headers.get(KEY, ""),
            address=hash_address(address, secret[0]),
        )
        await asyncio.to_thread(control.ballots.vote, cast)
        standings.voted()
        return await shown(new.battle, new.session)


def _add_abuse(router: APIRouter, control: Control) -> None:
    @router.get("/votes/abuse", dependencies=ADMIN)
    async def abuse(since: Annotated[str, Query(max_length=32)] = "7d") -> shapes.Abuse:
        """Addresses that voted often, whose votes do not all count, or that favour one model."""
        start = since_of(since, time.time())
        found = await asyncio.to_thread(control.ballots.voters, start, MOST_VOTERS)
        voters = [shapes.VotingAddress.of(voter) for voter in found]
        return shapes.Abuse(
            since=start,
            counted_a_day=COUNTED_A_DAY,
            counted_a_battle=COUNTED_A_BATTLE,
            addresses=[v for v in voters if v.votes >= MANY_VOTES or v.not_counted or v.one_sided],
        )


def _add_leaderboard(router: APIRouter, control: Control, standings: Standings) -> None:
    @router.get("/leaderboard", response_model=shapes.Leaderboard)
    async def leaderboard(
        task: Name = None,
        tag: Name = None,
        since: Annotated[str, Query(max_length=32)] = "",
        format: shapes.Format = "json",  # noqa: A002
    ) -> shapes.Leaderboard | PlainTextResponse:
        """Quality by votes, speed and cost by the request log; `since` is `7d` or a unix time."""
        votes, found = await standings.rows(since, since, time.time(), task, tag)
        if format == "csv":
            headers = {"content-disposition": 'attachment; filename="leaderboard.csv"'}
            return PlainTextResponse(to_csv(found), media_type="text/csv", headers=headers)
        return shapes.Leaderboard(
            votes=votes,
            tasks=list(await standings.tasks()),
            tags=standings.tags(),
            rows=[shapes.LeaderboardRow.of(row) for row in found],
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
        _, found = await standings.rows("", CHOICE_PERIOD, time.time(), None, None)
        model, why = choose(new.how, found, ready, secrets.choice)
        return shapes.Choice(model=model, how=new.how, why=why)


def _answers(control: Control, model: str) -> bool:
    """Whether the model writes text; one that turns text into vectors does not."""
    return not getattr(control.fleet.spec(model).engine, "embeddings", False)


_ADDRESS: Final = ADDRESS_HEADER.decode()
