"""The one door to google-cloud-aiplatform (`pip install 'gemstead[vertex]'`): Vertex AI's methods, one request each.

Bodies are said as Google's JSON form has them, because that is how they are rendered and reviewed; the library holds
them to its own types before anything is sent, so an unknown field is refused here. It is asked in its lower form
(`aiplatform_v1`): `aiplatform.Model.upload` takes only commands as probes, waits inside, and cannot go on with what an
earlier run began. REST rather than gRPC, because that is what company proxies let through. Long operations are asked
for at the addresses of the discovery document: the library's own REST form (2.7.0) asks at `/ui/...`.

Imported when it is needed: the library takes about a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from gemstead.operate.apply.piece import PlaceError
from gemstead.operate.cloud.google import HOSTS, OVERRIDES, TIMEOUT_S, Exists, Missing, credentials

Object = dict[str, Any]
T = TypeVar("T")
LONG = "google.longrunning.Operations."
# https://aiplatform.googleapis.com/$discovery/rest?version=v1: projects.locations.….operations
ADDRESSES = {
    f"{LONG}GetOperation": [{"method": "get", "uri": "/v1/{name=projects/**/operations/*}"}],
    f"{LONG}ListOperations": [{"method": "get", "uri": "/v1/{name=projects/**}/operations"}],
}


class Aiplatform:
    """Vertex AI in one region, as one identity. Every method raises `Missing` or `PlaceError`."""

    def __init__(self, who: Any, address: str) -> None:
        self._types = import_module("google.cloud.aiplatform_v1.types")
        self._json = import_module("google.protobuf.json_format")
        services = "google.cloud.aiplatform_v1.services"
        how = {
            "credentials": who,
            "transport": "rest",
            "client_options": {"api_endpoint": address.rstrip("/")},
        }
        self._endpoint_service = import_module(f"{services}.endpoint_service").EndpointServiceClient(**how)
        self._model_service = import_module(f"{services}.model_service").ModelServiceClient(**how)
        self._operation_service = _operations(who, address.rstrip("/"))
        self._refused = _refusals()

    def endpoints(self, parent: str, which: str) -> list[Object]:
        """Endpoints that the filter finds, of all pages."""
        request = {"parent": parent, "filter": which}
        return self._ask(lambda how: self._all(self._endpoint_service.list_endpoints(request, **how)))

    def create_endpoint(self, parent: str, endpoint: Object) -> str:
        """Name of the operation that makes it; its id is its name, so that it is not made twice."""
        request = {"parent": parent, "endpoint": endpoint, "endpointId": endpoint["displayName"]}
        made = self._said("CreateEndpointRequest", request)
        return self._begun(lambda how: self._endpoint_service.create_endpoint(made, **how))

    def update_endpoint(self, endpoint: Object, fields: list[str]) -> None:
        """Change these fields of the endpoint that `endpoint` names, and no others."""
        made, mask = self._said("Endpoint", endpoint), import_module("google.protobuf.field_mask_pb2")
        paths = mask.FieldMask()
        self._json.ParseDict(",".join(fields), paths)
        self._ask(lambda how: self._endpoint_service.update_endpoint(endpoint=made, update_mask=paths, **how))

    def delete_endpoint(self, name: str) -> str:
        """Name of the operation that removes it."""
        return self._begun(lambda how: self._endpoint_service.delete_endpoint(name=name, **how))

    def deploy(self, endpoint: str, request: Object) -> str:
        """Name of the operation that deploys; `request` is the body of deployModel."""
        made = self._said("DeployModelRequest", {**request, "endpoint": endpoint})
        return self._begun(lambda how: self._endpoint_service.deploy_model(made, **how))

    def undeploy(self, endpoint: str, request: Object) -> str:
        """Name of the operation that takes a deployed model away."""
        made = self._said("UndeployModelRequest", {**request, "endpoint": endpoint})
        return self._begun(lambda how: self._endpoint_service.undeploy_model(made, **how))

    def models(self, parent: str, which: str) -> list[Object]:
        """Models that the filter finds, each in its default version."""
        request = {"parent": parent, "filter": which}
        return self._ask(lambda how: self._all(self._model_service.list_models(request, **how)))

    def versions(self, model: str) -> list[Object]:
        """All versions of a model."""
        return self._ask(lambda how: self._all(self._model_service.list_model_versions(name=model, **how)))

    def upload(self, parent: str, request: Object) -> str:
        """Name of the operation that registers a model or a version of one."""
        made = self._said("UploadModelRequest", {**request, "parent": parent})
        return self._begun(lambda how: self._model_service.upload_model(made, **how))

    def operation(self, name: str) -> Object:
        """How a long operation is doing: `done`, and `error` where it failed."""
        found: Object = self._json.MessageToDict(
            self._ask(lambda how: self._operation_service.get_operation(name=name, **how))
        )
        return found

    def operations(self, of: str) -> list[Object]:
        """Long operations of an endpoint."""
        found = self._ask(
            lambda how: list(self._operation_service.list_operations(name=of, filter_="", **how))
        )
        return [self._json.MessageToDict(one) for one in found]

    def form(self, kind: str, said: Object) -> Object:
        """The document as Google gives it back: without what is its type's default, such as `false`.

        Raises:
            PlaceError: the type has no such field.
        """
        return self._told(self._said(kind, said))

    def _said(self, kind: str, said: Object) -> Any:
        type_ = getattr(self._types, kind)
        made = type_()
        try:
            self._json.ParseDict(said, type_.pb(made))
        except self._json.ParseError as error:
            raise PlaceError(f"Vertex AI's {kind} does not take this: {error}") from error
        return made

    def _told(self, message: Any) -> Object:
        told: Object = self._json.MessageToDict(type(message).pb(message))
        return told

    def _all(self, pages: Any) -> list[Object]:
        return [self._told(one) for one in pages]

    def _begun(self, ask: Callable[[Mapping[str, Any]], Any]) -> str:
        return str(self._ask(ask).operation.name)

    def _ask(self, ask: Callable[[Mapping[str, Any]], T]) -> T:
        try:
            return ask({"timeout": TIMEOUT_S, "retry": None})
        except self._refused.missing as error:
            raise Missing(f"{error.message} (status 404)") from error
        except self._refused.call as error:
            if _status(error) == "ALREADY_EXISTS":
                raise Exists(f"{error.message} (status 409)") from error
            raise PlaceError(f"{error.message} (status {int(error.code or 0)})") from error
        except self._refused.others as error:
            raise PlaceError(f"Google's aiplatform API does not answer: {error}") from error


class _Refusals:
    """What the library raises, by what it means."""

    def __init__(self, missing: Any, call: Any, others: tuple[Any, ...]) -> None:
        self.missing, self.call, self.others = missing, call, others


def _refusals() -> _Refusals:
    core, form = import_module("google.api_core.exceptions"), import_module("google.protobuf.json_format")
    auth = import_module("google.auth.exceptions")
    web = import_module("requests.exceptions")
    return _Refusals(
        core.NotFound,
        core.GoogleAPICallError,
        (core.GoogleAPIError, auth.GoogleAuthError, web.RequestException, form.Error),
    )


def _status(error: Any) -> str:
    """The canonical code, which an HTTP status alone does not tell: 409 is also a call that came between others."""
    try:
        return str(error.response.json()["error"]["status"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return ""


def _operations(who: Any, address: str) -> Any:
    long = import_module("google.api_core.operations_v1")
    transport = import_module("google.api_core.operations_v1.transports.rest").OperationsRestTransport(
        host=address, credentials=who, http_options=ADDRESSES, path_prefix="v1"
    )
    return long.AbstractOperationsClient(transport=transport)


def aiplatform(environ: Mapping[str, str], region: str) -> Aiplatform:
    """Vertex AI as whoever runs here.

    Raises:
        PlaceError: the library is not installed, or no identity is found.
    """
    address = environ.get(f"{OVERRIDES}AIPLATFORM", HOSTS["aiplatform"]).format(region=region)
    try:
        return Aiplatform(credentials(environ), address)
    except ImportError as error:
        raise PlaceError(
            "applying to Vertex AI needs google-cloud-aiplatform: pip install 'gemstead[vertex]'"
        ) from error
