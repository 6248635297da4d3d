"""The lines of an input file: where each one lies, and whether all of them can be run.

Lines keep the numbers that an editor shows; blank ones are passed over. The file does not change once it is there, so
the same numbers are found again after a restart. Memory: 16 bytes for each line.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from gemstead.openai.batches import Fault
from gemstead.openai.batchline import FAULTS_MOST, Line, read, repeated


class Lines:
    """An input file, open for reading.

    Raises:
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, endpoint: str) -> None:
        self.numbers = array("Q")
        self._endpoint = endpoint
        self._offsets = array("Q")
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for number, offset, _ in self._scan():
                self.numbers.append(number)
                self._offsets.append(offset)
            self._offsets.append(os.fstat(self._fd).st_size)
        except BaseException:
            os.close(self._fd)
            raise

    def __len__(self) -> int:
        return len(self.numbers)

    def line(self, place: int) -> Line | Fault:
        """The request at `place`, from 0."""
        start, end = self._offsets[place], self._offsets[place + 1]
        return read(os.pread(self._fd, end - start, start).strip(), self.numbers[place], self._endpoint)

    def check(self, most: int) -> tuple[list[Fault], str]:
        """What is wrong with the file, the first `FAULTS_MOST`; and the model that its lines ask for."""
        if not self.numbers:
            return [Fault(code="empty_file", message="The input file has no lines.")], ""
        if len(self) > most:
            what = f"The input file has {len(self)} lines; {most} are taken (batch.lines in gemstead.yaml)."
            return [Fault(code="too_many_lines", message=what)], ""
        faults: list[Fault] = []
        seen: set[str] = set()
        model = ""
        for number, _, raw in self._scan():
            line = read(raw.strip(), number, self._endpoint)
            fault = line if isinstance(line, Fault) else self._beside(line, number, seen, model)
            if fault is not None:
                faults.append(fault)
                if len(faults) == FAULTS_MOST:
                    break
            if isinstance(line, Line):
                seen.add(line.custom_id)
                model = model or line.model
        return faults, model

    def close(self) -> None:
        os.close(self._fd)

    def _beside(self, line: Line, number: int, seen: set[str], model: str) -> Fault | None:
        if line.custom_id in seen:
            return repeated(line.custom_id, number)
        if model and line.model != model:
            what = f"All lines of a batch ask for the same model; the first asks for {model[:128]!r}."
            return Fault(code="mismatched_model", message=what, line=number, param="body.model")
        return None

    def _scan(self) -> Iterator[tuple[int, int, bytes]]:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            offset = 0
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield number, offset, raw
                offset += len(raw)
