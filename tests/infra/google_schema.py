"""The google provider's own schema, read out of the bindings that cdktn makes from it.

The provider itself comes from no package registry. Its generated bindings do, and their type
description (a .jsii file) names every argument, its type, whether it is required, and how blocks
nest. Run once at set-up, in the tools' environment:

    python google_schema.py SCHEMA.json
"""

import importlib.metadata
import json
import pathlib
import re
import sys
import tarfile

PACKAGE = "cdktn-provider-google"
# What infra/terraform uses. A resource that is not here is unknown to the tests' provider.
RESOURCES = (
    "artifact_registry_repository",
    "artifact_registry_repository_iam_member",
    "compute_network",
    "compute_resource_policy",
    "compute_router",
    "compute_router_nat",
    "compute_subnetwork",
    "container_cluster",
    "container_node_pool",
    "project_iam_member",
    "project_service",
    "service_account",
    "service_account_iam_member",
    "storage_bucket",
    "storage_bucket_iam_member",
)
# What Terraform itself gives every resource.
META = {"connection", "count", "dependsOn", "forEach", "lifecycle", "provider", "provisioners"}
PRIMITIVES = {"string": "string", "number": "number", "boolean": "bool", "any": "string", "json": "string"}


def read_bindings() -> dict:
    """Returns the installed bindings' types by their full names."""
    distribution = importlib.metadata.distribution(PACKAGE)
    (archive,) = [path for path in distribution.files or [] if path.name.endswith(".jsii.tgz")]
    with tarfile.open(str(distribution.locate_file(archive))) as bundle:
        described = bundle.extractfile("package/.jsii")
        assert described
        return json.load(described)["types"]


def snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: "_" + match.group(1).lower(), name)


def argument_name(described: dict) -> str:
    """An argument's name in HCL: the bindings link each to its line in the provider's documentation."""
    link = re.search(r"#([a-z0-9_]+) ", described.get("docs", {}).get("remarks", ""))
    return link.group(1) if link else snake(described["name"])


def plain(kind: dict) -> dict:
    """A type without the union that lets it also be a value to come."""
    while "union" in kind:
        (kind,) = [one for one in kind["union"]["types"] if not one.get("fqn", "").endswith(".IResolvable")]
    return kind


def attribute_type(kind: dict) -> object:
    """A type as Terraform writes it: "string", or a pair such as ("list", "string")."""
    kind = plain(kind)
    if "collection" in kind:
        inner = attribute_type(kind["collection"]["elementtype"])
        return [{"array": "list", "map": "map"}[kind["collection"]["kind"]], inner]
    return PRIMITIVES[kind.get("primitive", "string")]


def block(types: dict, name: str) -> dict:
    """A block's arguments and inner blocks.

    An argument that may be left out may be filled in by the provider, for all that the bindings say.
    """
    found: dict = {"attributes": {}, "blocks": {}}
    for described in types[name].get("properties", []):
        kind, required = plain(described["type"]), not described.get("optional", False)
        inner = plain(kind["collection"]["elementtype"]) if "collection" in kind else kind
        if types.get(inner.get("fqn"), {}).get("kind") == "interface":
            nested = {"at_most": None if "collection" in kind else 1, "at_least": int(required), **block(types, inner["fqn"])}
            found["blocks"][argument_name(described)] = nested
        else:
            found["attributes"][argument_name(described)] = {"type": attribute_type(kind), "required": required}
    return found


def resource(types: dict, config: str) -> dict:
    """A resource: the block of its arguments, and what only the provider knows."""
    found = block(types, config)
    for name in META:
        found["attributes"].pop(snake(name), None)
    for described in types[config.removesuffix("Config")].get("properties", []):
        name, kind = snake(described["name"]), plain(described["type"])
        known = name in found["attributes"] or name in found["blocks"] or name.endswith("_input")
        if "primitive" in kind and not known and not described.get("static"):
            found["attributes"][name] = {"type": attribute_type(kind), "computed_only": True}
    return found


def schema(types: dict) -> dict:
    """Every resource of RESOURCES, by its name in HCL."""
    found = {}
    for name in RESOURCES:
        camel = re.sub(r"_([a-z])", lambda match: match.group(1).upper(), name)
        config = f"@cdktn/provider-google.{camel}.{camel[0].upper()}{camel[1:]}Config"
        found[f"google_{name}"] = resource(types, config)
    return found


if __name__ == "__main__":
    pathlib.Path(sys.argv[1]).write_text(json.dumps(schema(read_bindings()), indent=1))
