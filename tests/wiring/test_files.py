"""The state folder: one service at a time, found by whoever owns it, and nothing left of a dead one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from gemstead.spec.model import Spec
from gemstead.wiring.files import Card, hold, is_held, running, state_dir, write_card

CARD = Card(pid=1, gateway="http://127.0.0.1:1", admin="http://127.0.0.1:2", token="t")
HOLDER = """
import sys, time
from pathlib import Path
from gemstead.wiring.files import *
folder = StateDir(Path(sys.argv[1]), Path(sys.argv[1]))
held = hold(folder)
write_card(folder, Card(1, "g", "a", "t"))
print("held", flush=True)
time.sleep(60)
"""


def folder_in(tmp_path):
    return state_dir(Spec(state_dir=str(tmp_path / "s")), {})


def test_where_the_state_lies(tmp_path):
    assert state_dir(Spec(), {"XDG_STATE_HOME": "/x"}).path.as_posix() == "/x/gemstead"
    assert state_dir(Spec(), {"HOME": "/h"}).path.parts[-3:] == (".local", "state", "gemstead")
    apart = Spec.model_validate({"state_dir": "/a", "ledger": {"path": "/b"}})
    assert (state_dir(apart, {}).lock.as_posix(), state_dir(apart, {}).keys.as_posix()) == (
        "/a/lock",
        "/b/keys.db",
    )


def test_one_service_holds_a_folder(tmp_path):
    folder = folder_in(tmp_path)
    assert not is_held(folder)
    held = hold(folder)
    assert is_held(folder)
    assert hold(folder) is None
    assert running(folder) is None, "it has not said where yet"
    write_card(folder, CARD)
    assert running(folder) == CARD
    held.release()
    assert not is_held(folder)
    assert running(folder) is None
    assert not folder.card.exists()


def test_only_the_owner_can_read_the_card(tmp_path):
    folder = folder_in(tmp_path)
    held = hold(folder)
    write_card(folder, CARD)
    assert folder.path.stat().st_mode & 0o077 == 0
    assert folder.card.stat().st_mode & 0o077 == 0
    assert "t" not in repr(CARD).partition("token")[2]
    held.release()


def test_a_holder_that_is_killed_holds_nothing(tmp_path):
    folder = folder_in(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder.path)], stdout=subprocess.PIPE)
    holder.stdout.readline()
    assert running(folder).gateway == "g"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert running(folder) is None
    hold(folder).release()
