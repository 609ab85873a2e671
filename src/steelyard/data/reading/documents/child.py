"""PDF and DOCX in a process of their own, within limits of memory and time; it loads nothing of ours.

    python child.py pdf|docx PATH MEMORY_BYTES OPEN_S PART_S

A line of JSON a part: {"page": 3, "lines": [[size, x, y, [cells]], ...]} of a PDF; {"kind", "text", "level"}
of a DOCX; {"why": ...} of what cannot be read, with its "page" where the rest can.
"""

import json
import resource
import sys
import zipfile

PAGES_MAX = 20_000
UNPACKED_BYTES_MAX = 512 << 20
XML_BYTES_MAX = 64 << 20
OLD_OFFICE = b"\xd0\xcf\x11\xe0"
CHAR_WIDTH = 0.5  # of a letter, in its size
GAP = 1.5  # sizes between two cells of a line


def main(form, path, memory_bytes, open_s, part_s):
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    allow(int(open_s))
    try:
        for part in {"pdf": pdf, "docx": docx}[form](path, int(part_s)):
            print(json.dumps(part), flush=True)
    except ImportError as e:
        print(json.dumps({"lacking": e.name}), flush=True)
    except MemoryError:
        print(json.dumps({"why": "it needs more memory than a document may"}), flush=True)


def allow(seconds):
    """So much more processor time; past it the kernel ends this process."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(spent.ru_utime + spent.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


# ------------------------------------------------------------------ PDF


def pdf(path, part_s):
    from pypdf import PdfReader

    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            yield {"why": "it is encrypted and asks for a password"}
            return
        pages = len(reader.pages)
    except MemoryError:
        raise
    except Exception as e:  # pypdf raises what the bytes make of its code
        yield {"why": f"it is no whole PDF: {said(e)}"}
        return
    if pages > PAGES_MAX:
        yield {"why": f"it has {pages} pages, more than {PAGES_MAX}"}
        return
    for number in range(pages):
        allow(part_s)
        yield {"page": number + 1} | page_of(reader, number)


def page_of(reader, number):
    try:
        pieces = []
        reader.pages[number].extract_text(visitor_text=lambda *seen: pieces.append(seen))
        return {"lines": lines_of(pieces)}
    except MemoryError:
        raise
    except Exception as e:
        return {"why": f"its page {number + 1} cannot be read: {said(e)}"}


def said(error):
    return f"{type(error).__name__}: {str(error)[:120]}"


def lines_of(pieces):
    """Lines by their height, each with its cells: pieces that lie well apart."""
    lines = []
    size = x = y = end = 0.0
    cells: list = []
    for text, cm, tm, _, font_size in pieces:
        if text.strip():
            here_x, here_y = placed(cm, tm)
            if not cells or abs(here_y - y) > 0.3 * max(size, 1.0):
                lines += [[size, x, y, cells]] if cells else []
                cells, x, y, size = [], here_x, here_y, 0.0
            shown = abs(font_size * scale(cm, tm))
            apart = bool(cells) and here_x - end > GAP * max(shown, 1.0)
            size = max(size, shown)
            if apart or not cells:
                cells.append(text.strip())
            else:
                cells[-1] += text.rstrip("\n")
            end = here_x + CHAR_WIDTH * shown * len(text)
        if "\n" in text and cells:
            lines.append([size, x, y, cells])
            cells = []
    lines += [[size, x, y, cells]] if cells else []
    return [rounded(*line) for line in lines]


def rounded(size, x, y, cells):
    return [round(size, 1), round(x, 1), round(y, 1), [" ".join(cell.split()) for cell in cells]]


def placed(cm, tm):
    return tm[4] * cm[0] + tm[5] * cm[2] + cm[4], tm[4] * cm[1] + tm[5] * cm[3] + cm[5]


def scale(cm, tm):
    return (tm[2] * cm[1] + tm[3] * cm[3]) or 1.0


# ------------------------------------------------------------------ DOCX


def docx(path, part_s):
    from docx import Document
    from docx.table import Table

    if why := unfit(path):
        yield {"why": why}
        return
    allow(part_s)
    try:
        body = Document(path)
    except MemoryError:
        raise
    except Exception as e:  # python-docx raises what zipfile, lxml and KeyError give
        yield {"why": f"it is no whole DOCX: {said(e)}"}
        return
    for part in body.iter_inner_content():
        yield table_of(part) if isinstance(part, Table) else paragraph_of(part)


def unfit(path):
    """Why the archive is better not opened."""
    with open(path, "rb") as file:
        head = file.read(4)
    if head == OLD_OFFICE:
        return "it is encrypted, or of Word's old format"
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as e:
        return f"it is no whole DOCX: {said(e)}"
    largest = max((p.file_size for p in parts if p.filename.endswith((".xml", ".rels"))), default=0)
    if sum(p.file_size for p in parts) > UNPACKED_BYTES_MAX or largest > XML_BYTES_MAX:
        return f"it unpacks to more than a document may: {sum(p.file_size for p in parts) >> 20} MiB"
    return ""


def paragraph_of(part):
    style = (part.style.name or "") if part.style is not None else ""
    words = style.lower().split()
    if words[:1] == ["title"]:
        return {"kind": "heading", "text": part.text, "level": 1}
    if words[:1] == ["heading"] and words[-1].isdigit():
        return {"kind": "heading", "text": part.text, "level": int(words[-1])}
    properties = part._p.pPr
    listed = words[:1] == ["list"] or (properties is not None and properties.numPr is not None)
    return {"kind": "item" if listed else "text", "text": part.text, "level": 0}


def table_of(part):
    rows = []
    for row in part.rows:
        own, last = [], None
        for cell in row.cells:  # a cell that spans columns comes once for each
            if cell._tc is not last:
                own.append(" ".join(cell.text.split()))
            last = cell._tc
        rows.append(own)
    return {"kind": "table", "rows": rows}


if __name__ == "__main__":
    main(*sys.argv[1:])
