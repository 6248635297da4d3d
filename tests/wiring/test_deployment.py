"""From the one file to what is shipped: every size on every kind of hardware, and files that cannot be served."""

from __future__ import annotations

import pytest
import yaml

from gemstead.catalog.catalogue import built_in
from gemstead.refused import Refused
from gemstead.render.deployment import Deployment
from gemstead.render.gatewayfile import gateway_file
from gemstead.spec.model import Spec
from gemstead.wiring.deployment import deployment, dns_name


def made(
    models: list[dict[str, object]], gpu: str = "", count: int | None = None, **deploy: object
) -> Deployment:
    hardware = {"gpu": gpu, "count": count}
    return deployment(
        Spec.model_validate({"models": models, "deploy": {"hardware": hardware, **deploy}}, strict=False),
        built_in(),
    )


@pytest.mark.parametrize("size", ["e2b", "e4b", "12b", "26b", "31b"])
@pytest.mark.parametrize(("gpu", "count"), [("", None), ("L4", 1), ("H100", 1), ("H100", 8), ("MI300X", 8)])
def test_every_size_is_planned_for_every_kind_of_hardware(size: str, gpu: str, count: int | None) -> None:
    (pool,) = made([{"name": f"gemma-4-{size}"}], gpu, count).pools
    assert pool.layout.memory.fits
    assert pool.replicas.value * pool.setup.tp <= (count or 1)
    assert pool.needs.gpus == (pool.setup.tp if gpu else 0)
    assert bool(pool.needs.gpu_resource) == bool(gpu)
    assert pool.startup.allowance_s >= 3 * pool.startup.read_s
    assert pool.placement.host == "0.0.0.0" and not pool.placement.devices


def test_cards_are_dealt_out_among_models() -> None:
    large, small = made([{"name": "gemma-4-31b"}, {"name": "gemma-4-e4b"}], "H100", 8).pools
    assert large.replicas.value * large.setup.tp + small.replicas.value * small.setup.tp == 8


def test_too_few_cards_for_the_models_is_refused_with_how_many_it_takes() -> None:
    with pytest.raises(Refused, match=r"2 models need at least 2 cards of .*, not 1"):
        made([{"name": "gemma-4-e2b"}, {"name": "gemma-4-e4b"}], "H100", 1)


def test_a_model_that_fits_nowhere_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(Refused, match="does not fit on"):
        made([{"name": "gemma-4-31b", "engine": "vllm", "quantization": "bf16"}], "L4", 1)


def test_an_unknown_card_is_refused() -> None:
    with pytest.raises(Refused, match="H1OO"):
        made([{"name": "gemma-4-e2b"}], "H1OO", 1)


def test_engines_that_someone_else_runs_are_no_pool_and_stay_in_the_gateways_file() -> None:
    mine = {"name": "mine", "endpoints": [{"url": "http://10.0.0.5:8000"}]}
    found = made([{"name": "gemma-4-e2b"}, mine], "L4", 1)
    assert [pool.name for pool in found.pools] == ["gemma-4-e2b"]
    text = gateway_file(found, {"gemma-4-e2b": ["http://gemma-4-e2b:8000"]}, state_dir="/var/lib/gemstead")
    read = Spec.model_validate(yaml.safe_load(text), strict=False)
    assert [model.name for model in read.models] == ["gemma-4-e2b", "mine"]
    assert read.models[1].endpoints[0].url == "http://10.0.0.5:8000"


def test_names_become_fit_for_dns() -> None:
    assert dns_name("Google/Gemma 4_31B!") == "google-gemma-4-31b"
    with pytest.raises(Refused):
        dns_name("…")
