"""A Terraform provider that has google's schema and no cloud behind it.

Terraform starts it (tests/infra/conftest.py says how), checks configurations against the schema that
google_schema.py wrote, and mocks its resources in `terraform test`.
"""

import json
import os
import pathlib

from tf import runner, types
from tf import schema as tf_schema
from tf.gen import tfplugin_pb2

NAMED = {"string": types.String, "number": types.Number, "bool": types.Bool}


class Nested(tf_schema.NestedBlock):
    """A block that may come several times, in order: the framework itself knows only sets and single ones."""

    _mode_map = {tf_schema.NestMode.Set: tfplugin_pb2.Schema.NestedBlock.NestingMode.LIST}

    def encode(self, value):
        return value

    def decode(self, value):
        return value

    def semantically_equal(self, a_decoded, b_decoded):
        return a_decoded == b_decoded


def attribute_type(described):
    match described:
        case ["list", inner]:
            return types.List(attribute_type(inner))
        case ["map", inner]:
            return types.Map(attribute_type(inner))
    return NAMED[described]()


def attribute(name, described):
    if described.get("computed_only"):
        return tf_schema.Attribute(name, attribute_type(described["type"]), computed=True)
    required = described["required"]
    return tf_schema.Attribute(
        name, attribute_type(described["type"]), required=required, optional=not required, computed=not required
    )


def block(described):
    attributes = [attribute(name, one) for name, one in described["attributes"].items()]
    blocks = [
        Nested(name, tf_schema.NestMode.Set, tf_schema.Block(*block(one)), one["at_least"], one["at_most"])
        for name, one in described["blocks"].items()
    ]
    return attributes, blocks


def resource(name, described):
    """Makes a resource type. Nothing is ever created: `terraform test` mocks it."""

    class Resource:
        def __init__(self, provider):
            self.provider = provider

        @classmethod
        def get_name(cls):
            return name.removeprefix("google_")

        @classmethod
        def get_schema(cls):
            attributes, blocks = block(described)
            return tf_schema.Schema(attributes=attributes, block_types=blocks)

        def validate(self, diagnostics, type_name, config):
            pass

    return Resource


class Google:
    """What the framework asks of a provider."""

    def __init__(self, resources):
        self.resources = resources

    def get_model_prefix(self):
        return "google_"

    def full_name(self):
        return "registry.terraform.io/hashicorp/google"

    def get_provider_schema(self, diagnostics):
        names = ("project", "region", "zone")
        return tf_schema.Schema(attributes=[tf_schema.Attribute(name, types.String(), optional=True) for name in names])

    def validate_config(self, diagnostics, config):
        pass

    def configure_provider(self, diagnostics, config):
        pass

    def get_data_sources(self):
        return []

    def get_resources(self):
        return self.resources

    def get_functions(self):
        return []

    def new_resource(self, kind):
        return kind(self)


if __name__ == "__main__":
    described = json.loads(pathlib.Path(os.environ["GOOGLE_SCHEMA"]).read_text())
    runner.run_provider(Google([resource(name, one) for name, one in described.items()]))
