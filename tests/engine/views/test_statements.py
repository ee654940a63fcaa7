"""SQL that formats values as the API shows them."""

import random
from datetime import timedelta

import psycopg

from ledger.engine.values.rendering import json_text, time_text
from ledger.engine.values.values import EARLIEST, LATEST
from ledger.engine.views.statements import json_of_instant

_FORMATTED = f"SELECT {json_of_instant('at')} FROM unnest(%s::timestamptz[]) AS at"


def test_instants_are_formatted_in_sql_as_in_python(conninfo: str) -> None:
    dice, step = random.Random(3), timedelta(microseconds=1)
    instants = [EARLIEST, LATEST - step, None]
    for _ in range(2_000):
        scale = dice.choice([1, 10, 1_000, 100_000, 1_000_000])
        instants.append(
            EARLIEST
            + step
            * (
                dice.randrange(
                    (LATEST - EARLIEST) // step,
                )
                // scale
                * scale
            )
        )
    with psycopg.connect(conninfo) as connection:
        for zone, style in (("UTC", "ISO"), ("Asia/Kathmandu", "German, DMY")):
            connection.execute(f"SET TIME ZONE '{zone}'; SET DateStyle = '{style}'".encode())
            found = connection.execute(_FORMATTED.encode(), (instants,)).fetchall()
            assert [text for (text,) in found] == [json_text(time_text(at)) for at in instants]
