"""A Kubernetes API server of a few kinds on loopback: what kubectl asks of one, with schemas held strictly."""

import copy
import json
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

# The plural names of the kinds, and whether they live in a namespace.
KINDS = {
    "v1": {
        "Namespace": ("namespaces", False),
        "ServiceAccount": ("serviceaccounts", True),
        "ConfigMap": ("configmaps", True),
        "Service": ("services", True),
        "PersistentVolumeClaim": ("persistentvolumeclaims", True),
    },
    "apps/v1": {"Deployment": ("deployments", True)},
    "networking.k8s.io/v1": {"NetworkPolicy": ("networkpolicies", True)},
    "policy/v1": {"PodDisruptionBudget": ("poddisruptionbudgets", True)},
    "monitoring.googleapis.com/v1": {"PodMonitoring": ("podmonitorings", True), "Rules": ("rules", True)},
    "ray.io/v1": {"RayCluster": ("rayclusters", True), "RayJob": ("rayjobs", True)},
}
QUERY = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in ("dryRun", "fieldManager", "fieldValidation")]


class Place(NamedTuple):
    """What a path names: a kind's objects in a namespace (empty: none, or all), or one object of them."""

    api_version: str
    plural: str
    namespace: str
    name: str

    @property
    def kind(self) -> str:
        return next(kind for kind, (plural, _) in KINDS[self.api_version].items() if plural == self.plural)


class Refused(Exception):
    """An answer that is an error: its HTTP code, Kubernetes's reason, and a message."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        self.status |= {"code": code, "reason": reason, "message": message}


class Cluster:
    """The objects of a cluster, and the requests that were made for them.

    Args:
        check: returns what is wrong with an object, a line each; such an object is refused with 422.
    """

    def __init__(self, check: Callable[[dict], list[str]]) -> None:
        self.objects: dict[Place, dict] = {}
        self.requests: list[tuple[str, str]] = []
        self._check = check
        self._lock = threading.Lock()
        self._version = 0

    def answer(self, method: str, target: str, body: dict | None, content_type: str) -> dict:
        """Returns the answer to one request; raises Refused."""
        url = urlsplit(target)
        with self._lock:
            self.requests.append((method, target))
            if (found := discovery(url.path)) is not None:
                return found
            place = place_of(url.path)
            query = parse_qs(url.query)
            match method:
                case "GET" if not place.name:
                    items = [
                        o for key, o in self.objects.items() if key[:2] == place[:2] and place.namespace in ("", key.namespace)
                    ]
                    return {"kind": f"{place.kind}List", "apiVersion": place.api_version, "metadata": {}, "items": items}
                case "GET":
                    return self._stored(place)
                case "DELETE":
                    self._stored(place)
                    if "dryRun" not in query:
                        del self.objects[place]
                    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
                case "POST":
                    place = place._replace(name=(body or {})["metadata"]["name"])
                    if place in self.objects:
                        raise Refused(409, "AlreadyExists", f'{place.plural} "{place.name}" already exists')
                    return self._store(place, body or {}, "dryRun" in query)
                case "PATCH" if content_type == "application/merge-patch+json" or not has_list(body):
                    return self._store(place, merge(self._stored(place), body), "dryRun" in query)
            raise Refused(415, "UnsupportedMediaType", f"{method} with {content_type} is none of what this server does")

    def content(self) -> dict[Place, dict]:
        """Returns what is asked for of each object, without what the server itself keeps of it."""
        return {place: {key: value for key, value in o.items() if key != "metadata"} for place, o in self.objects.items()}

    def _stored(self, place: Place) -> dict:
        if place not in self.objects:
            raise Refused(404, "NotFound", f'{place.plural} "{place.name}" not found')
        return self.objects[place]

    def _store(self, place: Place, given: dict, is_dry: bool) -> dict:
        if wrong := self._check(given):
            raise Refused(422, "Invalid", f'{place.kind} "{place.name}" is invalid: {"; ".join(wrong)}')
        stored = copy.deepcopy(given)
        stored["metadata"].setdefault("uid", str(uuid.uuid4()))
        stored["metadata"].setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        if stored == self.objects.get(place):
            return stored  # what changes nothing makes no new version
        self._version += 1
        stored["metadata"]["resourceVersion"] = str(self._version)
        if not is_dry:
            self.objects[place] = stored
        return stored


def merge(target: object, patch: object) -> dict:
    """Returns a JSON document with a merge patch applied to it (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch  # type: ignore[return-value]
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def has_list(patch: object) -> bool:
    """Whether a patch holds a list that Kubernetes may merge by a key: without one, a strategic merge is a merge.

    The lists of a selector are replaced whole.
    """
    if isinstance(patch, dict):
        return any(has_list(value) for key, value in patch.items() if key != "selector")
    return isinstance(patch, list)


def place_of(path: str) -> Place:
    """Returns what a path names; raises Refused where that is nothing."""
    words = path.strip("/").split("/")
    api_version, rest = ("v1", words[2:]) if words[0] == "api" else ("/".join(words[1:3]), words[3:])
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    plurals = [plural for plural, _ in KINDS.get(api_version, {}).values()]
    if not rest or rest[0] not in plurals or len(rest) > 2:
        raise Refused(404, "NotFound", f"the server could not find the requested resource {path}")
    return Place(api_version, rest[0], namespace, rest[1] if len(rest) == 2 else "")


def discovery(path: str) -> dict | None:
    """Returns what a path tells of the server itself, None where it names objects."""
    groups = [api_version for api_version in KINDS if "/" in api_version]
    match path.strip("/").split("/"):
        case ["version"]:
            return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            versions = [{"groupVersion": group, "version": group.split("/")[1]} for group in groups]
            named = [{"name": v["groupVersion"].split("/")[0], "versions": [v], "preferredVersion": v} for v in versions]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": named}
        case ["api", "v1"]:
            return _resources("v1")
        case ["apis", group, version] if f"{group}/{version}" in KINDS:
            return _resources(f"{group}/{version}")
        case ["openapi", "v3"]:
            paths = {("apis/" if "/" in version else "api/") + version: version for version in KINDS}
            return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}
        case ["openapi", "v3", *words]:
            return _open_api("v1" if words[0] == "api" else "/".join(words[1:]))
    return None


def _resources(api_version: str) -> dict:
    verbs = ["create", "delete", "get", "list", "patch"]
    found = [
        {"name": plural, "singularName": kind.lower(), "namespaced": is_namespaced, "kind": kind, "verbs": verbs}
        for kind, (plural, is_namespaced) in KINDS[api_version].items()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": found}


def _open_api(api_version: str) -> dict:
    """Returns which parameters a patch takes, from which kubectl learns that a dry run and strict fields are known here."""
    group, _, version = api_version.rpartition("/")
    paths = {
        f"/{plural}/{{name}}": {
            "patch": {
                "parameters": QUERY,
                "responses": {},
                "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
            }
        }
        for kind, (plural, _) in KINDS[api_version].items()
    }
    info = {"title": "test", "version": "0"}
    return {"openapi": "3.0.0", "info": info, "components": {"schemas": {}}, "paths": paths}


def serve(cluster: Cluster) -> ThreadingHTTPServer:
    """Returns a server of the cluster, started on a free port of loopback; shutdown() and server_close() end it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                content_type = self.headers.get("Content-Type", "")
                answer = cluster.answer(self.command, self.path, json.loads(body) if body else None, content_type)
                code = 201 if self.command == "POST" else 200
            except Refused as refused:
                answer, code = refused.status, refused.status["code"]
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_one

        def log_message(self, *words: object) -> None:
            """The requests are kept by the cluster."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
