"""A bucket server behind a guard that knows the role and the condition which Terraform grants.

The guard answers 403 to what they do not allow, and notes it, as Cloud Storage would; also in place
of a 404 where listing is not allowed, for else anybody could find out what there is.
"""

import http.server
import re
import threading
import urllib.error
import urllib.parse
import urllib.request

from tests.infra.conftest import ROOT

# What the predefined roles hold of the permissions that the calls below need.
ROLES = {
    "roles/storage.legacyBucketReader": {"storage.objects.list", "storage.buckets.get"},
    "roles/storage.objectViewer": {"storage.objects.get", "storage.objects.list"},
    "roles/storage.objectUser": {
        *("storage.objects.get", "storage.objects.list"),
        *("storage.objects.create", "storage.objects.delete", "storage.objects.update"),
    },
}


def granted(pod):
    """Returns the roles that infra/terraform gives a pod's account in the bucket: under runs/, and everywhere."""
    text = (ROOT / "infra/terraform/identities.tf").read_text()
    (under_runs,) = re.findall(rf'^ +{pod} += "(roles/[a-zA-Z.]+)"', text, re.MULTILINE)
    listing = text.partition('"google_storage_bucket_iam_member" "list" {')[2]
    return under_runs, re.findall(r'role += "(roles/[a-zA-Z.]+)"', listing)[0]


def needed(method, path, query):
    """Returns the permissions that a request needs, and the name of its object (None for the bucket itself)."""
    match method, urllib.parse.unquote(path).split("/", 5)[1:]:
        case "GET", ["storage", "v1", "b", _, "o"]:
            return {"storage.objects.list"}, None
        case "GET", ["storage", "v1", "b", _, object_path] | ["download", "storage", "v1", "b", object_path]:
            return {"storage.objects.get"}, object_path.partition("o/")[2]
        case "DELETE", ["storage", "v1", "b", _, object_path]:
            return {"storage.objects.delete"}, object_path.removeprefix("o/")
        case "POST" | "PUT", ["upload", "storage", "v1", "b", _]:
            # Replacing an object deletes the one that was there; with ifGenerationMatch=0 there is none.
            replaces = set() if query.get("ifGenerationMatch") == "0" else {"storage.objects.delete"}
            return {"storage.objects.create"} | replaces, query.get("name")
    return {f"unknown: {method} {path}"}, None


def allows(roles, permissions, name):
    """Whether the two roles, the first under the condition `runs_only` of identities.tf, hold the permissions."""
    under_runs, everywhere = roles
    held = ROLES[everywhere] | (ROLES[under_runs] if f"{name}/".startswith("runs/") else set())
    return permissions <= held


class Guard:
    """Stands before a bucket server, for one pod's roles at a time."""

    def __init__(self, server_address):
        self.roles, self.denied, self.seen = ("", ""), [], []
        guard = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                parts = urllib.parse.urlsplit(self.path)
                query = dict(urllib.parse.parse_qsl(parts.query))
                permissions, name = needed(self.command, parts.path, query)
                if self.command == "POST" and name is None and (found := re.search(rb'"name": ?"([^"]+)"', body)):
                    name = found.group(1).decode()
                request = (self.command, self.path, sorted(permissions), name)
                guard.seen.append(request)
                if not allows(guard.roles, permissions, name):
                    return self.forbid(request)
                status, headers, answer = ask(server_address + self.path, self.command, self.headers, body)
                if status == 404 and not allows(guard.roles, {"storage.objects.list"}, None):
                    return self.forbid(request)
                self.reply(status, headers, answer)

            def forbid(self, request):
                guard.denied.append(request)
                self.reply(403, {}, b'{"error": {"code": 403, "message": "denied"}}')

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = forward

            def reply(self, status, headers, body):
                self.send_response(status)
                for key, value in headers.items():
                    if key.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                        self.send_header(key, value.replace(server_address, guard.address))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def ask(url, method, headers, body):
    """Passes a request on; returns its status, headers and body."""
    kept = {key: value for key, value in headers.items() if key.lower() not in ("host", "content-length", "accept-encoding")}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body or None, kept, method=method), timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()
