"""Messages for an incoming webhook of Slack.

A tenant's words stand in ``plain_text`` objects, where no markup has a meaning. In ``text``, which
Slack shows in notifications, they are escaped. So a message mentions nobody, and has no link but
ours.
"""

from typing import Any

from ledger.features.webhooks.formats import wording

# Slack's limits (docs.slack.dev, Block Kit), in characters: a header, and a text object. Slack cuts
# a message's ``text`` after 40,000 characters: 20 sentences and a headline are shorter.
_HEADER = 150
_TEXT = 3000
_ESCAPED = 1900

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def message_of(sayings: list[wording.Saying]) -> dict[str, Any]:
    """The message about one or more events."""
    first = sayings[0]
    sentences = [
        *(saying.sentence for saying in sayings[: wording.SENTENCES]),
        wording.rest_of(sayings),
    ]
    if len(sayings) == 1:
        sections, ids, lines = [first.sentence, first.more], f" · {first.subject_id}", list[str]()
    else:
        sections, ids, lines = sentences, "", sentences
    context = {"type": "context", "elements": [_plain(wording.worst(sayings) + ids)]}
    return {
        "text": "\n".join(
            _escaped(line) for line in (wording.headline_of(sayings), *lines) if line
        ),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [
            {"type": "header", "text": _plain(wording.title_of(sayings), _HEADER)},
            *(_section(each) for each in sections if each),
            context,
            *([_link(first.link)] if first.link else []),
        ],
    }


def _plain(text: str, most: int = _TEXT) -> dict[str, Any]:
    return {"type": "plain_text", "text": wording.cut(text, most), "emoji": False}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _plain(text)}


def _link(address: str) -> dict[str, Any]:
    text = f"<{address}|Open in the ledger>"
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _escaped(text: str) -> str:
    """The text with Slack's three special characters escaped, cut at the limit."""
    found = "".join(_ESCAPES.get(each, each) for each in text)
    while len(found) > _ESCAPED:
        text = wording.cut(text, len(text) * 3 // 4)
        found = "".join(_ESCAPES.get(each, each) for each in text)
    return found
