"""An upload: `multipart/form-data` as it comes, its file straight to disk, its fields bounded.

Nothing is held but one piece. A body that is refused half-way is read to its end all the same (up to the bound of the
gateway), because an answer sent before would be reset away by what still comes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gemstead.batch.folder import Draft
from gemstead.refused import Reason, Refused

FIELDS_MOST, FIELD_MOST = 32, 4096  # count, bytes
HEADER_MOST = 8192  # bytes of one part's headers


class Upload:
    """A form that is being read. `fields` are its text, `filename` and the draft its file."""

    def __init__(self, content_type: str, make: Callable[[], Draft], most_bytes: int) -> None:
        """Raises:
        Refused: BAD_REQUEST, when it is no multipart form.
        """
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary or len(boundary) > 200:
            raise _bad("Send the file as multipart/form-data, with the fields `purpose` and `file`.")
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.draft: Draft | None = None
        self.fault: Exception | None = None
        self._make, self._most = make, most_bytes
        self._header: list[bytes] = [b"", b""]
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._text = bytearray()
        self._to_file = self._complete = False
        names = "part_begin part_data part_end header_field header_value header_end headers_finished end"
        callbacks: dict[str, Any] = {f"on_{name}": getattr(self, f"_{name}") for name in names.split()}
        self._parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]

    async def take(self, pieces: AsyncIterator[bytes]) -> None:
        """Read the whole body.

        Raises:
            Refused: BAD_REQUEST or BODY_TOO_LARGE.
            OSError: the file cannot be written.
        """
        async for piece in pieces:
            if self.fault is None and piece:
                try:
                    self._parser.write(piece)
                except FormParserError as error:
                    self.fault = _bad(f"This is not a valid multipart form: {error}.")
                except (Refused, OSError) as error:
                    self.fault = error
        if self.fault is not None:
            raise self.fault
        if not self._complete:
            raise _bad("The multipart form ends before its last boundary.")
        if self.draft is None:
            raise _bad("The field `file` is missing, or has no file name.", "file")

    # What the parser says.

    def _part_begin(self) -> None:
        self._headers, self._header = {}, [b"", b""]

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._grow(0, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(1, data[start:end])

    def _grow(self, which: int, piece: bytes) -> None:
        self._header[which] += piece
        if len(self._header[which]) > HEADER_MOST:
            raise _bad("A part of the form has headers without end.")

    def _header_end(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]
        self._header = [b"", b""]

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if kind != b"form-data" or not name:
            raise _bad("A part of the form has no name.")
        self._name, self._text = name, bytearray()
        self._to_file = name == "file" and b"filename" in options
        if self._to_file:
            if self.draft is not None:
                raise _bad("The form holds two files; send one.", "file")
            self.filename = options[b"filename"].decode("utf-8", "replace")
            self.draft = self._make()
        elif len(self.fields) >= FIELDS_MOST:
            raise _bad("The form has too many fields.")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if not self._to_file:
            self._text += piece
            if len(self._text) > FIELD_MOST:
                raise _bad(
                    f"The field `{self._name[:64]}` is larger than {FIELD_MOST} bytes.", self._name[:64]
                )
            return
        assert self.draft is not None
        if self.draft.size_bytes + len(piece) > self._most:
            raise Refused(
                Reason.BODY_TOO_LARGE,
                f"The file is larger than {self._most} bytes (batch.file_mib in gemstead.yaml).",
                param="file",
            )
        self.draft.write(piece)

    def _part_end(self) -> None:
        if not self._to_file:
            self.fields[self._name] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self._complete = True


def _bad(sentence: str, param: str | None = None) -> Refused:
    return Refused(Reason.BAD_REQUEST, sentence, param=param)
