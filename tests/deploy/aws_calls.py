"""Reading an HTTP request to AWS as an API call, and checking the call against botocore's model of the service."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote

import botocore.session
from botocore.model import OperationModel, ServiceModel, Shape
from botocore.validate import ParamValidator

#: botocore's name of a service, by the name in the signature, where the two differ.
_SIGNED_FOR = {"monitoring": "cloudwatch"}


@dataclass(frozen=True)
class Call:
    """One call of AWS's API.

    Parameters
    ----------
    service, operation : str
        As boto3 names them: `cloudformation`, `CreateChangeSet`.
    parameters : dict
        In the form that boto3 takes them, read from the request. The bodies of S3 objects are left out.
    faults : tuple of str
        How the call violates the model: an unknown operation or parameter, a missing parameter, a value outside its
        range or choices. Empty for a call that AWS documents.

    """

    service: str
    operation: str
    parameters: Mapping[str, Any]
    faults: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@cache
def _session() -> botocore.session.Session:
    return botocore.session.get_session()


@cache
def model(service: str) -> ServiceModel:
    return _session().get_service_model(service)


def service_of(authorization: str) -> tuple[str, str] | None:
    """Return service and access key of a signed request: `Credential=KEY/DATE/REGION/SERVICE/aws4_request`."""
    match = re.search(r"Credential=([^/]+)/\d+/[^/]+/([^/]+)/aws4_request", authorization)
    return (_SIGNED_FOR.get(match[2], match[2]), match[1]) if match else None


def read(service: str, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Call:
    """Return the call that a request makes. The names of `headers` are in lower case."""
    known = model(service)
    if "x-amz-target" in headers:
        name = headers["x-amz-target"].rsplit(".", 1)[1]
        parameters = json.loads(body or b"{}")
    elif known.protocol == "query" or "query" in known.metadata.get("protocols", ()):
        fields = dict(parse_qsl(body.decode() or query, keep_blank_values=True))
        name = fields.pop("Action", "")
        fields.pop("Version", None)
        parameters = fields
        if name in known.operation_names:
            operation = known.operation_model(name)
            parameters = _nested(fields, operation.input_shape, "") if operation.input_shape else fields
    else:
        matching = _by_path(known, method, path, query, headers)
        if matching is None:
            return Call(service, f"{method} {path}", {}, ("botocore's model has no such operation",))
        operation, in_path = matching
        name = operation.name
        parameters = {**in_path, **_rest(operation, query, headers, body)}
    return Call(service, name, parameters, tuple(_faults(known, name, parameters)))


def _faults(known: ServiceModel, name: str, parameters: Mapping[str, Any]) -> Iterator[str]:
    if name not in known.operation_names:
        yield f"botocore's model has no operation {name}"
        return
    operation = known.operation_model(name)
    if operation.deprecated:
        yield f"{name} is deprecated"
    shape = operation.input_shape
    if shape is None:
        yield from (f"Unknown parameter {field}" for field in parameters)
        return
    faults = ParamValidator().validate(parameters, shape).generate_report().splitlines()
    payload = shape.serialization.get("payload")  # the body of an S3 object, or XML, which is not read
    yield from (fault for fault in faults if fault != f'Missing required parameter in input: "{payload}"')
    yield from _wrong_choices(parameters, shape, "")


def _wrong_choices(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if shape.type_name == "structure" and isinstance(value, dict):
        for name, item in value.items():
            if name in shape.members:
                yield from _wrong_choices(item, shape.members[name], f"{path}.{name}")
    elif shape.type_name == "list" and isinstance(value, list):
        for item in value:
            yield from _wrong_choices(item, shape.member, f"{path}[]")
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{path} is {value!r}, which is none of {', '.join(shape.enum)}"


def _nested(fields: Mapping[str, str], shape: Shape, prefix: str) -> Any:
    """Decode the query protocol, such as `Parameters.member.1.ParameterKey=x`. Unknown names stay, for the check."""
    result: dict[str, Any] = {}
    rest = dict(fields)
    for name, member in shape.members.items():
        key = member.serialization.get("name", name)
        own = {
            field: value
            for field, value in rest.items()
            if field == prefix + key or field.startswith(f"{prefix}{key}.")
        }
        if own:
            result[name] = _value(own, member, prefix + key)
            for field in own:
                del rest[field]
    return {**result, **rest}


def _value(fields: Mapping[str, str], shape: Shape, key: str) -> Any:
    if shape.type_name == "structure":
        return _nested(fields, shape, f"{key}.")
    if shape.type_name == "list":
        start = (
            key if shape.serialization.get("flattened") else f"{key}.{shape.member.serialization.get('name', 'member')}"
        )
        numbers = sorted(
            {int(field[len(start) + 1 :].split(".")[0]) for field in fields if field.startswith(f"{start}.")}
        )
        return [
            _value(
                {
                    field: v
                    for field, v in fields.items()
                    if field == f"{start}.{n}" or field.startswith(f"{start}.{n}.")
                },
                shape.member,
                f"{start}.{n}",
            )
            for n in numbers
        ]
    if shape.type_name == "map":
        return dict(fields)
    return _scalar(fields[key], shape)


def _scalar(text: str, shape: Shape) -> Any:
    if shape.type_name in ("integer", "long"):
        return int(text)
    if shape.type_name in ("float", "double"):
        return float(text)
    if shape.type_name == "boolean":
        return text == "true"
    return text


def _by_path(
    known: ServiceModel, method: str, path: str, query: str, headers: Mapping[str, str]
) -> tuple[OperationModel, dict[str, Any]] | None:
    """Return the operation that matches best, by its path and required parameters, and the parameters in the path."""
    query_parameters = dict(parse_qsl(query, keep_blank_values=True))
    best: tuple[int, OperationModel, dict[str, Any]] | None = None
    for name in known.operation_names:
        operation = known.operation_model(name)
        template, _, fixed = operation.http["requestUri"].partition("?")
        wanted = dict(parse_qsl(fixed, keep_blank_values=True))
        pattern = re.sub(r"\\\{(\w+)\\\+\\\}", r"(?P<\1>.+)", re.escape(template))
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", pattern)
        match = re.fullmatch(pattern.rstrip("/") + "/?", path)
        if operation.http["method"] != method or not wanted.items() <= query_parameters.items() or not match:
            continue
        # Operations of the same path differ in what they require: PutObject and CopyObject, GetObject and ListParts.
        needed = [*_required(operation, "querystring"), *_required(operation, "header")]
        if any(field not in query_parameters and field.lower() not in headers for field in needed):
            continue
        score = len(wanted) * 100 + len(needed) * 50 + len(re.sub(r"\{[^}]*\}", "", template))
        if best is None or score > best[0]:
            names = {_request_name(member, field): field for field, member in _members(operation, "uri").items()}
            best = score, operation, {names[key]: unquote(value) for key, value in match.groupdict().items()}
    return (best[1], best[2]) if best else None


def _members(operation: OperationModel, location: str) -> dict[str, Shape]:
    members = operation.input_shape.members if operation.input_shape else {}
    return {name: member for name, member in members.items() if member.serialization.get("location") == location}


def _request_name(member: Shape, name: str) -> str:
    """Return a parameter's name in the request."""
    return str(member.serialization.get("name", name))


def _required(operation: OperationModel, location: str) -> list[str]:
    required = operation.input_shape.required_members if operation.input_shape else []
    return [_request_name(member, name) for name, member in _members(operation, location).items() if name in required]


def _rest(operation: OperationModel, query: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    shape = operation.input_shape
    if shape is None:
        return {}
    parameters: dict[str, Any] = {}
    query_parameters = dict(parse_qsl(query, keep_blank_values=True))
    for name, member in shape.members.items():
        key, where = member.serialization.get("name", name), member.serialization.get("location")
        if where == "querystring" and key in query_parameters:
            value = query_parameters[key]
            parameters[name] = [value] if member.type_name == "list" else _scalar(value, member)
        elif where == "header" and key.lower() in headers:
            parameters[name] = _scalar(headers[key.lower()], member)
    if operation.service_model.protocol == "rest-json" and body and "payload" not in shape.serialization:
        parameters.update(json.loads(body))
    return parameters
