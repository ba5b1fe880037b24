"""Find the document objects in a stream of JSON, whatever encloses them, in bounded memory.

msgspec skips a value in C and reports where it ends or what is wrong. After damage, the search
resumes at the next object that is a document.
"""

import re
from collections.abc import Iterator

import msgspec

from embre.corpora.window import Window

STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
FLAT = rb'\{[^{}"]*+(?:' + STRING + rb'[^{}"]*+)*+\}'
# The start of a collection, up to its first document: `{"source": "PubTator", "documents": [`
COLLECTION = re.compile(
    rb"\{\s*+(?:" + STRING + rb"\s*+:\s*+(?:" + STRING + rb"|" + FLAT + rb"|[-+.\w]++)\s*+,\s*+)*?"
    rb'"(?:documents|PubTator3)"\s*+:\s*+\[',
    re.DOTALL,
)
# The text between documents: closing brackets, and other keys and values of the collection.
BETWEEN = re.compile(rb"(?:[\s,:\[\]}]++|" + STRING + rb"|[-+.\w]++)*+", re.DOTALL)
OBJECT = re.compile(rb'\{\s*+"')
ANY_STRING = re.compile(STRING, re.DOTALL)
LOOK_BYTES = 4096  # enough to see the start of a collection
CUT_OFF = "document/cut_off"
ID = re.compile(rb'"_?id"\s*+:\s*+"?([^",}\s]{1,40})')
TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
VALUE = msgspec.json.Decoder(msgspec.Raw)


class _HasPassages(msgspec.Struct):
    passages: msgspec.Raw


HAS_PASSAGES = msgspec.json.Decoder(_HasPassages)


def find_documents(window: Window) -> Iterator[tuple[int, bytes]]:
    """Yield line number and bytes of each document; damaged or too large ones are counted."""
    num_found = num_lost = num_open = 0
    lost = False  # after damage only a document object is trusted
    while True:
        start = _next_object(window.data, window.at, lost)
        num_open += 0 if lost else _num_opened(window.data[window.at : start])
        window.skip(start)
        if window.size < LOOK_BYTES and window.more():
            continue
        if not window.size:
            break
        look = window.at + LOOK_BYTES
        if collection := COLLECTION.match(window.data, window.at, look):
            lost, num_open = False, num_open + 1
            window.skip(collection.end())
            continue
        end, fault, detail = _end_of_value(window.data, window.at)
        if fault == CUT_OFF and window.size <= window.max_bytes and window.more():
            continue
        num_bytes = window.size if fault == CUT_OFF else end - window.at
        if num_bytes > window.max_bytes:
            fault, detail = "document/too_large", f"more than {window.max_bytes:,} bytes"
        place, line = _place(window), window.line
        if fault:
            if not lost:
                window.tally.drop(fault, place, detail)
                num_lost += 1
            lost = True
            window.skip(window.at + 1)
            continue
        found = window.take(end)
        if _is_document(found, lost):
            lost = False
            num_found += 1
            yield line, found.rstrip()
        elif not lost and (b'"id"' in found or b'"_id"' in found):
            num_lost += 1
            window.tally.drop("document/unreadable", place, "it has no passages")
    if num_open > 0 and not num_lost and not window.broken:
        window.drop("file/cut_off", "a list has no end")
    elif not num_found and not num_lost:
        window.drop("file/without_document")


def _next_object(data: bytes, at: int, lost: bool) -> int:
    """Return the position of the next object, or of what prevents reaching it."""
    if lost:
        found = OBJECT.search(data, at)
        if found:
            return found.start()
        last = data.rfind(b"{", at)
        return last if last >= 0 and not data[last + 1 :].strip() else len(data)
    between = BETWEEN.match(data, at)
    return between.end() if between else at


def _place(window: Window) -> str:
    known = ID.search(window.data, window.at, window.at + LOOK_BYTES)
    return f"{window.file}:{window.line}" + (
        f"#{known[1].decode(errors='replace')}" if known else ""
    )


def _num_opened(between: bytes) -> int:
    if b"[" not in between and b"]" not in between:
        return 0
    outside = ANY_STRING.sub(b"", between)
    return outside.count(b"[") - outside.count(b"]")


def _end_of_value(data: bytes, at: int) -> tuple[int, str, str]:
    """Return the end of the value at `at`, and a fault and its detail if it cannot be read."""
    try:
        VALUE.decode(memoryview(data)[at:])
    except msgspec.DecodeError as error:
        if trailing := TRAILING.search(str(error)):
            return at + int(trailing[1]) - 1, "", ""
        reason = CUT_OFF if "truncated" in str(error) else "document/unreadable"
        return 0, reason, str(error)
    except RecursionError as error:
        return 0, "document/unreadable", str(error)
    return len(data), "", ""


def _is_document(found: bytes, lost: bool) -> bool:
    if not lost:
        return b'"passages"' in found
    try:
        HAS_PASSAGES.decode(found)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
