"""The elements of traces are counted before they are parsed (contract, Traces)."""

import json

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from ledger.features.traces import otlp
from tests.support.traces import exported, span


def deep(children: st.SearchStrategy[AnyValue]) -> st.SearchStrategy[AnyValue]:
    def nested(some: list[AnyValue], has_keys: bool) -> AnyValue:
        found = AnyValue()
        if has_keys:
            for each in some:
                found.kvlist_value.values.add(key='",{[:', value=each)
        else:
            found.array_value.values.extend(some)
        return found

    return st.builds(nested, st.lists(children, max_size=4), st.booleans())


LEAVES = st.builds(AnyValue, string_value=st.text('",[]{}:\\ \n', max_size=5)) | st.builds(AnyValue)


def elements(message: Message) -> int:
    """The elements of a message's lists of messages, at every depth."""
    held = 0
    for field, value in message.ListFields():
        if field.message_type is not None:
            several = [*value] if field.is_repeated else [value]
            held += sum(map(elements, several)) + (len(several) if field.is_repeated else 0)
    return held


@given(st.lists(st.recursive(LEAVES, deep, max_leaves=30), max_size=4), st.booleans())
@settings(deadline=None)
def test_elements_are_counted_alike_in_both_encodings(found: list[AnyValue], is_wide: bool) -> None:
    request = exported(span("x"), span('a",{}'))
    for each in found:
        request.resource_spans[0].scope_spans[0].spans[1].attributes.add(key="k", value=each)
    counted = elements(request)
    text = json.dumps(MessageToDict(request), indent=2 if is_wide else None).encode()
    kind = request.DESCRIPTOR
    assert [*otlp._count_json(kind, text)][-1] == counted
    assert [*otlp._count_protobuf(kind, request.SerializeToString())][-1] == counted


@pytest.mark.parametrize("times", [2, 50_000])
def test_values_that_are_merged_with_a_first_one_count(times: int) -> None:
    """Else 8 MiB of second values would take hundreds of megabytes to be counted."""
    attribute = b"\x12\x00" * times
    size = bytes(
        [len(attribute) & 127 | 128, len(attribute) >> 7 & 127 | 128, len(attribute) >> 14]
    )
    sent = b"\x4a" + size + attribute
    (*_, last) = otlp._count_protobuf(span("x").DESCRIPTOR, sent)
    assert last == times
