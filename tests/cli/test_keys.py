"""`gemstead keys` as a person types it, on real files."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time

import pytest

from gemstead.cli.main import main
from gemstead.ledger.keys import KeyBook, open_keys
from gemstead.ledger.secrets import secret_at
from gemstead.refused import Refused
from gemstead.traffic.caller import RateLimit


@pytest.fixture
def run(tmp_path, capsys):
    """Runs `gemstead keys ...` on a state folder of its own; the exit code, standard output and error."""

    def run(*words, settings=()):
        options = [f"--set=state_dir={tmp_path / 'state'}", *(f"--set={setting}" for setting in settings)]
        try:
            code = main(["keys", *words, *options])
        except SystemExit as stopped:  # argparse
            code = stopped.code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


@pytest.fixture
def book(tmp_path):
    state = tmp_path / "state"
    return KeyBook(state / "keys.db", secret_at(state / "pepper"))


def opens(book, secret, now=None):
    try:
        return book.find(secret.encode(), now or time.time()).key_id
    except Refused:
        return None


def test_a_new_key_is_all_of_standard_output(run, book):
    code, out, err = run("create", "--tenant", "acme")
    assert code == 0
    key_id = opens(book, out.strip())
    assert key_id in err
    assert "shown once" in err
    assert "curl http://127.0.0.1:4367/v1/chat/completions" in err
    assert out.strip() not in err
    assert run("list")[1].count(key_id) == 1
    for verb in (("list",), ("list", "--json"), ("show", key_id), ("show", key_id, "--json")):
        code, shown, _ = run(*verb)
        assert (code, out.strip() in shown) == (0, False)


def test_every_right_can_be_given(run):
    words = "--app chat --user ada --role developer --role auditor --model gemma4:e2b --expires 30d --rpm 60"
    before = time.time()
    code, out, _ = run(
        "create", *words.split(), "--concurrent", "4", "--priority=-1", "--note", "a b", "--json"
    )
    made = json.loads(out)
    assert code == 0
    assert made["key"].startswith(made["key_id"])
    assert (made["app"], made["user"], made["note"], made["priority"]) == ("chat", "ada", "a b", -1)
    assert made["roles"] == ["developer", "auditor"]
    assert made["models"] == ["gemma-4-e2b"], "the model's own name, however it was written"
    assert before + 30 * 86_400 <= made["expires"] <= time.time() + 30 * 86_400
    assert made["limit"] == {"requests_per_minute": 60, "tokens_per_minute": None, "concurrent": 4}
    shown = json.loads(run("show", made["key_id"], "--json")[1])
    assert shown == {name: value for name, value in made.items() if name != "key"}


def test_unlimited_is_not_the_default_limit(run, tmp_path):
    run("create")
    run("create", "--unlimited")
    keys = open_keys(tmp_path / "state" / "keys.db", b"").list()
    assert [key.limit for key in keys] == [None, RateLimit()]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("create", "--expires", "soon"), 2, "30d"),
        (("create", "--expires", "2001-01-01"), 1, "past"),
        (("create", "--model", "gemma-4-9b"), 2, "gemma-4-e2b"),
        (("create", "--rpm", "0"), 1, "1 or more"),
        (("create", "--rpm", "5", "--unlimited"), 2, "--unlimited"),
        (("create", "--role", "King Arthur"), 2, "no such role"),
        (("create", "--tenant", ""), 1, "tenant"),
        (("show", "gms_nosuchid"), 1, "gemstead keys list"),
        (("revoke", "gms_nosuchid"), 1, "gemstead keys list"),
        (("rotate", "gms_nosuchid"), 1, "gemstead keys list"),
        (("rotate", "gms_nosuchid", "--overlap", "long"), 2, "12h"),
        (("burn",), 2, "create"),
        ((), 2, "create"),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(run, words, code, says):
    found, out, err = run(*words)
    assert (found, out) == (code, "")
    assert says in err


def test_looking_makes_nothing(run, tmp_path):
    code, out, err = run("list")
    assert (code, out) == (0, "")
    assert "gemstead keys create" in err
    assert run("list", "--json")[1] == "[]\n"
    assert not (tmp_path / "state").exists()


def test_a_revoked_key_is_refused_at_once_and_again_is_no_mistake(run, book):
    one, two = (run("create")[1].strip() for _ in range(2))
    assert opens(book, one) and opens(book, two)
    code, out, _ = run("revoke", one[:12], two)  # a pasted whole key is understood
    assert (code, out.count("is revoked")) == (0, 2)
    assert (opens(book, one), opens(book, two)) == (None, None)
    code, out, _ = run("revoke", one[4:12])
    assert (code, "already revoked" in out) == (0, True)


def test_all_keys_of_somebody_are_revoked(run, book):
    ann, ben = (run("create", "--user", user, "--tenant", "acme")[1].strip() for user in ("ann", "ben"))
    other = run("create", "--user", "ann", "--tenant", "other")[1].strip()
    code, out, _ = run("revoke", "--user", "ann", "--tenant", "acme")
    assert (code, out.count("is revoked"), ann[:12] in out) == (0, 1, True)
    assert run("revoke", "--user", "ann", "--tenant", "acme")[0] == 0  # there is none left
    for secret, welcome in ((ann, False), (ben, True), (other, True)):
        if welcome:
            book.find(secret.encode(), time.time())
        else:
            with pytest.raises(Refused):
                book.find(secret.encode(), time.time())
    assert run("revoke")[0] == run("revoke", ben[:12], "--user", "ben")[0] == 2


def test_one_unknown_id_revokes_none(run, book):
    secret = run("create")[1].strip()
    assert run("revoke", secret[:12], "gms_nosuchid")[0] == 1
    assert opens(book, secret)


def test_rotation_overlaps(run, book):
    old = run("create", "--tenant", "acme")[1].strip()
    code, new, err = run("rotate", old[:12], "--overlap", "10m")
    new = new.strip()
    assert (code, old[:12] in err) == (0, True)
    now = time.time()
    assert (opens(book, old, now + 590), opens(book, new, now + 590)) == (old[:12], new[:12])
    assert (opens(book, old, now + 610), opens(book, new, now + 610)) == (None, new[:12])
    shown = json.loads(run("show", old[:12], "--json")[1])
    assert (shown["state"], shown["replaced_by"]) == ("retiring", new[:12])
    assert run("rotate", old[:12])[0] == 1


def test_an_address_that_is_everywhere_is_called_from_here(run):
    err = run("create", settings=["gateway.listen=0.0.0.0:9000"])[2]
    assert "curl http://127.0.0.1:9000/v1" in err


def test_a_damaged_file_is_one_sentence(run, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "keys.db").write_text("not a database at all" * 100)
    for verb in (("list",), ("create",), ("show", "x"), ("revoke", "x")):
        code, out, err = run(*verb)
        assert (code, out) == (1, "")
        assert "is not a database" in err


def test_what_is_noted_cannot_steer_the_terminal(run, tmp_path):
    run("create")
    import sqlite3

    with sqlite3.connect(tmp_path / "state" / "keys.db") as connection:
        connection.execute("UPDATE keys SET note = '\x1b]0;owned\x07'")
    connection.close()
    assert "\x1b" not in run("list")[1]


def test_on_a_terminal_the_curl_line_works_when_pasted(tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gemstead.cli.main", "keys", "create", f"--set=state_dir={tmp_path}"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, env={**os.environ})
    os.close(theirs)
    secret = os.read(ours, 4096).decode().strip()
    os.close(ours)
    assert done.returncode == 0
    assert f'-H "Authorization: Bearer {secret}"' in done.stderr


def test_help_imports_nothing_heavy():
    program = (
        "import sys; from gemstead.cli.main import main\n"
        "try: main(['keys', 'create', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'sqlite3', 'msgspec', 'pydantic', 'rich', 'yaml', 'hmac'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
