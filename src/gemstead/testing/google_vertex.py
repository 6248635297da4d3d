"""Vertex AI's endpoints, models and long operations, as far as `gemstead apply vertex` uses them.

What takes long there is done when it has been asked about `LOOKS` times, or anything else has been read as often: so a
client that does not wait finds things as they were. Lists come in pages. It refuses what Google refuses: shares that do
not sum to 100, an endpoint that has deployments, a deployment that has calls beside others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Object = dict[str, Any]
Answer = tuple[int, Object]
LOOKS = 2
TYPE = "type.googleapis.com/google.cloud.aiplatform.v1."


class VertexApi:
    """Its state; `read` and `change` answer one request each."""

    def __init__(self) -> None:
        self.endpoints: dict[str, Object] = {}
        self.models: dict[str, list[Object]] = {}  # name -> versions
        self.operations: dict[str, Object] = {}
        self._begun: dict[
            str, tuple[int, Callable[[], None]]
        ] = {}  # operation -> looks until it is done, what then
        self._numbers = 1000

    def read(self, path: str, query: dict[str, str]) -> Answer:
        """The answer to a GET of `path`, which begins with `projects/`."""
        self._pass()
        if path in self.operations:
            return 200, self.operations[path]
        if path.endswith("/operations"):
            of = path.removesuffix("operations")
            return 200, {"operations": [one for name, one in self.operations.items() if name.startswith(of)]}
        wanted = re.search(r'"(.*)"', query.get("filter", ""))
        if path.endswith("/endpoints"):
            label = wanted[1] if wanted else ""
            found = [one for one in self.endpoints.values() if one.get("labels", {}).get("gemstead") == label]
            return _page("endpoints", found, query)
        if path.endswith("/models"):
            name = wanted[1] if wanted else ""
            found = [one[-1] for one in self.models.values() if one[-1]["displayName"] == name]
            return _page("models", found, query)
        if path.endswith(":listVersions") and (
            versions := self.models.get(path.removesuffix(":listVersions"))
        ):
            return _page("models", versions, query)
        if path in self.endpoints:
            return 200, self.endpoints[path]
        return no(404, f"no {path}")

    def change(self, method: str, path: str, query: dict[str, str], body: Object) -> Answer:
        """The answer to anything else."""
        if path.endswith("/endpoints"):
            return self._create(path, query, body)
        if path.endswith("/models:upload"):
            return self._upload(path.removesuffix(":upload"), body)
        endpoint = self.endpoints.get(path.partition(":")[0])
        if endpoint is None:
            return no(404, f"no {path}")
        if method == "PATCH":
            return self._patch(endpoint, query.get("updateMask", "").split(","), body)
        if method == "DELETE":
            return self._delete(endpoint)
        if path.endswith(":deployModel"):
            return self._deploy(endpoint, body)
        return self._undeploy(endpoint, body)

    def _pass(self) -> None:
        """One look's time passes."""
        for name, (left, then) in list(self._begun.items()):
            if left > 1:
                self._begun[name] = (left - 1, then)
                continue
            del self._begun[name]
            then()
            operation = self.operations[name]
            kind = operation["metadata"]["@type"].removeprefix(TYPE).removesuffix("OperationMetadata")
            empty = {"@type": "type.googleapis.com/google.protobuf.Empty"}
            answers = {"CreateEndpoint": f"{TYPE}Endpoint", "Delete": ""}
            type_ = answers.get(kind, f"{TYPE}{kind}Response")
            operation.update({"done": True, "response": {"@type": type_} if type_ else empty})

    def _begin(self, of: str, kind: str, then: Callable[[], None]) -> Answer:
        self._numbers += 1
        name = f"{of}/operations/{self._numbers}"
        self.operations[name] = {"name": name, "metadata": {"@type": f"{TYPE}{kind}OperationMetadata"}}
        self._begun[name] = (LOOKS, then)
        return 200, dict(self.operations[name])

    def _create(self, path: str, query: dict[str, str], body: Object) -> Answer:
        name = f"{path}/{query['endpointId']}"
        if name in self.endpoints or any(one.startswith(f"{name}/") for one in self._begun):
            return no(409, f"Endpoint {name} already exists.", "ALREADY_EXISTS")
        made = {**body, "name": name, "etag": "1"}
        if body.get("dedicatedEndpointEnabled"):
            made["dedicatedEndpointDns"] = f"{query['endpointId']}.europe-west4-1.prediction.vertexai.goog"

        def then() -> None:
            self.endpoints[name] = made

        return self._begin(name, "CreateEndpoint", then)

    def _upload(self, path: str, body: Object) -> Answer:
        name = body.get("parentModel") or f"{path}/{body['modelId']}"
        new = "parentModel" not in body
        if new and (name in self.models or any(one.startswith(f"{name}/") for one in self._begun)):
            return no(409, f"Model {name} already exists.", "ALREADY_EXISTS")

        def then() -> None:
            versions = self.models.setdefault(name, [])
            number = str(len(versions) + 1)
            versions.append({**body["model"], "name": f"{name}@{number}", "versionId": number})

        return self._begin(name, "UploadModel", then)

    def _patch(self, endpoint: Object, fields: list[str], body: Object) -> Answer:
        split = body.get("trafficSplit")
        if "trafficSplit" in fields and (refused := _split(endpoint, split or {})):
            return no(400, refused)
        endpoint.update({name: body[name] for name in fields if name in body})
        return 200, endpoint

    def _delete(self, endpoint: Object) -> Answer:
        if endpoint.get("deployedModels"):
            return no(400, "Endpoint has deployed models.", "FAILED_PRECONDITION")
        name = endpoint["name"]

        def then() -> None:
            del self.endpoints[name]

        return self._begin(name, "Delete", then)

    def _deploy(self, endpoint: Object, body: Object) -> Answer:
        if sum(body["trafficSplit"].values()) != 100:
            return no(400, "Traffic percentages must sum to 100.")
        self._numbers += 1
        number = str(self._numbers)

        def then() -> None:
            deployed = {**body["deployedModel"], "id": number, "status": {"availableReplicaCount": 1}}
            endpoint["deployedModels"] = [*endpoint.get("deployedModels", []), deployed]
            split = body["trafficSplit"].items()
            endpoint["trafficSplit"] = {
                number if name == "0" else name: share for name, share in split if share
            }

        return self._begin(endpoint["name"], "DeployModel", then)

    def _undeploy(self, endpoint: Object, body: Object) -> Answer:
        mine, there = body["deployedModelId"], endpoint.get("deployedModels", [])
        left = [one for one in there if one["id"] != mine]
        if len(left) == len(there):
            return no(404, f"no deployed model {mine}")
        split = body.get("trafficSplit") or dict(endpoint.get("trafficSplit", {}))
        if left and split.get(mine):
            return no(400, "The deployed model still has traffic.", "FAILED_PRECONDITION")

        def then() -> None:
            endpoint["deployedModels"] = [one for one in endpoint["deployedModels"] if one["id"] != mine]
            endpoint["trafficSplit"] = split if endpoint["deployedModels"] else {}

        return self._begin(endpoint["name"], "UndeployModel", then)


def no(status: int, message: str, word: str = "") -> Answer:
    """A refusal in Google's form."""
    words = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 409: "ALREADY_EXISTS", 503: "UNAVAILABLE"}
    return status, {"error": {"code": status, "message": message, "status": word or words[status]}}


def _split(endpoint: Object, split: dict[str, int]) -> str:
    if sum(split.values()) != 100:
        return "Traffic percentages must sum to 100."
    unknown = split.keys() - {one["id"] for one in endpoint.get("deployedModels", [])}
    return f"Not deployed: {', '.join(sorted(unknown))}." if unknown else ""


def _page(of: str, found: list[Object], query: dict[str, str]) -> Answer:
    """One at a time: a client that reads one page only is found out."""
    at = int(query.get("pageToken") or 0)
    more = {"nextPageToken": str(at + 1)} if at + 1 < len(found) else {}
    return 200, {of: found[at : at + 1], **more}
