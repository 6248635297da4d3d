"""Helm: a chart of the same objects that Kustomize gets, with the values that are changed most taken out.

    Chart.yaml  values.yaml  values.schema.json  templates/*.yaml  README.md

A template is an object as it is written for Kustomize, in which images, replicas, resources and node labels have become
references to `values.yaml`, where their reasons stand. With the values as they are the chart gives the same objects.
The namespace is the release's; Helm wants it there before, so the chart leaves it out unless `parts.namespace` is set.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from gemstead.render.because import Because, plain
from gemstead.render.bundle import Bundle
from gemstead.render.deployment import Deployment, Pool
from gemstead.render.kubernetes import gateway, notes, readme
from gemstead.render.kubernetes.cluster import objects, settled
from gemstead.render.kubernetes.objects import Object, engine_name
from gemstead.render.kubernetes.regions import alone, checked, inside, mirrored, pods
from gemstead.render.yamltext import document, stream

SUMMARY = "a cluster, as a Helm chart that gives the same objects as `kubernetes`"
HEAD = "Made by gemstead render helm from gemstead.yaml; change that file and render again."
NAMESPACE = "release-namespace-here"  # stands where the release's namespace is put
ALWAYS = ("access", "gateway")  # parts without which nothing works
MARK = re.compile(r"@@(\d+)@@")


def render(deployment: Deployment) -> Bundle:
    """The chart of a deployment."""
    deployment = settled(deployment)
    elsewhere = _in_namespace(deployment, NAMESPACE)
    parts = objects(elsewhere)
    for region in deployment.deploy.kubernetes.regions:
        checked(region, parts)
    chart = _Chart(elsewhere)
    files = chart.templates(parts)
    files |= {
        "Chart.yaml": document(_chart(deployment), head=HEAD),
        "values.yaml": document(chart.values, head=HEAD),
        "values.schema.json": json.dumps(_schema(chart.values), indent=2) + "\n",
        ".helmignore": "README.md\n.gemstead-bundle\n",
        "README.md": _readme(deployment),
    }
    for region in deployment.deploy.kubernetes.regions:
        files[f"values-{region.name}.yaml"] = document(_region(elsewhere, chart.values, region), head=HEAD)
    return Bundle("helm", files, (*deployment.notes, *notes(deployment)))


def _in_namespace(deployment: Deployment, name: str) -> Deployment:
    deploy = deployment.deploy.model_copy(update={"namespace": name})
    return replace(deployment, spec=deployment.spec.model_copy(update={"deploy": deploy}))


class _Chart:
    """Objects become templates one after another; what is taken out of them gathers in `values`."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.values: Object = {
            "parts": Because({"namespace": False}, "which parts are made; the rest of the chart always is"),
            "gateway": {"nodeSelector": {}},
            "engines": {pool.name: {"nodeSelector": {}} for pool in deployment.pools},
        }
        self._closing = any(region.sovereign for region in deployment.deploy.kubernetes.regions)
        self._expressions: list[str] = []

    def templates(self, made: dict[str, list[Object]]) -> dict[str, str]:
        """The templates by path."""
        parts = self.values["parts"].value
        found = {}
        for name, group in made.items():
            text = ""
            if name == "access":
                namespaces = [one for one in group if one["kind"] == "Namespace"]
                text = "{{- if .Values.parts.namespace }}\n" + self._text(namespaces) + "---\n{{- end }}\n"
                group = [one for one in group if one["kind"] != "Namespace"]
            body = self._text(group)
            if name not in ALWAYS and not name.startswith("engine-"):
                parts[name] = True
                body = f"{{{{- if .Values.parts.{name} }}}}\n{body}{{{{- end }}}}\n"
            found[f"templates/{name}.yaml"] = text + body
        return found

    def _text(self, group: list[Object]) -> str:
        for one in group:
            self._take(one)
        text = re.sub(r"\{\{|\}\}", lambda found: '{{ "' + found[0] + '" }}', stream(group))
        lines = [self._line(line) for line in text.splitlines()]
        return "\n".join(lines).replace(NAMESPACE, "{{ .Release.Namespace }}") + "\n"

    def _line(self, line: str) -> str:
        found = MARK.search(line)
        if not found:
            return line
        expression = self._expressions[int(found[1])]
        lead, key = re.fullmatch(r"(\s*(?:- )?)([^:]+):.*", line).groups()  # type: ignore[union-attr]
        inside = " " * (len(lead) + 2)
        if expression.startswith("with "):
            return (
                f"{{{{- {expression} }}}}\n{lead}{key}:\n"
                f"{inside}{{{{- toYaml . | nindent {len(inside)} }}}}\n{{{{- end }}}}"
            )
        if expression.startswith("yaml "):
            return f"{lead}{key}:\n{inside}{{{{- toYaml {expression[5:]} | nindent {len(inside)} }}}}"
        if "{{" in expression:  # a text with something put into it
            return f"{lead}{key}: {expression}"
        return f"{lead}{key}: {{{{ {expression} }}}}"

    def _mark(self, expression: str) -> str:
        self._expressions.append(expression)
        return f"@@{len(self._expressions) - 1}@@"

    def _take(self, one: Object) -> None:
        """Take out of one object what values say."""
        if one["kind"] == "Job":
            stem = plain(one["metadata"]["name"]).rpartition("-")[0]
            one["metadata"]["name"] = self._mark(
                f"{stem}-{{{{ .Values.gateway.image | sha256sum | trunc 6 }}}}"
            )
        labels = one["metadata"]["labels"]
        component = labels["app.kubernetes.io/component"]
        pool = labels.get("gemstead/pool")
        if component == "gateway" and gateway.beyond(self.deployment):
            self._file(one)
        if one["kind"] == "NetworkPolicy" and self._closing:
            self._ways_out(one)
        if component == "engine" and pool:
            where, values = f'(index .Values.engines "{pool}")', self.values["engines"][pool]
        elif component == "gateway":
            where, values = ".Values.gateway", self.values["gateway"]
        else:
            self._others(one)
            return
        for _, pod in pods(one):
            main = pod["containers"][0]
            self._out(main, "image", values, f"{where}.image | quote")
            self._out(main, "resources", values, f"yaml {where}.resources")
            if selected := pod.get("nodeSelector"):
                values["nodeSelector"] = selected
            pod["nodeSelector"] = self._mark(f"with {where}.nodeSelector")
        if "replicas" in one.get("spec", {}) and component == "engine":
            self._out(one["spec"], "replicas", values, f"{where}.replicas")
        self._images(one)

    def _out(self, holder: Object, key: str, values: Object, expression: str) -> None:
        values.setdefault(key, holder[key])
        holder[key] = self._mark(expression)

    def _file(self, one: Object) -> None:
        """The gateway's file, where a region has another one: it sends no calls to other clusters."""
        if one["kind"] == "ConfigMap":
            why = "of gateways that send what has no room to other clusters"
            self.values["gateway"]["file"] = Because(one["data"]["gemstead.yaml"], why)
            one["data"]["gemstead.yaml"] = self._mark(".Values.gateway.file | toJson")
        if one["kind"] == "StatefulSet":
            digest = self._mark(".Values.gateway.file | sha256sum | trunc 16 | quote")
            one["spec"]["template"]["metadata"]["annotations"]["gemstead/config"] = digest

    def _ways_out(self, one: Object) -> None:
        """Rules that lead out of the namespace, where a region closes them."""
        rules, name = one["spec"].get("egress", []), one["metadata"]["name"]
        if len(inside(rules)) != len(rules):
            why = "ways out; the values of a sovereign region leave out what leads to the internet"
            self.values.setdefault("egress", Because({}, why)).value[name] = rules
            one["spec"]["egress"] = self._mark(f'yaml (index .Values.egress "{name}")')

    def _others(self, one: Object) -> None:
        """Pods beside gateway and engines (the models Job, pickers): where they run, and their images."""
        for _, pod in pods(one):
            why = "the models Job, endpoint pickers and routers, where there are any"
            others = self.values.setdefault("others", Because({"nodeSelector": {}, "images": {}}, why)).value
            if selected := pod.get("nodeSelector"):
                others["nodeSelector"] |= selected
            pod["nodeSelector"] = self._mark("with .Values.others.nodeSelector")
            for container in pod["containers"]:
                image = container["image"]
                if plain(image) != self.deployment.gateway.reference:
                    others["images"][container["name"]] = image
                    container["image"] = self._mark(
                        f'index .Values.others.images "{container["name"]}" | quote'
                    )
        self._images(one)

    def _images(self, one: Object) -> None:
        """The gateway's image where it helps others: the models Job, what waits, the picker."""
        for _, pod in pods(one):
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                image = container["image"]
                if isinstance(image, Because) and image.value == self.deployment.gateway.reference:
                    container["image"] = self._mark(".Values.gateway.image | quote")


def _chart(deployment: Deployment) -> Object:
    return {
        "apiVersion": "v2",
        "name": deployment.name,
        "description": "Gemma 4 on your own hardware: engines, gateway, and what watches them",
        "type": "application",
        "version": deployment.version,
        "appVersion": deployment.version,
        "kubeVersion": Because(">=1.30.0-0", "pods that are stopped sleep first, without a shell"),
    }


def _schema(values: Object) -> Object:
    """What Helm checks values by, before anything is made."""
    resources = {"type": "object", "required": ["requests", "limits"]}
    common: Object = {
        "image": {"type": "string", "minLength": 1, "pattern": "[:@]"},
        "resources": resources,
        "nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    engine = {
        "type": "object",
        "additionalProperties": False,
        "properties": {**common, "replicas": {"type": "integer", "minimum": 0}},
    }
    said = plain(values)
    return {
        "$schema": "https://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "parts": {
                "type": "object",
                "additionalProperties": False,
                "properties": {name: {"type": "boolean"} for name in said["parts"]},
            },
            "gateway": _closed(
                {**common, **({"file": {"type": "string"}} if "file" in said["gateway"] else {})}
            ),
            "engines": {
                "type": "object",
                "additionalProperties": False,
                "properties": dict.fromkeys(said["engines"], engine),
            },
            **({"others": _others_schema(common, said["others"])} if "others" in said else {}),
            **(
                {"egress": _closed({name: {"type": "array"} for name in said["egress"]})}
                if "egress" in said
                else {}
            ),
        },
    }


def _others_schema(common: Object, said: Object) -> Object:
    images = _closed(dict.fromkeys(said["images"], common["image"]))
    return _closed({"nodeSelector": common["nodeSelector"], "images": images})


def _closed(properties: Object) -> Object:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _region(deployment: Deployment, values: Object, region: Any) -> Object:
    """Values over the chart's for a further cluster."""
    where = {"topology.kubernetes.io/region": region.region or region.name}

    def moved(said: Object) -> Object:
        found: Object = {"nodeSelector": {**said["nodeSelector"], **where}}
        return found | ({"image": here(plain(said["image"]))} if region.registry else {})

    def here(image: str) -> str:
        return f"{region.registry.rstrip('/')}/{mirrored(image)}" if region.registry else image

    def engine(pool: Pool) -> Object:
        found = moved(values["engines"][pool.name])
        count = 0 if region.burst and region.replicas is None else region.replicas
        return found | ({"replicas": count} if count is not None else {})

    found: Object = {
        "gateway": moved(values["gateway"]),
        "engines": {pool.name: engine(pool) for pool in deployment.pools},
    }
    if alone(deployment, region):
        found["gateway"]["file"] = gateway.file_alone(deployment)
    if others := values.get("others"):
        images = {name: here(plain(image)) for name, image in others.value["images"].items()}
        found["others"] = {"nodeSelector": {**others.value["nodeSelector"], **where}, "images": images}
    if region.sovereign and (ways := values.get("egress")):
        closed = {name: inside(rules) for name, rules in ways.value.items()}
        found["egress"] = Because(closed, "sovereign: nothing leads to the internet")
    return found


def _readme(deployment: Deployment) -> str:
    namespace, name = deployment.deploy.namespace, deployment.name
    enforced = "pod-security.kubernetes.io/enforce=restricted"
    mesh = " istio-injection=enabled" if deployment.deploy.kubernetes.mesh == "istio" else ""
    engines = "\n".join(
        f"| `engines.{pool.name}` | {pool.setup.model.title}, `{engine_name(deployment, pool)}` |"
        for pool in deployment.pools
    )
    return f"""# {name}: Helm chart

Made by `gemstead render helm`. Kubernetes 1.30 or later. The same objects as `gemstead render kubernetes`; what they
are is told in that target's README.
{readme.operators(deployment)}{readme.secrets(deployment)}
| values | of |
|---|---|
| `gateway` | the gateway |
{engines}
| `parts` | parts that can be left out |

```console
$ kubectl create namespace {namespace} && kubectl label namespace {namespace} {enforced}{mesh}
$ helm upgrade --install {name} . --namespace {namespace}
$ helm --namespace {namespace} rollback {name}       # back
$ helm --namespace {namespace} uninstall {name}      # remove; the gateway's volume with keys and records is kept
```
"""
