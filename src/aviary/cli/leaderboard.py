"""`aviary leaderboard`: which model is good, fast and cheap."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from aviary.cli.options import JsonOption, KeyOption, UrlOption, print_json, say, settings_for
from aviary.cli.tables import Column, figure, print_table

if TYPE_CHECKING:
    from aviary.arena.leaderboard import Row

COLUMNS = (
    Column("RANK", right=True),
    Column("MODEL"),
    Column("RATING", right=True),
    Column("95 %", right=True),
    Column("VOTES", right=True),
    Column("WON", right=True),
    Column("TTFT MS", right=True),
    Column("TOKENS/S", right=True),
    Column("TOKENS", right=True),
    Column("USD/ANSWER", right=True),
    Column("USD/1M", right=True),
    Column("LAST SEEN"),
)


def leaderboard(
    context: typer.Context,
    task: Annotated[
        str | None, typer.Option("--task", help="Only votes on this task.", metavar="TASK")
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", help="Only models with this tag.", metavar="TAG")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", help="Only votes and answers since, for example 24h or 7d.", metavar="PERIOD"
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with all figures.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
) -> None:
    """Show which models are good by votes, and how fast and cheap they are."""
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json cannot go together.")
    from aviary.arena.leaderboard import to_csv
    from aviary.cli.client import Client, Leaderboard

    given = {"task": task, "tag": tag, "since": since}
    params = {name: value for name, value in given.items() if value is not None}
    with Client(settings_for(context, url, api_key)) as client:
        data = client.get("/api/leaderboard", **params)
        found = client.read(data, Leaderboard)
    if as_json:
        print_json(data["rows"])
    elif as_csv:
        print(to_csv(found.rows), end="")
    elif not found.rows:
        say("No such models.")
    else:
        print_table(COLUMNS, [_row(row) for row in found.rows])
        if not found.votes:
            say("No votes yet: there are no ratings.")


def _row(row: Row) -> tuple[str, ...]:
    interval = "-"
    if row.low is not None and row.high is not None:
        interval = f"{row.low:.0f} to {row.high:.0f}"
    seen = "-"
    if row.last_seen is not None:
        seen = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.last_seen))
    return (
        figure(row.rank),
        row.model if row.served else f"{row.model} (gone)",
        figure(row.rating),
        interval,
        str(row.votes),
        "-" if row.win_rate is None else f"{row.win_rate:.0%}",
        figure(row.ttft_p50_ms),
        figure(row.tokens_per_s, 1),
        figure(row.mean_answer_tokens),
        figure(row.cost_per_answer_usd, 6),
        figure(row.cost_per_million_tokens_usd, 2),
        seen,
    )
