"""``ledger import --map``: CSV that nobody cleaned becomes facts (contract, Command line)."""

import csv
import json
import os
import re
from datetime import UTC, datetime, timedelta
from io import BufferedReader, BytesIO, RawIOBase, StringIO
from itertools import chain, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from zipfile import ZipFile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.app.cli.arguments import main
from ledger.app.cli.files.map_file import ATTRIBUTES, Dialect, SheetMap, fields_of, sheet_map
from ledger.app.cli.files.sheet import Sheet
from ledger.app.cli.line_parser import fact_of
from ledger.app.composition.database import ConfigurationError
from ledger.features.facts.envelope import Fact, Rejected
from ledger.features.facts.fact_types import ALIASES, FACT_TYPES
from tests.app.cli.conftest import Ledger
from tests.app.cli.test_loading import events, peak_memory
from tests.support.facts import LINE, ORGANIZATION, WORKSPACE, encode, fact
from tests.support.forked import CONTEXT

BERLIN = ZoneInfo("Europe/Berlin")
MAP = f"""
source = "/timesheets"
type = {{column = "Art"}}
id = "Beleg"
[columns]
subject = "Linie"
time = "Tag"
hours = "Stunden"
note = "Notiz"
project_tags = "Marken"
product_line = "Produkt"
[constants]
organization_id = "{ORGANIZATION}"
workspace_id = "{WORKSPACE}"
execution_model = "agent_runtime"
[read]
delimiter = ";"
decimal = ","
date = "%d.%m.%Y %H:%M"
time_zone = "Europe/Berlin"
encoding = "cp1252"
"""
CHECK_INS = SheetMap("/s", "execution.checked_in", "id", {"subject": "line"})
CHECK = f"execution.checked_in;{LINE}"
ROWS = [
    "Beleg ;Art;Linie;Tag;Stunden;Notiz;Marken;Produkt;;Frei;Frei",
    f"b-1;service_line.activated;{LINE};02.11.2026 09:00;;;eins, zwei;agent_gateway;;x;",
    f"b-2;{CHECK};26.11.2026 17:00; 6,5 ;Prüfung für Müller;;;;;",
    f'b-2;{CHECK};26.11.2026 18:00;1,25;"mehr\r\nals eine\r\nZeile";;;;;',
    ";;;;;;;;;;",
    "",
    f"b-3;{CHECK};26.11.2026 17:00;1.234,5;;;;;;",
    f"b-4;{CHECK};29.03.2026 02:30;1;;;;;;",
    f"b-5;{CHECK};25.10.2026 02:30;1;;;;;;;;;",
    f"b-6;{CHECK};26.11.2026",
    f"b-7;{CHECK};26.11.2026 17:00;1;;;;;;;x",
    f"b-8;{CHECK};26.11.2026 17:00;#NV;=A1+B1;;;;;",
    f";{CHECK};26.11.2026 17:00;1;;;;;;",
    f"b-9;Check-in;{LINE};26.11.2026 17:00;1;;;;;;",
    f"b-10;{CHECK};26.11.2026 17:00;1,255;;;;;;",
    "b-11;execution.checked_in;LIN-26-999999;26.11.2026 17:00;1;;;;;;",
    f"b-12;{CHECK};45987,729;1;;;agent_gateway;;;",
    f"b-13;{CHECK};26.11.2026 17:00;1;;;agent_gateway;;;",
    f"b-14;{CHECK};26.11.2026 17:00;1;a\udc81b;;;;;",
    f'b-15;{CHECK};26.11.2026 17:00;1;"open;;;;;',
    f"b-16;{CHECK};26.11.2026 17:00;1;behind it;;;;;",
]
REFUSED = [
    "line 9: invalid_request ('b-3') The row has cells that cannot be read. column 'Stunden'"
    " (/data/hours): must be a number such as 1250,5, without any other mark.",
    "line 10: invalid_request ('b-4') The row has cells that cannot be read. column 'Tag' (/time):"
    " is of an hour that the clocks of Europe/Berlin skip.",
    "line 12: invalid_request ('b-6') The row has 4 cells, and the head has 11.",
    "line 13: invalid_request ('b-7') The row has 12 cells, and the head has 11.",
    "line 14: invalid_request ('b-8') The row has cells that cannot be read. column 'Stunden'"
    " (/data/hours): has an error of the spreadsheet in the place of a value. column 'Notiz'"
    " (/data/note): has a formula in the place of its result.",
    "line 15: invalid_request The fact is not valid. column 'Beleg' (/id): must be a string of 1 to"
    " 255 characters.",
    "line 16: invalid_request ('b-9') The fact is not valid. column 'Art' (/type): must be one of"
    " the documented fact types.",
    "line 17: invalid_request ('b-10') The fact's data is not valid. column 'Stunden'"
    " (/data/hours): must have at most 2 decimal places.",
    "line 18: not_found ('b-11') No such service line.",
    "line 19: invalid_request ('b-12') The row has cells that cannot be read. column 'Tag' (/time):"
    " must be a date in the form %d.%m.%Y %H:%M.",
    "line 20: invalid_request ('b-13') The fact's data is not valid. column 'Produkt'"
    " (/data/product_line): is not known.",
    "line 21: invalid_request ('b-14') The row has cells that cannot be read. column 'Notiz'"
    " (/data/note): has bytes that are not cp1252.",
    "line 22: invalid_request The row is no CSV: unexpected end of data.",
]


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """A folder with the spreadsheet that nobody cleaned, and its map."""
    (tmp_path / "map.toml").write_text(MAP)
    (tmp_path / "sheet.csv").write_bytes("\r\n".join(ROWS).encode("cp1252", "surrogateescape"))
    return tmp_path


def parsed(by: SheetMap, content: bytes) -> list[tuple[int, Fact | Rejected]]:
    sheet = Sheet(by)
    chunks = sheet.chunks(BytesIO(content))
    return [(number, sheet.read(row)) for _, rows in chunks for number, row in rows]


def one_column(field: str, read: Dialect, cell: str, fact_type: str) -> Fact | Rejected:
    """The fact of a row with the id ``n`` and one cell."""
    by = SheetMap("/s", fact_type, "id", {field: "cell", "subject": "line"}, read=read)
    text = StringIO(newline="")
    csv.writer(text).writerows([["id", "cell", "line"], ["n", cell, LINE]])
    ((number, found),) = parsed(by, text.getvalue().encode())
    assert number == 2
    return found


def test_a_sheet_that_nobody_cleaned_is_recorded_but_for_rows_that_are_named(
    ledger: Ledger, conninfo: str, dirty: Path
) -> None:
    options = ("--map", "map.toml")
    done = ledger("import", "sheet.csv", *options)
    assert done.stdout.splitlines() == REFUSED
    assert (done.returncode, "5 recorded, 0 duplicate, 13 refused" in done.stderr) == (1, True)
    held = events(conninfo)
    again = ledger("import", "-", *options, stdin=(dirty / "sheet.csv").read_bytes())
    assert (again.returncode, again.stdout) == (1, done.stdout)
    assert "0 recorded, 5 duplicate, 13 refused" in again.stderr
    assert events(conninfo) == held == 5


def test_a_dry_run_shows_facts_and_refusals_and_needs_no_database(
    ledger_alone: Ledger, dirty: Path
) -> None:
    done = ledger_alone("import", "sheet.csv", "--map", "map.toml", "--dry-run")
    printed = [line.split(": ", 1) for line in done.stdout.splitlines() if "{" in line]
    assert [f"{number}, {json.loads(text)['id']}" for number, text in printed] == [
        "line 2, b-1",
        "line 3, b-2",
        "line 4, b-2#2",
        "line 11, b-5",
        "line 18, b-11",
        "line 23, b-16",
    ]
    assert json.loads(printed[2][1]) == {
        "id": "b-2#2",
        "source": "/timesheets",
        "type": "execution.checked_in",
        "subject": LINE,
        "time": "2026-11-26T17:00:00Z",
        "data": {"hours": 1.25, "note": "mehr\r\nals eine\r\nZeile"},
    }
    listed = [line for line in done.stdout.splitlines() if "{" not in line]
    assert listed == [line for line in REFUSED if "not_found" not in line]
    assert (done.returncode, "6 valid, 12 refused; nothing was recorded" in done.stderr) == (
        1,
        True,
    )


def test_a_dry_run_shows_ten_facts_and_is_0_where_nothing_is_refused(
    ledger: Ledger, conninfo: str
) -> None:
    good = [fact("execution.checked_in", LINE, id=f"good-{n}") for n in range(12)]
    done = ledger("import", "-", "--dry-run", stdin=b"\n".join(map(encode, good)))
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 10)
    assert "12 valid, 0 refused" in done.stderr
    assert events(conninfo) == 0


# The map.


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[columns]", "[colums]", "has no colums, did you mean columns?"),
        ("hours =", "hour =", "columns has no hour, did you mean hours? Known: subject, time"),
        ("[constants]", "[constants]\nnotes = 1", "constants has no notes, did you mean note?"),
        ("[constants]", "[constants]\nnote = 'x'", "note is both in columns and in constants"),
        ('{column = "Art"}', "'execution.checkin'", "did you mean execution.checked_in?"),
        ('{column = "Art"}', "'run.completed'", "columns has no hours"),
        ('id = "Beleg"', "", "missing required field `id`"),
        ('note = "Notiz"', "note = 7", "note must be the name of a column"),
        ('id = "Beleg"', "id = ''", "id must be the name of a column"),
        ('delimiter = ";"', 'delimiter = "; "', "delimiter must be one character"),
        ('delimiter = ";"', 'delimeter = ";"', "read has no delimeter, did you mean delimiter?"),
        ('decimal = ","', 'decimal = "·"', "read.decimal"),
        ("cp1252", "cp125x", "such as cp1252: cp125x is none"),
        ("Europe/Berlin", "Europe/Belin", "time_zone must be an IANA time zone"),
        ('time_zone = "Europe/Berlin"', "", "date needs a time_zone"),
        ("%d.%m.%Y %H:%M", "%d.%m. %H:%M", "with year, month and day"),
        ("%d.%m.%Y %H:%M", "%d.%m.%Y %I:%M", "needs %I and %p together"),
        ("%d.%m.%Y %H:%M", "%d.%m.%Y %Z", "has %Z, which is not read"),
        ("%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M %p", "needs %I and %p together"),
        ("%d.%m.%Y %H:%M", "%d.%m.%Y %H:%m", "has %m twice: %m is the month"),
        ("cp1252", r"utf\u0000-8", r"such as cp1252: utf\x00-8 is none"),
        ('delimiter = ";"', 'delimiter = ","', "decimal and delimiter must not be the same"),
        ("[constants]", "[constants]\nactorid = 7", "the constant actorid must be a text"),
        ("source =", "source", "is no TOML"),
    ],
)
def test_a_map_that_is_wrong_is_a_usage_error_that_names_what_is_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    assert old in MAP
    file = tmp_path / "map.toml"
    file.write_text(MAP.replace(old, new, 1))
    with pytest.raises(SystemExit) as ended:
        main(["import", "missing.csv", "--map", str(file)])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "encoding",
    [
        "unicode_escape", "Unicode-Escape", "raw_unicode_escape", "idna", "punycode", "undefined",
        "mbcs", "oem", "rot13", "base64", "hex", "uu", "zlib", "quopri",
    ],
)  # fmt: skip
def test_a_codec_that_is_no_charset_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    file = tmp_path / "map.toml"
    file.write_text(MAP.replace("cp1252", encoding))
    with pytest.raises(SystemExit) as ended:
        main(["import", "missing.csv", "--map", str(file)])
    assert ended.value.code == 2
    message = f"encoding must be a charset that Python knows, such as cp1252: {encoding} is none"
    assert message in capsys.readouterr().err


def test_a_map_that_is_missing_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["import", "missing.csv", "--map", "missing.toml"])
    assert ended.value.code == 2
    assert "cannot read missing.toml: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"id,line,Hour", "has no column Hours, did you mean Hour? Known: id, line, Hour"),
        (b"id;line;Hours", "has no column id. Known: id;line;Hours"),
        (b"id,line,Hours,Hours ", "has 'Hours' 2 times"),
        ("id,line,Hours".encode("utf-16"), "is not utf-8: the map names the encoding"),
        (b"", "has no column id. Known: "),
        (b'id,line,"Hours', "is no row of CSV: unexpected end of data"),
    ],
)
def test_a_head_that_lacks_a_column_of_the_map_is_one_clear_line(head: bytes, message: str) -> None:
    columns = {"subject": "line", "hours": "Hours"}
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        parsed(SheetMap("/s", "execution.checked_in", "id", columns), head)


def test_a_field_has_one_kind_in_all_types_and_no_name_of_an_attribute() -> None:
    kinds: dict[str, set[str]] = {}
    for name in (*FACT_TYPES, *ALIASES):
        for field, kind in fields_of(name).items():
            kinds.setdefault(field, set()).add(kind)
    assert len(kinds) > 35
    assert [field for field, found in kinds.items() if len(found) > 1 or field in ATTRIBUTES] == []


def test_a_workbook_is_refused_in_one_line(ledger: Ledger, dirty: Path) -> None:
    with ZipFile(dirty / "sheet.xlsx", "w") as workbook:
        workbook.writestr("xl/workbook.xml", "")
    done = ledger("import", "sheet.xlsx", "--map", "map.toml")
    assert (done.returncode, done.stdout) == (1, "")
    message = "ledger: sheet.xlsx is a workbook or an archive: save it as CSV first."
    assert done.stderr.splitlines()[-1] == message


def test_objects_arrays_and_actors_have_columns_by_dotted_names(tmp_path: Path) -> None:
    file = tmp_path / "map.toml"
    file.write_text("""
source = "/s"
type = "run.failed"
id = "id"
[columns]
subject = "run"
actorid = "who"
error.code = "code"
token_usage = "tokens"
[constants]
actortype = "user"
"error.message" = "m"
""")
    by = sheet_map(str(file))
    text = 'id,run,who,code,tokens\nn,RUN-26-000001,Ä,E-7,"[{""model"":""small"",""input"":3}]"\n'
    data = {
        "error": {"code": "E-7", "message": "m"},
        "token_usage": [{"model": "small", "input": 3}],
    }
    who = {"actortype": "user", "actorid": "Ä"}
    expected = fact("run.failed", "RUN-26-000001", data, id="n", source="/s", **who)
    assert parsed(by, text.encode()) == [(2, fact_of(encode(expected)))]
    broken = parsed(by, text.replace("3}]", "3}").encode())[0][1]
    assert isinstance(broken, Rejected)
    assert Sheet(by).locate("/data/token_usage/0/model") == (
        "column 'tokens' (/data/token_usage/0/model)"
    )


def test_the_nth_row_of_an_id_has_its_number_also_where_that_is_an_id_of_its_own() -> None:
    rows = "".join(f"{row_id},{LINE}\n" for row_id in ("a", "a#2", "a", "b", "a", "b#2", "b"))
    found = [each.id for _, each in parsed(CHECK_INS, f"id,line\n{rows}".encode())]
    assert found == ["a", "a#2", "a#2#2", "b", "a#3", "b#2", "b#2#2"]


@pytest.mark.parametrize("broken", ['A,L,1,"say" hi', "A", "1,L,x,"])
def test_a_repeated_id_is_refused_behind_a_row_whose_id_cannot_be_read(broken: str) -> None:
    """Mended, that row may have the id: the numbers of the rows behind it would change."""
    by = SheetMap("/s", "execution.checked_in", "I", {"subject": "L", "hours": "H"})
    rows = ["H,L,X,I", broken, f"1,{LINE},x,A", f"2,{LINE},x,B", f"3,{LINE},x,A"]
    found = dict(parsed(by, "\n".join(rows).encode()))
    assert [isinstance(found[number], Fact) for number in (2, 3, 4, 5)] == [
        False,
        True,
        True,
        False,
    ]
    rejected = found[5]
    assert isinstance(rejected, Rejected)
    assert "an earlier row has none that can be read" in rejected.error.detail


@pytest.mark.parametrize(
    "cells",
    [
        "," + "x" * 600_000,
        ',"' + "x" * 300_000 + "\n" + "x" * 300_000 + '"',
        "x" * 450_000 + "," + "y" * 100_000,
    ],
)
def test_a_row_that_is_too_long_is_refused_alone(cells: str) -> None:
    columns = {"subject": "line", "note": "note"}
    text = f"id,line,other,note\na,{LINE},{cells}\nb,{LINE},,fine\n"
    found = parsed(SheetMap("/s", "execution.checked_in", "id", columns), text.encode())
    assert [number for number, _ in found] == list(range(2, text.count("\n") + 1))
    assert [type(each) for _, each in found] == [Rejected] * (len(found) - 1) + [Fact]


def test_a_quote_without_end_refuses_its_row_alone() -> None:
    """The reader takes all that follows for one cell, and once half a megabyte of rows was lost."""
    rows = [f"row-{n},{LINE}\n" for n in range(28_000)]
    rows[7], rows[9] = f'row-7,"{LINE}\n', f'row-9,"{LINE}\n'
    found = parsed(CHECK_INS, f"id,line\n{''.join(rows)}".encode())
    assert [number for number, _ in found] == list(range(2, 28_002))
    assert [number for number, each in found if isinstance(each, Rejected)] == [9, 11]


# Any table.

LETTERS = "abcXYZ019 .,;|-_'\"äöüß€"
WORDS = st.text(LETTERS, min_size=1, max_size=12).map(str.strip).filter(bool)
NOTES = st.text(LETTERS + "\n", max_size=20).map(str.strip)
MINUTES = st.integers(0, 2_000_000).map(lambda n: datetime(2024, 1, 1, tzinfo=UTC) + n * MINUTE)
MINUTE = timedelta(minutes=1)
FORMS = st.sampled_from(["%d.%m.%Y %H:%M", "%m/%d/%y %I:%M %p", "excel"])
TABLES = st.lists(st.tuples(WORDS, MINUTES, st.integers(0, 10**6), NOTES), min_size=1, max_size=8)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16"])


def written(local: datetime, form: str, decimal: str) -> str:
    if form != "excel":
        return local.strftime(form)
    days = (local.replace(tzinfo=None) - datetime(1899, 12, 30)) / timedelta(days=1)
    return f"{days:.10f}".replace(".", decimal)


@settings(max_examples=60, deadline=None)
@given(
    TABLES, FORMS, ENCODINGS, st.sampled_from(",;\t|"), st.sampled_from(",."),
    st.sampled_from(["\n", "\r\n", "\r"]), st.permutations(range(6)), st.booleans(),
)  # fmt: skip
def test_a_table_in_any_dialect_gives_the_facts_that_it_was_made_of(
    table: list[tuple[str, datetime, int, str]],
    form: str,
    encoding: str,
    delimiter: str,
    decimal: str,
    end: str,
    order: list[int],
    has_gaps: bool,
) -> None:
    text = StringIO(newline="")
    dialect = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    names = ["id", "line", "time", "hours", "note", "other"]
    dialect.writerow([names[index] for index in order])
    counts: dict[str, int] = {}
    expected = []
    for row_id, at, cents, note in table:
        if has_gaps:
            text.write(end)
        number = 1 + len(re.findall("\r\n|\r|\n", text.getvalue()))
        local = at.astimezone(BERLIN).replace(fold=0)
        hours = f"{cents / 100:.2f}".replace(".", decimal)
        cells = [row_id, LINE, written(local, form, decimal), hours, note, "=A1"]
        dialect.writerow([cells[index] for index in order])
        counts[row_id] = counts.get(row_id, 0) + 1
        event = fact(
            "execution.checked_in",
            LINE,
            {"hours": cents / 100} | ({"note": note} if note else {}),
            id=row_id if counts[row_id] == 1 else f"{row_id}#{counts[row_id]}",
            source="/s",
            time=local.astimezone(UTC).isoformat(),
        )
        expected.append((number, fact_of(encode(event))))
    columns = {"subject": "line", "time": "time", "hours": "hours", "note": "note"}
    # A byte order mark is no part of UTF-8, whether or not the map says that there is one.
    read = Dialect(delimiter, decimal, form, "Europe/Berlin", encoding.removesuffix("-sig"))
    by = SheetMap("/s", "execution.checked_in", "id", columns, read=read)
    assert parsed(by, text.getvalue().encode(encoding)) == expected


# Memory.


class Rows(RawIOBase):
    """A file of many rows. Each row is made when it is read."""

    def __init__(self, count: int) -> None:
        self._lines = chain([b"id,line\n"], (f"row-{n},{LINE}\n".encode() for n in range(count)))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        line = next(self._lines, b"")
        buffer[: len(line)] = line
        return len(line)


def read_rows(count: int, sender: Connection) -> None:
    """Convert a sheet; return the peak of memory after some of its rows, and after all of them."""
    chunks = Sheet(CHECK_INS).chunks(BufferedReader(Rows(count)))
    some = sum(len(rows) for _, rows in islice(chunks, 5))
    first = peak_memory(os.getpid())
    sender.send((some + sum(len(rows) for _, rows in chunks), first, peak_memory(os.getpid())))


def test_the_memory_of_a_sheet_does_not_grow_with_its_rows() -> None:
    receiver, telling = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=read_rows, args=(60_000, telling))
    process.start()
    rows, first, last = receiver.recv()
    process.join()
    assert rows == 60_000
    assert last - first < 3_000, "kB"
