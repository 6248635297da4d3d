"""Until when a certificate holds, on certificates that a real library has made."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trustme

from gemstead.operate.doctor.certificate import valid_until


@pytest.mark.parametrize("year", [2031, 2049, 2050, 2070])  # from 2050 on the date has another form
def test_the_end_is_read(year):
    end = datetime(year, 5, 17, 12, 30, 5, tzinfo=UTC)
    issued = trustme.CA().issue_cert("gemstead.example", not_after=end)
    assert valid_until(issued.cert_chain_pems[0].bytes().decode()) == end.timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_certificate_is_an_error_and_no_crash(text):
    with pytest.raises(ValueError):
        valid_until(text)
