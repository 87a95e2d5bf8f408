"""What the test double answers to each GraphQL operation of the pinned W&B client, by the operation's name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from .server import Server, StoredRun

ENTITY = "tester"
PROJECT_ID = 7


def upsert_run(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """A run made or changed; a later call names it by the id the first one answered with."""
    id = given.get("name") or given["id"].removeprefix("stored-")
    inserted = id not in server.runs
    run = server.run(id, given.get("project"))
    server.projects.add(run.project)
    if given.get("config"):
        run.config = json.loads(given["config"])
    if given.get("tags") is not None:
        run.tags = list(given["tags"])
    for key in ("displayName", "groupName", "jobType", "sweep"):
        if given.get(key):
            run.facts[key] = given[key]
    if given.get("display_name"):
        run.facts["displayName"] = given["display_name"]
    if given.get("summaryMetrics"):
        run.summary = json.loads(given["summaryMetrics"])
    if given.get("state"):
        run.state = given["state"]
    return {"upsertBucket": {"bucket": bucket(run), "inserted": inserted}}


def bucket(run: StoredRun) -> dict[str, Any]:
    """A run as the server shows it."""
    steps = [row.get("_step", 0) for row in run.rows]
    keys = {key for row in run.rows for key in row}
    return {
        "id": f"stored-{run.id}",
        "name": run.id,
        "displayName": run.facts.get("displayName"),
        "description": "",
        "notes": "",
        "commit": None,
        "readOnly": False,
        "createdAt": "2026-01-01T00:00:00Z",
        "heartbeatAt": "2026-01-01T00:00:00Z",
        "group": run.facts.get("groupName"),
        "jobType": run.facts.get("jobType"),
        "sweepName": run.facts.get("sweep"),
        "state": run.state,
        "tags": run.tags,
        "config": json.dumps(run.config),
        "wandbConfig": json.dumps({"t": 1}),
        "summaryMetrics": json.dumps(run.summary),
        "systemMetrics": "{}",
        "user": {"name": ENTITY, "username": ENTITY},
        "projectId": PROJECT_ID,
        "project": project(run.project),
        "historyLineCount": len(run.rows),
        "logLineCount": 0,
        "eventsLineCount": 0,
        "historyTail": json.dumps([json.dumps(run.rows[-1])] if run.rows else []),
        "eventsTail": "[]",
        "historyKeys": {"lastStep": max(steps, default=-1), "sets": [], "keys": {key: {} for key in keys}},
    }


def project(name: str) -> dict[str, Any]:
    """A project as the server shows it."""
    return {"id": f"project-{name}", "name": name, "entityName": ENTITY, "entity": {"id": "e", "name": ENTITY}}


def resume_status(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """Whether a run of this id is there."""
    found = server.runs.get(given["name"])
    return {"model": project(given["project"]) | {"bucket": bucket(found) if found else None}}


def one_run(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """A run, or null."""
    found = server.runs.get(given.get("name") or given.get("run") or given.get("runName"))
    return {"project": {"run": bucket(found) if found else None}}


def many_runs(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """A page of the runs of a project, or null for a project that is not there; a cursor is a position."""
    if given["project"] not in server.projects:
        return {"project": None}
    found = [run for run in server.runs.values() if run.project == given["project"]]
    start = int(given.get("cursor") or 0)
    end = start + (given.get("perPage") or 50)
    edges = [{"node": bucket(run), "cursor": str(start + i + 1)} for i, run in enumerate(found[start:end])]
    page = {"endCursor": str(end), "hasNextPage": end < len(found)}
    runs = {"edges": edges, "pageInfo": page}
    return {"project": {"internalId": PROJECT_ID, "runCount": len(found), "readOnly": False, "runs": runs}}


def history_page(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """Complete rows of a range of steps."""
    rows = server.runs[given["run"]].rows
    kept = [json.dumps(row) for row in rows if given["minStep"] <= row["_step"] < given["maxStep"]]
    return {"project": {"run": {"history": kept[: given["pageSize"]]}}}


def live_history(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """Nothing was exported to Parquet: all rows are live."""
    rows = server.runs[given["runName"]].rows
    return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": rows}}}}


def create_files(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """Where each file of a run is to be put."""
    files = [{"name": name, "uploadUrl": f"{server.url}/upload/{given['run']}/{name}"} for name in given["files"]]
    return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}


def stored_files(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """What was uploaded for a run, and where it can be had."""
    edges = []
    for name, content in server.runs[given["name"]].files.items():
        url = f"{server.url}/upload/{given['name']}/{quote(name)}"
        more = {"md5": "", "mimetype": None, "uploadUrl": None, "directUrl": url, "updatedAt": None}
        node = {"id": name, "name": name, "url": url, "sizeBytes": len(content)} | more
        edges.append({"node": node, "cursor": name})
    page = {"endCursor": None, "hasNextPage": False}
    run = {"fileCount": len(edges), "files": {"edges": edges, "pageInfo": page}}
    return {"project": {"internalId": PROJECT_ID, "run": run}}


def create_artifact(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """An artifact: tables are stored as one."""
    id = f"artifact-{len(server.artifacts)}"
    server.artifacts[id] = given["input"]
    made = {"id": id, "digest": given["input"]["digest"], "state": "PENDING"}
    return {"createArtifact": {"artifact": made | {"artifactSequence": {"latestArtifact": None}}}}


def artifact_files(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """Where each file of an artifact is to be put."""
    nodes = []
    for spec in given["input"]["artifactFiles"]:
        url = f"{server.url}/upload/{spec['artifactID']}/{spec['name']}"
        more = {"uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": spec["artifactID"]}}
        nodes.append({"storagePath": spec["name"], "uploadUrl": url} | more)
    return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}


def manifest(field: str) -> Callable[[Server, dict[str, Any]], dict[str, Any]]:
    """Where an artifact's list of files is to be put."""

    def answer(server: Server, given: dict[str, Any]) -> dict[str, Any]:
        id = given.get("artifactID") or given["artifactManifestID"].removeprefix("manifest-")
        file = {"id": "file", "uploadUrl": f"{server.url}/upload/{id}/manifest.json", "uploadHeaders": []}
        return {field: {"artifactManifest": {"id": f"manifest-{id}", "file": file}}}

    return answer


def upsert_view(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """A workspace or report, made or changed."""
    id = given.get("id") or f"view-{len(server.views)}"
    inserted = id not in server.views
    server.views[id] = given | {"id": id}
    shown = {key: given.get(key) for key in ("name", "displayName", "description", "type", "spec")}
    server.projects.add(given["projectName"])
    view = shown | {"id": id, "project": project(given["projectName"]), "updatedAt": "2026-01-01T00:00:00"}
    return {"upsertView": {"view": view, "inserted": inserted}}


def views(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """The workspaces or reports of a project, null for a project that is not there."""
    name = given.get("project") or given["name"]
    if name not in server.projects:
        return {"project": None}
    edges = []
    for id, view in server.views.items():
        if view["type"] == given.get("viewType", "runs") and given.get("viewName") in (None, view["name"]):
            shown = {key: view.get(key) for key in ("name", "displayName", "description", "spec")}
            times = {"updatedAt": "2026-01-01T00:00:00Z", "createdAt": "2026-01-01T00:00:00Z", "user": None}
            edges.append({"node": shown | times | {"id": id}, "cursor": id})
    return {"project": {"allViews": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}}


def projects(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """All projects."""
    more = {"__typename": "Project", "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
    edges = [{"node": project(name) | more} for name in sorted(server.projects)]
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    return {"models": {"edges": edges, "pageInfo": page}}


def create_project(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """A project of a name."""
    name = given["input"]["name"]
    server.projects.add(name)
    made = project(name) | {"description": "", "access": None, "views": None}
    return {"result": {"project": made, "model": made, "inserted": True}}


def upsert_sweep(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """A grid sweep with all its points waiting; `wandb sweep` makes it."""
    import yaml

    name = f"sweep{len(server.sweeps)}"
    config = yaml.safe_load(given["config"])
    axes = {key: spec["values"] if "values" in spec else [spec["value"]] for key, spec in config["parameters"].items()}
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    server.sweeps[name] = {"config": given["config"], "waiting": points, "given": {}, "agents": 0}
    server.projects.add(given["projectName"])
    sweep = {"name": name, "project": project(given["projectName"])}
    return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}


def sweep(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """A sweep and its runs."""
    found = server.sweeps[given["sweep"]]
    edges = [{"node": bucket(run)} for run in server.runs.values() if run.facts.get("sweep") == given["sweep"]]
    shown = {"id": given["sweep"], "name": given["sweep"], "method": "grid", "config": found["config"]}
    return {"project": {"sweep": shown | {"state": "RUNNING", "runs": {"edges": edges}}}}


def create_agent(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """An agent of a sweep."""
    server.sweeps[given["sweep"]]["agents"] += 1
    return {"createAgent": {"agent": {"id": f"{given['sweep']}/{server.sweeps[given['sweep']]['agents']}"}}}


def heartbeat(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    """The next grid point for an agent that is idle; when none is left, the word to go."""
    name = given["id"].partition("/")[0]
    found = server.sweeps[name]
    commands: list[dict[str, Any]] = []
    if not any(json.loads(given["runState"]).values()):
        if found["waiting"]:
            id, point = f"{name}-run{len(found['given'])}", found["waiting"].pop(0)
            found["given"][id] = point
            args = {key: {"value": value} for key, value in point.items()}
            commands = [{"type": "run", "run_id": id, "args": args, "program": "dpo"}]
        else:
            commands = [{"type": "exit"}]
    return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}


def fixed(value: dict[str, Any]) -> Callable[[Server, dict[str, Any]], dict[str, Any]]:
    """The same answer always."""
    return lambda server, given: value


VIEWER = {"id": "u", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "admin": False, "name": ENTITY}
ANSWERS: dict[str, Callable[[Server, dict[str, Any]], dict[str, Any]]] = {
    "ServerFeaturesQuery": fixed({"serverInfo": {"features": []}}),
    "Viewer": fixed({"viewer": VIEWER | {"teams": {"edges": []}}}),
    "OrganizationCoreWeaveOrganizationID": fixed({"entity": {"organization": {"coreWeaveOrganizationId": None}}}),
    "XXHashDigestsEnabled": fixed({"entity": {"xxhashDigestsEnabled": False}}),
    "FetchArtifactDigestAlgorithm": fixed({"project": {"artifactType": None}}),
    "GetDefaultEntity": fixed({"viewer": {"id": "u", "entity": ENTITY}}),
    "ArtifactType": fixed({"project": {"artifact": None}}),
    "UpsertBucket": upsert_run,
    "RunResumeStatus": resume_status,
    "CreateRunFiles": create_files,
    "RunFiles": stored_files,
    "CreateArtifact": create_artifact,
    "CreateArtifactManifest": manifest("createArtifactManifest"),
    "UpdateArtifactManifest": manifest("updateArtifactManifest"),
    "CreateArtifactFiles": artifact_files,
    "CommitArtifact": lambda server, given: {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}},
    "Run": one_run,
    "RunHistoryKeys": one_run,
    "Runs": many_runs,
    "HistoryPage": history_page,
    "RunParquetHistory": live_history,
    "View": views,
    "ProjectViews": views,
    "GetProjects": projects,
    "CreateProject": create_project,
    "UpsertView2": upsert_view,
    "upsertView": upsert_view,
    "UpsertSweep": upsert_sweep,
    "SweepWithRuns": sweep,
    "CreateAgent": create_agent,
    "Heartbeat": heartbeat,
}
