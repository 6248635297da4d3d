"""The list of models, read by the official clients' own types."""

from __future__ import annotations

import json

from openai.pagination import SyncPage
from openai.types import Model

from gemstead.gateway.settings import Pool
from gemstead.openai.models import listing, one

POOL = Pool(name="gemma-4-e2b", aliases=("gemma4:e2b",), created=1_790_000_000)


def test_a_model_has_openais_fields():
    told = json.loads(one(POOL))
    assert told["aliases"] == ["gemma4:e2b"]
    model = Model.model_validate(told, strict=True)
    assert (model.id, model.object, model.created, model.owned_by) == (
        "gemma-4-e2b",
        "model",
        1_790_000_000,
        "google",
    )


def test_the_list_has_openais_and_anthropics_ends():
    told = json.loads(listing(iter([POOL])))
    assert SyncPage[Model].model_validate(told).data[0].id == "gemma-4-e2b"
    assert (told["object"], told["has_more"], told["first_id"], told["last_id"]) == (
        "list",
        False,
        POOL.name,
        POOL.name,
    )
    assert json.loads(listing([]))["data"] == []
