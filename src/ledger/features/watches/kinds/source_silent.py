"""A watch of sources from which no fact comes. Sources are of no line: see ``loops/sources.py``."""

from datetime import datetime, timedelta
from typing import Annotated

from ledger.engine.values.values import LABEL, format_instant
from ledger.features.watches.kinds import base, wording


class SourceSilent(base.Condition, frozen=True, tag="source_silent"):
    """No fact of a source was recorded."""

    sources: Annotated[
        tuple[Annotated[str, base.Checks(characters=LABEL, min_length=1, max_length=255)], ...],
        base.Blank("Sources", [], hint="/timesheets, /agents", offers="source"),
        base.Checks(
            base.as_set,
            min_length=1,
            max_length=100,
            description="Each is watched by itself.",
            examples=[["/timesheets"]],
        ),
    ]
    """CloudEvents sources; the watch checks each by itself."""

    about = "source"
    choice = "A source is silent"
    sentence = "{sources} has been silent for {time}"
    at_once = "{sources} is silent"
    seconds = base.DAY
    least_seconds = 300

    def text(self, for_seconds: int, episode: base.Episode, current: base.LineNow) -> str:
        source = wording.cut(episode.subject.id)
        return f"Source {source} has been silent for {wording.length_text(for_seconds)}"


def silent_since(source: str, last_seen: datetime | None, since: datetime) -> base.Episode:
    """Since the full minute after its last fact, or after ``since`` without any fact."""
    if last_seen is not None:
        since = last_seen + timedelta(minutes=1)
    return base.Episode(base.AlertSubject("source", source), since, format_instant(since), None)
