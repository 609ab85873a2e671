"""Small documents for the tests, made by hand or by the libraries that read them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

Line = tuple[float, float, float, str]  # size, x, y, text


def pdf(pages: Sequence[Sequence[Line]], odd_page: int = 0) -> bytes:
    """A PDF with its text at these places; the content of `odd_page` is packed in no way that there is."""
    kids = range(2, 2 + 2 * len(pages), 2)  # each page behind its content
    objects = [b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    above = 2 + 2 * len(pages)
    for number, lines in zip(kids, pages, strict=True):
        drawn = b"".join(f"/F1 {size} Tf 1 0 0 1 {x} {y} Tm ({t}) Tj\n".encode() for size, x, y, t in lines)
        text = b"BT\n" + drawn + b"ET"
        filter = b"/Filter /Nope " if number == 2 * odd_page else b""
        objects.append(b"<< /Length %d %s>>\nstream\n" % (len(text), filter) + text + b"\nendstream")
        objects.append(
            b"<< /Type /Page /Parent %d 0 R /MediaBox [0 0 600 800] /Contents %d 0 R "
            b"/Resources << /Font << /F1 1 0 R >> >> >>" % (above, number)
        )
    refs = b" ".join(b"%d 0 R" % (number + 1) for number in kids)
    objects.append(b"<< /Type /Pages /Kids [%s] /Count %d >>" % (refs, len(pages)))
    objects.append(b"<< /Type /Catalog /Pages %d 0 R >>" % above)
    return joined(objects)


def joined(objects: Sequence[bytes]) -> bytes:
    """Objects with their table of places; the last is the catalogue."""
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n" % number + body + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    end = b"trailer << /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF"
    return out + head + table + end % (len(objects) + 1, len(objects), len(out))


def encrypted(data: bytes) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(data)))
    writer.encrypt("secret", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def docx_with(path: Path, name: str, body: bytes) -> None:
    """A DOCX whose part `name` is `body`."""
    from docx import Document

    whole = io.BytesIO()
    Document().save(whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, body if part.filename == name else old.read(part.filename))


def warc(path: Path, pages: Sequence[tuple[str, str, bytes]]) -> None:
    """(address, content type, body) each as an answer."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=path.suffix == ".gz")
        for address, kind, body in pages:
            headers = StatusAndHeaders("200 OK", [("Content-Type", kind)], protocol="HTTP/1.0")
            record = writer.create_warc_record(address, "response", io.BytesIO(body), http_headers=headers)
            writer.write_record(record)
