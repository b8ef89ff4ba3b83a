# SPDX-License-Identifier: Apache-2.0
"""
A Hub on localhost, which `huggingface_hub` and `transformers` reach through `HF_ENDPOINT`.

It speaks what they say when a model is pushed and loaded: repositories, branches, uploads by git-LFS (`basic`
transfer) and as part of a commit, commits as ndjson, files by revision with their etags. Reading a private repository
and writing need the token. Xet, the Hub's other way of uploads, is not spoken: set `HF_HUB_DISABLE_XET=1`.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml


TOKEN = "hf_localhost"
LFS_SUFFIXES = (".safetensors", ".bin", ".gz", ".webp")


class HubError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class File:
    """A file of a commit; `oid` is git's for what is in the commit and the SHA-256 of what is in the LFS store."""

    path: Path
    oid: str
    is_lfs: bool


@dataclass
class Commit:
    sha: str
    message: str
    files: dict[str, File]


@dataclass
class Repository:
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def commit(self, branch: str, message: str, files: dict[str, File]) -> Commit:
        commits = self.branches.setdefault(branch, [])
        listing = json.dumps([len(commits), branch, message, sorted((name, file.oid) for name, file in files.items())])
        commits.append(Commit(hashlib.sha1(listing.encode()).hexdigest(), message, files))
        return commits[-1]

    def at(self, revision: str) -> Commit:
        if revision in self.branches:
            return self.branches[revision][-1]
        for commit in (commit for commits in self.branches.values() for commit in commits):
            if commit.sha == revision:
                return commit
        raise HubError(404, f"There is no revision {revision}.", "RevisionNotFound")


class Hub:
    """What is on the Hub, and a way to make it fail: requests whose path `refused` is found in get a 403."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.refused: str | None = None
        self.requests: list[str] = []
        self.lock = threading.Lock()

    def repository(self, repo_id: str, may_see_private: bool = True) -> Repository:
        found = self.repositories.get(repo_id)
        if found is None or (found.private and not may_see_private):
            raise HubError(401, "Repository not found", "RepoNotFound")
        return found

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The content of a repository."""
        files = self.repository(repo_id).at(revision).files
        return {name: file.path.read_bytes() for name, file in files.items()}

    def messages(self, repo_id: str, branch: str = "main") -> list[str]:
        """The messages of its commits, oldest first."""
        return [commit.message for commit in self.repository(repo_id).branches[branch]]

    def store(self, content: bytes, is_lfs: bool) -> File:
        header = b"" if is_lfs else b"blob %d\0" % len(content)
        oid = (hashlib.sha256 if is_lfs else hashlib.sha1)(header + content).hexdigest()
        (self.folder / oid).write_bytes(content)
        return File(self.folder / oid, oid, is_lfs)

    # Each of these answers one kind of request: (repository id and other parts of the path, body) -> JSON.

    def whoami(self, body):
        return {"type": "user", "name": "me", "fullname": "Me", "orgs": [], "auth": {"type": "access_token"}}

    def validate_yaml(self, body):
        match = re.match(r"---\n(.*?)\n---\n", body["content"], flags=re.DOTALL)
        try:
            metadata = yaml.safe_load(match[1]) if match else None
        except yaml.YAMLError as error:
            raise HubError(400, str(error)) from error
        return {"errors": [], "warnings": [] if metadata else [{"message": "empty or missing yaml metadata"}]}

    def create_repo(self, body):
        repo_id = f"{body.get('organization') or 'me'}/{body['name']}"
        answer = {"url": f"{self.url}/{repo_id}", "name": repo_id}
        if repo_id in self.repositories:
            raise HubError(409, json.dumps(answer))
        private = body.get("private", False) or body.get("visibility") == "private"
        self.repositories[repo_id] = Repository(private)
        self.repositories[repo_id].commit("main", "initial commit", {".gitattributes": self.store(b"", False)})
        return answer

    def create_branch(self, repo_id, branch, body):
        repository = self.repository(repo_id)
        if branch in repository.branches:
            raise HubError(409, f"Branch {branch} exists.")
        repository.branches[branch] = [repository.at(body.get("startingPoint", "main"))]
        return {}

    def preupload(self, repo_id, revision, body):
        present = self.repository(repo_id).at(revision).files
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                    "shouldIgnore": False,
                    "oid": present[file["path"]].oid if file["path"] in present else None,
                }
                for file in body["files"]
            ]
        }

    def lfs_batch(self, repo_id, body):
        self.repository(repo_id)
        objects = []
        for wanted in body["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if not (self.folder / wanted["oid"]).exists():
                answer["actions"] = {"upload": {"href": f"{self.url}/lfs/{wanted['oid']}", "header": {}}}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects, "hash_algo": "sha256"}

    def commit(self, repo_id, revision, lines):
        repository = self.repository(repo_id)
        if revision not in repository.branches:
            raise HubError(404, f"There is no branch {revision}.", "RevisionNotFound")
        files, message = dict(repository.at(revision).files), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = self.store(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                path = self.folder / value["oid"]
                if not path.exists() or path.stat().st_size != value["size"]:
                    raise HubError(400, f"{value['path']} was not uploaded.")
                files[value["path"]] = File(path, value["oid"], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise HubError(400, f"{line['key']} is not spoken here.")
        made = repository.commit(revision, message, files)
        return {"success": True, "commitOid": made.sha, "commitUrl": f"{self.url}/{repo_id}/commit/{made.sha}"}

    def model_info(self, repo_id, revision, may_see_private):
        repository = self.repository(repo_id, may_see_private)
        commit = repository.at(revision or "main")
        card = commit.files.get("README.md")
        match = card and re.match(r"---\n(.*?)\n---\n", card.path.read_text(encoding="utf-8"), flags=re.DOTALL)
        metadata = (yaml.safe_load(match[1]) if match else None) or {}
        tags = [*metadata.get("tags", []), *(f"license:{name}" for name in [metadata.get("license")] if name)]
        return {
            "id": repo_id,
            "modelId": repo_id,
            "sha": commit.sha,
            "private": repository.private,
            "tags": tags,
            "pipeline_tag": metadata.get("pipeline_tag"),
            "library_name": metadata.get("library_name"),
            "cardData": metadata,
            "siblings": [{"rfilename": name} for name in commit.files],
        }

    def tree(self, repo_id, revision, folder, may_see_private):
        files = self.repository(repo_id, may_see_private).at(revision).files
        below = {name: file for name, file in files.items() if not folder or name.startswith(f"{folder}/")}
        if folder and not below:
            raise HubError(404, f"There is no folder {folder}.", "EntryNotFound")
        return [
            {"type": "file", "path": name, "oid": file.oid, "size": file.path.stat().st_size}
            for name, file in below.items()
        ]

    def resolve(self, repo_id, revision, name, may_see_private) -> tuple[Commit, File]:
        commit = self.repository(repo_id, may_see_private).at(revision)
        if name not in commit.files:
            raise HubError(404, f"There is no file {name}.", "EntryNotFound")
        return commit, commit.files[name]


REPO = r"(?P<repo_id>[^/]+/[^/]+)"
ROUTES = {
    ("GET", r"/api/whoami-v2"): Hub.whoami,
    ("POST", r"/api/validate-yaml"): Hub.validate_yaml,
    ("POST", r"/api/repos/create"): Hub.create_repo,
    ("POST", rf"/api/models/{REPO}/branch/(?P<branch>.+)"): Hub.create_branch,
    ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>.+)"): Hub.preupload,
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch"): Hub.lfs_batch,
    ("POST", rf"/api/models/{REPO}/commit/(?P<revision>.+)"): Hub.commit,
    ("GET", rf"/api/models/{REPO}(?:/revision/(?P<revision>[^/]+))?"): Hub.model_info,
    ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)/?(?P<folder>.*)"): Hub.tree,
    ("GET", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)"): Hub.resolve,
    ("HEAD", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)"): Hub.resolve,
}
READS = (Hub.model_info, Hub.tree, Hub.resolve)


def make_handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def answer(self):
            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            body = self.body()
            try:
                with hub.lock:
                    self.route(path, body)
            except HubError as error:
                headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
                content = str(error) if error.status == 409 and str(error).startswith("{") else ""
                self.send(error.status, content or json.dumps({"error": str(error)}), headers)

        do_GET = do_HEAD = do_POST = do_PUT = answer

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def route(self, path: str, body: bytes):
            if hub.refused and hub.refused in path:
                raise HubError(403, "This is refused.")
            if self.command == "PUT":  # what the LFS batch has given an address for
                if hub.store(body, True).oid != path.rpartition("/")[2]:
                    raise HubError(400, "The content is not what was announced.")
                return self.send(200, "")
            found = ((route, re.fullmatch(pattern, path), method) for (method, pattern), route in ROUTES.items())
            route, match = next(
                ((route, match) for route, match, method in found if match and method == self.command), (None, None)
            )
            if route is None:
                raise HubError(404, f"{self.command} {path} is not spoken here.")
            parts = {name: value and unquote(value) for name, value in match.groupdict().items()}
            has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if route in READS:
                parts["may_see_private"] = has_token
                if route is Hub.resolve:
                    return self.send_file(*route(hub, **parts))
                return self.send(200, json.dumps(route(hub, **parts)))
            if not has_token:
                raise HubError(401, "Invalid credentials in Authorization header")
            if route is Hub.commit:
                answer = route(hub, **parts, lines=[json.loads(line) for line in body.splitlines() if line.strip()])
            else:
                answer = route(hub, **parts, body=json.loads(body or b"{}"))
            return self.send(200, json.dumps(answer))

        def send_file(self, commit: Commit, file: File):
            headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.oid}"'}
            if file.is_lfs:
                headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(file.path.stat().st_size)}
            self.send(200, file.path.read_bytes(), headers)

        def send(self, status: int, content: str | bytes, headers: dict[str, str] | None = None):
            content = content.encode() if isinstance(content, str) else content
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


@contextmanager
def running_hub(folder: Path):
    """Serves a [`Hub`] that keeps its files in `folder`."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
