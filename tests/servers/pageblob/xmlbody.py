"""The XML the service writes (errors, listings, page lists) and reads (block lists)."""
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from .errors import BlobError

HEAD = '<?xml version="1.0" encoding="utf-8"?>'


def tag(name, value):
    return f"<{name}/>" if value in (None, "") else f"<{name}>{escape(str(value))}</{name}>"


def error(code, message, request_id, when, detail):
    text = f"{message}\nRequestId:{request_id}\nTime:{when}"
    extra = "".join(tag(k, v) for k, v in detail.items())
    return f"{HEAD}<Error>{tag('Code', code)}{tag('Message', text)}{extra}</Error>".encode()


def page_list(entries, next_marker):
    """entries: ('PageRange' | 'ClearRange', start, end), end exclusive; the wire's is not."""
    parts = [f"<{kind}><Start>{start}</Start><End>{end - 1}</End></{kind}>"
             for kind, start, end in entries]
    return f"{HEAD}<PageList>{''.join(parts)}{tag('NextMarker', next_marker)}</PageList>".encode()


def attribute(value):
    return escape(value, {'"': "&quot;"})


def enumeration(attributes, given, entries, next_marker, list_tag):
    """A listing of blobs or containers: the request's own parameters, entries, next marker."""
    attrs = "".join(f' {k}="{attribute(v)}"' for k, v in attributes.items())
    params = "".join(tag(k, v) for k, v in given if v)
    return (f"{HEAD}<EnumerationResults{attrs}>{params}<{list_tag}>{''.join(entries)}"
            f"</{list_tag}>{tag('NextMarker', next_marker)}</EnumerationResults>").encode()


def parse_block_list(body):
    """[(kind, base64 id)] of a Put Block List body."""
    try:
        root = ElementTree.fromstring(bytes(body))
    except ElementTree.ParseError:
        raise BlobError("InvalidXmlDocument") from None
    if root.tag != "BlockList":
        raise BlobError("InvalidXmlDocument")
    out = []
    for child in root:
        if child.tag not in ("Latest", "Committed", "Uncommitted"):
            raise BlobError("InvalidXmlDocument")
        out.append((child.tag, (child.text or "").strip()))
    return out


def block_list(committed, uncommitted, which):
    def section(name, blocks):
        rows = "".join(f"<Block>{tag('Name', k)}{tag('Size', str(n))}</Block>" for k, n in blocks)
        return f"<{name}>{rows}</{name}>"
    parts = ""
    if which in ("committed", "all"):
        parts += section("CommittedBlocks", committed)
    if which in ("uncommitted", "all"):
        parts += section("UncommittedBlocks", uncommitted)
    return f"{HEAD}<BlockList>{parts}</BlockList>".encode()
