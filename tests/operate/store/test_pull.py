"""Against a real local server that speaks as much of the hub's language as a download needs."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from gemstead.catalog.addresses import Address
from gemstead.catalog.manifest import Lock
from gemstead.catalog.sources import Known, Want, wanted
from gemstead.operate.store.place import Place
from gemstead.operate.store.pull import Telling, pull
from gemstead.operate.store.shelf import PART, Shelf
from gemstead.operate.store.trouble import StoreTrouble
from gemstead.refused import Refused
from gemstead.testing.hub import COMMIT, PretendHub

MODEL = bytes(range(256)) * 12_000
DIGEST = hashlib.sha256(MODEL).hexdigest()
SHARD = "model-00001-of-00002.safetensors"
ONE = Want(Address("hf", "google/tiny", COMMIT), (Known(SHARD, len(MODEL), DIGEST),), licence="apache-2.0")
ALL = Want(Address("hf", "google/tiny"))
BIG = bytes(reversed(range(256))) * 163_840  # 40 MiB: three ranges
BIG_ONE = Want(
    Address("hf", "google/tiny", COMMIT), (Known("big.gguf", len(BIG), hashlib.sha256(BIG).hexdigest()),)
)


def trouble(want: Want, place: Place, **given) -> StoreTrouble:
    with pytest.raises(StoreTrouble) as caught:
        pull(want, place, **given)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_file_is_fetched_with_its_progress_told(hub: PretendHub, place: Place) -> None:
    told: list[tuple[str, int, int]] = []
    said: list[str] = []
    pulled = pull(ONE, place, telling=Telling(lambda *news: told.append(news), said.append))
    assert pulled.file(SHARD).read_bytes() == MODEL
    assert pulled.file(SHARD).is_relative_to(place.path)
    amounts = [done for name, done, _ in told if name]
    assert amounts == sorted(amounts) and told[-1] == (SHARD, len(MODEL), len(MODEL))
    assert said == [f"hf:google/tiny at {COMMIT[:12]}: {SHARD}, 3.1 MB, licence apache-2.0"]


def test_what_the_catalogue_knows_needs_no_question(hub: PretendHub, place: Place) -> None:
    pull(ONE, place)
    assert [method for method, _, _ in hub.asked] == ["GET"]


def test_what_is_there_is_never_asked_for_again(hub: PretendHub, place: Place) -> None:
    first = pull(ONE, place)
    asked = len(hub.asked)
    assert pull(ONE, place).path == first.path
    assert pull(ONE, replace(place, offline=True)).fetched_bytes == 0
    assert len(hub.asked) == asked


def test_a_whole_repository_comes_with_a_manifest_and_without_the_same_weights_twice(
    hub: PretendHub, place: Place
) -> None:
    pulled = pull(ALL, place)
    there = {path.relative_to(pulled.path).as_posix() for path in pulled.path.rglob("*") if path.is_file()}
    assert there == set(hub.files) - {"pytorch_model.bin"}
    for file in pulled.manifest.files:
        content = hub.files[file.path]
        assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert pulled.file(file.path).read_bytes() == content
    assert (pulled.manifest.revision, pulled.manifest.licence) == (COMMIT, "apache-2.0")


def test_a_branch_is_looked_up_again_and_only_the_new_is_fetched(hub: PretendHub, place: Place) -> None:
    pull(ALL, place)
    hub.commit, hub.files["config.json"] = "f" * 40, b'{"model_type": "gemma4", "new": 1}'
    hub.asked.clear()
    again = pull(ALL, place)
    assert again.manifest.revision == "f" * 40
    assert again.fetched_bytes == len(hub.files["config.json"])
    assert [path.rpartition("/")[2] for method, path, _ in hub.asked if "/resolve/" in path] == [
        "config.json"
    ]
    assert pull(ALL, place, fresh=False).manifest.revision == "f" * 40


def test_other_programs_find_what_we_fetched_and_we_what_they_did(hub: PretendHub, place: Place) -> None:
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    path = pull(ONE, place).file(SHARD)
    assert try_to_load_from_cache("google/tiny", SHARD, cache_dir=place.path, revision=COMMIT) == str(path)
    whole = snapshot_download("google/tiny", cache_dir=place.path, endpoint=hub.url, revision=COMMIT)
    hub.asked.clear()
    assert str(pull(ALL, place).path) == whole
    assert hub.gets == []
    gguf = (
        Path(whole) / "pytorch_model.bin"
    )  # fetched by the other, known to us: taken after its sum was found right
    known = replace(ONE, files=(Known(gguf.name, len(MODEL), DIGEST),))
    assert pull(known, replace(place, offline=True)).file(gguf.name) == gguf


def test_a_snapshot_of_another_program_is_taken_where_nobody_can_be_asked(
    hub: PretendHub, place: Place
) -> None:
    from huggingface_hub import snapshot_download

    whole = Path(snapshot_download("google/tiny", cache_dir=place.path, endpoint=hub.url))
    pulled = pull(ALL, replace(place, offline=True))
    assert (pulled.path, len(pulled.manifest.files)) == (whole, len(hub.files))
    (whole / SHARD).write_bytes(b"x")
    (Shelf.of(place.path, ALL.address).path / "gemstead" / f"{COMMIT}.json").unlink()
    assert trouble(ALL, replace(place, offline=True)).kind == "offline"


def test_many_ranges_at_once_make_one_file(hub: PretendHub, place: Place) -> None:
    hub.files["big.gguf"] = BIG
    assert pull(BIG_ONE, place).file("big.gguf").read_bytes() == BIG
    assert sorted(hub.gets) == ["bytes=0-16777215", "bytes=16777216-33554431", "bytes=33554432-41943039"]


def test_a_server_without_ranges_is_no_obstacle(hub: PretendHub, place: Place) -> None:
    hub.files["big.gguf"], hub.ranges = BIG, False
    assert pull(BIG_ONE, replace(place, concurrency=2)).file("big.gguf").read_bytes() == BIG


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: PretendHub, place: Place) -> None:
    hub.cut_after = [2 << 20]
    assert pull(ONE, place).file(SHARD).read_bytes() == MODEL
    assert len(hub.gets) == 2
    begin = int(hub.gets[1][6:].partition("-")[0])
    assert 0 < begin <= 2 << 20


def test_a_busy_moment_passes(hub: PretendHub, place: Place) -> None:
    hub.statuses = [503, 200]
    assert pull(ONE, place).file(SHARD).read_bytes() == MODEL


def test_what_an_interrupted_run_fetched_is_gone_on_with(hub: PretendHub, place: Place) -> None:
    class Stop(Exception):
        pass

    def stop(_name: str, done: int, _total: int) -> None:
        if done > 9 << 20:
            raise Stop

    hub.files["big.gguf"], hub.bytes_per_s = BIG, 20 << 20
    with pytest.raises(Stop):
        pull(BIG_ONE, replace(place, concurrency=1), telling=Telling(stop))
    shelf = Shelf.of(place.path, BIG_ONE.address)
    assert not (shelf.snapshot(COMMIT) / "big.gguf").exists()
    hub.asked.clear()
    hub.bytes_per_s = 0
    told: list[int] = []
    pull(BIG_ONE, place, telling=Telling(lambda name, done, _total: told.append(done) if name else None))
    assert told[0] > 9 << 20
    asked = sum(int(last) - int(first) + 1 for first, _, last in (g[6:].partition("-") for g in hub.gets))
    assert asked == len(BIG) - told[0]
    assert list(shelf.blobs.glob(f"*{PART}*")) == []


def test_a_damaged_file_is_deleted_and_that_is_said(hub: PretendHub, place: Place) -> None:
    hub.damaged = True
    said = trouble(ONE, place)
    assert said.kind == "corrupt" and "deleted" in str(said) and SHARD in str(said)
    assert not Shelf.of(place.path, ONE.address).snapshot(COMMIT).exists()
    hub.damaged = False
    assert pull(ONE, place).file(SHARD).read_bytes() == MODEL


@pytest.mark.parametrize("name", [SHARD, "config.json"])
def test_without_a_known_sum_the_hubs_own_is_checked(hub: PretendHub, place: Place, name: str) -> None:
    hub.damaged = True
    assert trouble(replace(ONE, files=(Known(name),)), place).kind == "corrupt"


def test_a_file_that_was_damaged_later_is_fetched_anew(hub: PretendHub, place: Place) -> None:
    path = pull(ALL, place).file(SHARD)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"\xff")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    hub.asked.clear()
    assert pull(ALL, place).file(SHARD).read_bytes() == MODEL
    assert len(hub.gets) == 1


def test_too_little_room_is_said_before_anything_is_asked(hub: PretendHub, place: Place) -> None:
    said = trouble(ONE, replace(place, free=lambda _: 1_000_000, min_free_bytes=500_000_000))
    assert said.kind == "space"
    assert "3.1 MB" in str(said) and "1.0 MB free" in str(said) and "store.path" in str(said)
    assert hub.asked == []


def test_a_disk_that_fills_meanwhile_ends_it_and_what_came_is_kept(hub: PretendHub, place: Place) -> None:
    hub.files["big.gguf"], hub.bytes_per_s = BIG, 8 << 20
    free = iter([1 << 40] * 3)
    said = trouble(BIG_ONE, replace(place, free=lambda _: next(free, 0), min_free_bytes=1 << 20))
    assert said.kind == "space" and "kept" in str(said)
    hub.bytes_per_s = 0
    hub.asked.clear()
    pull(BIG_ONE, place)
    assert hub.gets and "bytes=0-" not in hub.gets[0]


@pytest.mark.parametrize(
    ("status", "error", "kind", "word"),
    [
        (401, "GatedRepo", "gated", "HF_TOKEN"),
        (403, "GatedRepo", "gated", "accept its terms"),
        (401, "RepoNotFound", "missing", "HF_TOKEN"),
        (404, "RepoNotFound", "missing", "--demo"),
        (404, "RevisionNotFound", "missing", "--demo"),
        (404, "EntryNotFound", "missing", SHARD),
    ],
)
@pytest.mark.parametrize(
    "want", [ONE, replace(ONE, files=(Known(SHARD),)), ALL], ids=["known", "asked", "all"]
)
def test_a_refusal_is_a_sentence_with_a_way_out(
    hub: PretendHub, place: Place, status: int, error: str, kind: str, word: str, want: Want
) -> None:
    if error == "EntryNotFound" and not want.files:
        return
    hub.status, hub.error = status, error
    said = trouble(want, place)
    assert said.kind == kind
    assert word in str(said)


def test_a_name_written_wrong_gets_the_nearest(hub: PretendHub, place: Place) -> None:
    said = trouble(Want(Address("hf", "google/gemma-4-31B-itt")), place)
    assert "Did you mean google/gemma-4-31B-it?" in str(said)


def test_the_token_is_shown_to_the_hub_and_not_in_what_is_said(hub: PretendHub, place: Place) -> None:
    hub.status, hub.error = 403, "GatedRepo"
    said = trouble(ALL, replace(place, hub=replace(place.hub, token="hf_secret")))
    assert "Bearer hf_secret" in hub.tokens
    assert "hf_secret" not in str(said) and "hf_secret" not in repr(replace(place.hub, token="hf_secret"))


def test_a_mirror_is_asked_when_the_hub_is_away_and_is_not_shown_the_token(
    hub: PretendHub, place: Place
) -> None:
    away = replace(place.hub, endpoint="http://127.0.0.1:9", token="hf_secret")
    pulled = pull(ALL, replace(place, hub=away, mirrors=(hub.url,)))
    assert pulled.file(SHARD).read_bytes() == MODEL
    assert hub.tokens == {""}


def test_no_network_is_noticed_soon_and_said(place: Place) -> None:
    said = trouble(ALL, replace(place, hub=replace(place.hub, endpoint="http://127.0.0.1:9")))
    assert said.kind == "offline"
    assert "--demo" in str(said)


@pytest.mark.parametrize("how", ["hub", "store"])
def test_switched_off_nothing_is_asked(hub: PretendHub, place: Place, how: str) -> None:
    off = (
        replace(place, hub=replace(place.hub, offline=True)) if how == "hub" else replace(place, offline=True)
    )
    assert trouble(ONE, off).kind == "offline"
    assert hub.asked == []


def test_two_at_once_fetch_once_and_the_second_says_that_it_waits(hub: PretendHub, place: Place) -> None:
    hub.bytes_per_s = 4 << 20
    got: list[Path] = []
    said: list[str] = []
    both = [
        threading.Thread(
            target=lambda: got.append(pull(ONE, place, telling=Telling(say=said.append)).file(SHARD))
        )
        for _ in "ab"
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    assert len(got) == 2 and got[0] == got[1]
    assert len(hub.gets) == 1
    assert sum("waiting" in sentence for sentence in said) == 1


def test_a_pinned_revision_is_taken_and_a_changed_file_refused(hub: PretendHub, place: Place) -> None:
    first = pull(ALL, place).manifest
    lock = Lock({}).pinned(first)
    hub.branch, moved = "old", replace(place, path=place.path / "elsewhere")
    assert pull(ALL, moved, lock=lock).manifest.sha256 == first.sha256
    hub.files["config.json"] = b"{}"
    said = trouble(ALL, replace(place, path=place.path / "third"), lock=lock)
    assert said.kind == "corrupt" and "config.json" in str(said) and "models pin" in str(said)


def test_of_many_gguf_files_one_has_to_be_named(hub: PretendHub, place: Place) -> None:
    hub.files = {
        "a-Q4_K_M.gguf": MODEL,
        "a-Q8_0.gguf": MODEL + b"8",
        "mmproj-f16.gguf": b"mm",
        "README.md": b"#",
    }
    with pytest.raises(Refused, match=r"2 GGUF files.*--include"):
        pull(ALL, place)
    pulled = pull(replace(ALL, include=("*Q4*", "mmproj*")), place)
    assert [file.path for file in pulled.manifest.files] == ["a-Q4_K_M.gguf", "mmproj-f16.gguf"]


def test_a_file_name_that_leads_out_of_the_folder_is_refused(hub: PretendHub, place: Place) -> None:
    hub.files = {"../../evil": b"x", "a.gguf": b"y"}
    assert "leads out" in str(trouble(ALL, place))
    assert not (place.path.parent / "evil").exists()


def test_cloud_names_and_unknown_sizes_are_refused_with_the_nearest() -> None:
    with pytest.raises(Refused, match="gemma4:31b"):
        wanted("gemma4:31b-cloud")
    with pytest.raises(Refused, match="gemma-4-26b-a4b"):
        wanted("gemma-4-27b")


def test_a_folder_is_a_source_too(place: Place, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    (mine / "a.safetensors").write_bytes(MODEL)
    (mine / "sub" / "empty.txt").write_bytes(b"")
    pulled = pull(Want(Address("file", str(mine))), replace(place, offline=False))
    assert [file.path for file in pulled.manifest.files] == ["a.safetensors", "sub/empty.txt"]
    assert pulled.file("a.safetensors").read_bytes() == MODEL
    assert pull(Want(Address("file", str(mine))), place).fetched_bytes == 0
