"""`gemstead plan --forecast` as people type it, from a real ledger and from what they say."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest

from gemstead.cli.main import main
from gemstead.ledger.audit import AuditRecord
from gemstead.ledger.audittable import MIGRATIONS, append, sealed
from gemstead.ledger.database import open_to_write

DAY_S = 86_400
SAID = ["plan", "--model", "31B", "--gpu", "RTX PRO 6000", "--users", "3000", "--growth", "10%"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def ledger(tmp_path, days: int, growth: float = 0.2) -> None:
    """A ledger of whole days until yesterday: 40 calls a day at the end, at 10 and 14 o'clock."""
    folder = tmp_path / "state" / "gemstead"
    folder.mkdir(parents=True)
    midnight = time.time() // DAY_S * DAY_S
    records = []
    for back in range(1, days + 1):
        for number in range(round(40 * (1 + growth) ** (-back / 30.4375))):
            began = midnight - back * DAY_S + (10 if number % 4 else 14) * 3600 + number
            records.append(
                AuditRecord(
                    call_id=f"{back}-{number}",
                    began=began,
                    route="/v1/chat/completions",
                    tenant="acme",
                    key_id="gms_abcdefgh",
                    model="31b",
                    pool="gemma-4-31b",
                    endpoint="a",
                    stream=True,
                    prompt_tokens=1500,
                    cached_tokens=0,
                    output_tokens=200,
                    first_token_s=0.2,
                    seconds=2.0,
                    status=200,
                    outcome="served",
                )
            )
    connection = open_to_write(folder / "audit.db", MIGRATIONS)
    append(connection, [sealed(one) for one in records])
    connection.close()


def test_it_says_when_each_limit_is_met(capsys):
    code = main([*SAID, "--forecast", "12", "--budget", "9000", "--json"])
    said = json.loads(capsys.readouterr().out)
    names = {one["name"].partition(" (")[0] for one in said["limits"]}
    assert names == {
        "planned load",
        "requests",
        "output tokens",
        "cache",
        "memory of a card",
        "cards",
        "budget",
    }
    soonest = [one["months"] for one in said["limits"] if one["months"] is not None]
    assert code == (1 if soonest else 0) and soonest == sorted(soonest)
    assert len(said["months"]) == 13 and said["monthly_growth"] == pytest.approx(0.1)


def test_the_table_names_months_of_the_calendar(capsys):
    main([*SAID, "--forecast", "6"])
    said = capsys.readouterr().out
    assert "today" in said and "planned load (35% headroom)" in said and "busiest hour" in said
    assert "growing +10.0% a month" in said


def test_use_and_growth_come_from_the_ledger(tmp_path, capsys):
    ledger(tmp_path, 60)
    main(["plan", "--model", "31B", "--gpu", "RTX PRO 6000", "--forecast", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["monthly_growth"] == pytest.approx(0.2, abs=0.03) and "60 whole days" in said["from"]
    # 40 calls a day, three quarters of them within one hour
    assert said["months"][0]["requests_per_s"]["likely"] == pytest.approx(40 * 0.75 / 3600, rel=0.1)
    ratio = said["months"][0]["output_tokens_per_s"]["likely"] / said["months"][0]["requests_per_s"]["likely"]
    assert ratio == pytest.approx(200)


@pytest.mark.parametrize(
    ("days", "words", "said"),
    [
        (0, [], "no answered call"),
        (5, [], "growth shows in 14"),
        (0, ["--users", "100"], "--growth"),
        (0, ["--users", "100", "--growth", "fast"], "write 0.08 or 8%"),
        (0, ["--users", "100", "--growth", "8"], "0.08"),
        (0, ["--users", "100", "--growth", "8%", "--season", "1,2"], "twelve factors"),
        (0, ["--users", "100", "--growth", "8%", "--write"], "without --forecast"),
    ],
)
def test_what_is_missing_is_said(days, words, said, tmp_path, capsys):
    if days:
        ledger(tmp_path, days)
    try:
        code = main(["plan", "--model", "31B", "--gpu", "H100", "--forecast", *words])
    except SystemExit as end:
        code = end.code
    caught = capsys.readouterr().err
    assert code == 2 and said in caught and "Traceback" not in caught


def test_few_days_do_when_growth_is_said(tmp_path, capsys):
    ledger(tmp_path, 5)
    main(["plan", "--model", "31B", "--gpu", "H100", "--forecast", "--growth", "5%", "--json"])
    assert json.loads(capsys.readouterr().out)["monthly_growth"] == pytest.approx(0.05)


def test_months_beyond_reason_are_refused(capsys):
    assert main([*SAID, "--forecast", "99"]) == 2
    assert "from 1 to 36 months" in capsys.readouterr().err


def test_both_kinds_of_picture_are_drawn(tmp_path, capsys):
    main([*SAID, "--forecast", "--plot", "ahead.svg"])
    words = "".join(ElementTree.fromstring((tmp_path / "ahead.svg").read_text("utf-8")).itertext())
    for title in ("requests in the busiest hour", "Output tokens", "Requests at once", "Cards needed"):
        assert title in words
    pytest.importorskip("resvg_py")
    assert main(["plan", "--model", "E4B", "--gpu", "L4", "--plot", "load.png"]) == 0
    plain, lettered = (tmp_path / "load.png").read_bytes(), capsys.readouterr()
    assert plain.startswith(b"\x89PNG") and not math.isnan(len(plain)) and "Traceback" not in lettered.err
    assert len(plain) > 20_000, "a picture without its letters is a third as large"


def test_without_the_library_png_names_the_extra(tmp_path):
    """In a process in which it cannot be imported, as where it is not installed."""
    code = (
        "import sys; sys.modules['resvg_py'] = None\n"
        "from gemstead.cli.main import main\n"
        "sys.exit(main(['plan', '--model', 'E4B', '--gpu', 'L4', '--plot', 'x.png']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "gemstead[plot]" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x.png").exists()
