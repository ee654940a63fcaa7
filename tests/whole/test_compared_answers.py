"""The parts of two versions' answers that are compared (``make bench-pair``), and the others."""

from scripts.bench.corpus_request import Answer

JSON = {"content-type": "application/json"}


def answer(body: bytes, **headers: str) -> Answer:
    return Answer(200, JSON | headers, body)


def test_status_body_and_three_headers_are_compared() -> None:
    one = answer(b"{}")
    assert one.compared != Answer(404, JSON, b"{}").compared
    assert one.compared != answer(b"{} ").compared
    for name in ("content-type", "etag", "ledger-position"):
        assert one.compared != answer(b"{}", **{name: "x"}).compared, name
    assert one.compared == answer(b"{}", vary="x").compared


def test_the_last_use_of_a_key_is_not_compared() -> None:
    used, unused, named = (
        answer(b'{"name":%s,"last_used_at":%s}' % each)
        for each in ((b"null", b'"2026-02-01T00:00:00Z"'), (b"null", b"null"), (b'"n"', b"null"))
    )
    assert used.compared == unused.compared != named.compared


def test_numbers_that_move_with_the_clock_are_not_compared_and_words_are() -> None:
    early, late, other = (
        answer(b'{"seconds":%s,"state":"%s","cursor":"%s"}' % each, etag=each[0].decode())
        for each in ((b"1.5", b"idle", b"a"), (b"2", b"idle", b"b"), (b"1.5", b"paused", b"a"))
    )
    assert early.compared != late.compared
    assert early.still == late.still != other.still
