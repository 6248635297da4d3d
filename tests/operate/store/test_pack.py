from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemstead.catalog.addresses import Address
from gemstead.catalog.sources import Want
from gemstead.operate.store.keep import held, matching, remove, verified
from gemstead.operate.store.locks import use
from gemstead.operate.store.pack import bring, bring_as, export
from gemstead.operate.store.part import merged, missing
from gemstead.operate.store.place import Place
from gemstead.operate.store.pull import Telling, pull
from gemstead.operate.store.trouble import StoreTrouble
from gemstead.refused import Refused
from gemstead.testing.hub import PretendHub

ALL = Want(Address("hf", "google/tiny"))
SHARD = "model-00001-of-00002.safetensors"


def quiet(*_: object) -> None:
    pass


def other(place: Place, tmp_path: Path) -> Place:
    """A store on a machine without a network."""
    return replace(place, path=tmp_path / "island", offline=True)


@pytest.mark.parametrize("target", ["out", "out.tar", "out.tar.zst"])
def test_a_model_is_carried_to_where_there_is_no_network(place: Place, tmp_path: Path, target: str) -> None:
    if target.endswith("zst"):
        pytest.importorskip("zstandard")
    there, island = pull(ALL, place), other(place, tmp_path)
    to = export(held(place), tmp_path / target, place, quiet)
    (taken,) = bring(to, island, Telling())
    assert taken == there.manifest
    again = pull(ALL, island)
    assert again.manifest.sha256 == there.manifest.sha256
    assert again.file(SHARD).read_bytes() == there.file(SHARD).read_bytes()
    assert verified(held(island)[0], whole=True, look=quiet) == []


def test_the_same_model_is_the_same_tar(place: Place, tmp_path: Path) -> None:
    pull(ALL, place)
    one, two = (export(held(place), tmp_path / name, place, quiet) for name in ("a.tar", "b.tar"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_an_export_that_was_broken_off_goes_on_where_it_was(
    place: Place, tmp_path: Path, share: float
) -> None:
    pull(ALL, place)
    whole = export(held(place), tmp_path / "a.tar", place, quiet).read_bytes()
    (tmp_path / "b.tar.part").write_bytes(whole[: int(len(whole) * share)])
    assert export(held(place), tmp_path / "b.tar", place, quiet).read_bytes() == whole


def test_an_import_that_was_cut_keeps_what_came_and_goes_on(place: Place, tmp_path: Path) -> None:
    pull(ALL, place)
    whole = export(held(place), tmp_path / "a.tar", place, quiet)
    cut, island = tmp_path / "cut.tar", other(place, tmp_path)
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.7)])
    with pytest.raises(StoreTrouble, match="ends"):
        bring(cut, island, Telling())
    assert held(island) == [] or all(one.manifest is None for one in held(island))
    with pytest.raises(StoreTrouble, match="not in"):
        pull(ALL, island)
    assert len(list(island.path.rglob("blobs/*"))) >= 2
    bring(whole, island, Telling())
    assert pull(ALL, island).fetched_bytes == 0


def test_a_damaged_file_of_an_export_is_named_and_not_taken(place: Place, tmp_path: Path) -> None:
    pull(ALL, place)
    to, island = export(held(place), tmp_path / "out", place, quiet), other(place, tmp_path)
    (shard,) = to.rglob(SHARD)
    shard.write_bytes(shard.read_bytes()[::-1])
    with pytest.raises(StoreTrouble, match=rf"{SHARD} of hf:google/tiny is damaged"):
        bring(to, island, Telling())
    shard.unlink()
    with pytest.raises(StoreTrouble, match=f"lacks {SHARD}"):
        bring(to, island, Telling())


def test_what_is_no_export_is_said_and_nothing_leaves_the_store(place: Place, tmp_path: Path) -> None:
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as tar:
        info = tarfile.TarInfo("../../evil")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(StoreTrouble, match="no export"):
        bring(evil, place, Telling())
    (tmp_path / "text.tar").write_text("hello")
    with pytest.raises(StoreTrouble, match="no tar"):
        bring(tmp_path / "text.tar", place, Telling())
    with pytest.raises(StoreTrouble, match="no file or folder"):
        bring(tmp_path / "none", place, Telling())


def test_a_folder_of_ones_own_gets_a_name(place: Place, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(StoreTrouble, match="--as"):
        bring(mine, place, Telling())
    bring_as(mine, "acme/support", place, Telling())
    pulled = pull(Want(Address("hf", "acme/support")), replace(place, offline=True))
    assert pulled.file("model.safetensors").read_bytes() == b"weights"


def test_every_damaged_file_is_named(place: Place) -> None:
    pulled = pull(ALL, place)
    pulled.file(SHARD).write_bytes(pulled.file(SHARD).read_bytes()[::-1])
    pulled.file("config.json").resolve().write_bytes(b"{}")
    pulled.file("tokenizer/tokenizer.json").unlink()
    (one,) = held(place)
    damage = {each.path: each.how for each in verified(one, whole=True, look=quiet)}
    assert set(damage) == {SHARD, "config.json", "tokenizer/tokenizer.json"}
    assert "SHA-256" in damage[SHARD] and "bytes" in damage["config.json"]


def test_looking_quickly_reads_nothing_that_was_not_touched(place: Place) -> None:
    pulled = pull(ALL, place)
    (one,) = held(place)
    read: list[str] = []
    assert verified(one, whole=False, look=lambda name, *_: read.append(name)) == []
    assert read == []
    pulled.file(SHARD).resolve().touch()
    assert verified(one, whole=False, look=lambda name, *_: read.append(name)) == []
    assert set(read) == {f"checking {SHARD}"}
    read.clear()
    assert verified(one, whole=False, look=lambda name, *_: read.append(name)) == []
    assert read == []


def test_what_is_in_use_is_not_removed(place: Place) -> None:
    pulled = pull(ALL, place)
    (one,) = held(place)
    using = use(one.shelf)
    with pytest.raises(StoreTrouble, match="in use") as caught:
        remove([one])
    assert caught.value.kind == "used" and pulled.file(SHARD).exists()
    (seen,) = held(place)
    assert seen.users is not None and seen.last_used is not None
    using.release()
    assert remove(held(place)) > 3_000_000
    assert held(place) == [] and not one.shelf.path.exists()


def test_removing_a_revision_leaves_what_others_need(hub: PretendHub, place: Place) -> None:
    pull(ALL, place)
    hub.commit, hub.files["config.json"] = "f" * 40, b"{1}"
    new = pull(ALL, place)
    remove(matching(place, "google/tiny@0123456789ab"))
    (left,) = held(place)
    assert left.revision == "f" * 40
    assert verified(left, whole=True, look=quiet) == []
    assert new.file(SHARD).exists()


def test_what_is_not_in_the_store_gets_the_nearest(place: Place) -> None:
    pull(ALL, place)
    with pytest.raises(Refused, match="Did you mean `google/tiny`"):
        matching(place, "google/tinny")


@given(
    st.integers(0, 500),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)).map(sorted).map(tuple)),
    st.integers(1, 90),
)
def test_what_came_and_what_is_missing_are_the_whole(size: int, ranges: list, chunk: int) -> None:
    came = [(begin, min(end, size)) for begin, end in ranges if begin < min(end, size)]
    gaps = missing(size, came, chunk)
    assert all(0 < end - begin <= chunk for begin, end in gaps)
    bytes_ = [at for begin, end in [*merged(came), *gaps] for at in range(begin, end)]
    assert sorted(bytes_) == list(range(size))
