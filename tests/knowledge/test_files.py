"""Files given to the knowledge: what is read from them, and what is refused."""

from pathlib import Path

import pytest
from pypdf import PdfWriter

from nessos.errors import UsageError
from nessos.knowledge import files


def pdf(*pages: str) -> bytes:
    """Make a PDF with a line of text a page; a page without text is a scan."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    parts = [
        b"<</Type /Catalog /Pages 2 0 R>>",
        f"<</Type /Pages /Kids [{kids}] /Count {len(pages)}>>".encode(),
        b"<</Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding>>",
    ]
    for number, text in enumerate(pages):
        drawing = b"BT /F1 12 Tf 72 700 Td (" + text.encode("cp1252") + b") Tj ET" if text else b""
        parts += [
            f"<</Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {5 + 2 * number} 0 R"
            " /Resources <</Font <</F1 3 0 R>>>>>>".encode(),
            f"<</Length {len(drawing)}>> stream\n".encode() + drawing + b"\nendstream",
        ]
    written, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, start=1):
        places.append(len(written))
        written += f"{number} 0 obj ".encode() + part + b" endobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    return (
        written
        + (
            f"xref\n0 {len(parts) + 1}\n0000000000 65535 f \n{table}"
            f"trailer <</Root 1 0 R /Size {len(parts) + 1}>>\nstartxref\n{len(written)}\n%%EOF"
        ).encode()
    )


def given(folder: Path, name: str, content: bytes) -> files.File:
    """Write a file and read it as the knowledge does."""
    path = folder / name
    path.write_bytes(content)
    return files.read(path)


@pytest.mark.parametrize(
    "content",
    [
        "Atenção: três câmeras".encode(),
        b"\xef\xbb\xbf" + "Atenção: três câmeras".encode(),
        "Atenção: três câmeras".encode("latin-1"),
        "Atenção: três câmeras".encode("utf-16"),
        b"Aten\x00" + "ção: três câmeras".encode(),
    ],
    ids=["utf-8", "byte order mark", "latin-1", "utf-16", "a stray zero"],
)
def test_text_is_read_whatever_it_is_encoded_in(tmp_path: Path, content: bytes) -> None:
    if b"\x00" in content and not content.startswith(b"\xff\xfe"):
        content += b" " * 200
    assert given(tmp_path, "aviso.txt", content).text.strip() == "Atenção: três câmeras"


def test_a_title_is_the_first_heading_or_the_name_in_words(tmp_path: Path) -> None:
    assert given(tmp_path, "a.md", b"# Manual do CFTV #\n\nTexto").title == "Manual do CFTV"
    assert given(tmp_path, "plano_de-rondas.txt", b"# 1\r\nTexto").title == "Plano de rondas"


def test_line_ends_are_made_one_kind(tmp_path: Path) -> None:
    assert given(tmp_path, "a.txt", b"um\r\ndois\rtres").text == "um\ndois\ntres"


def test_the_text_of_a_pdf_is_read_page_by_page(tmp_path: Path) -> None:
    read = given(tmp_path, "manual-central.pdf", pdf("Troque a câmera", "", "Anote a série"))
    assert read == files.File(
        "manual-central.pdf", "Manual central", "Troque a câmera\n\nAnote a série"
    )


def encrypted(folder: Path) -> bytes:
    """Make a PDF that asks for a password."""
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("abre-te", algorithm="RC4-128")
    writer.write(folder / "locked")
    return (folder / "locked").read_bytes()


def test_an_encrypted_pdf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is encrypted → save it without a password"):
        given(tmp_path, "a.pdf", encrypted(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.docx", b"x", "neither Markdown, text nor PDF"),
        ("a.txt", b" \n\t ", "holds no text"),
        ("a.txt", bytes(range(256)) * 4 + bytes(200), "is no text"),
        ("a.pdf", b"%PDF-1.4 broken", "is no readable PDF"),
        ("a.pdf", b"hello", "is no readable PDF"),
        ("a.pdf", pdf("", ""), "needs its text recognised first"),
        ("a.pdf", pdf(*["x"] * 501), "more than 500 pages"),
        ("a.txt", b"x" * 2_000_001, "more than 2,000,000 characters"),
        ("a.txt", b"x" * 20_000_001, "more than 20 MB"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_refused_with_the_way_out(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        given(tmp_path, name, content)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        files.read(tmp_path / "nothing.md")
