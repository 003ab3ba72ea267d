"""What a template would make, read before it is made: who may do what, what is open to whom, and what must not be.

Everything is read from a template (`deploy.resolve`) and an image (`deploy.function_image`), without a call to AWS.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from adapters.models.catalogue import STAND_IN
from deploy.function_image import LAMBDA_BYTES, Image
from deploy.resolve import Resource, Symbol, Template, Value, as_list, as_map, as_text, as_whole, each_map
from template.lambda_facts import RESERVED_VARIABLES

#: CloudFormation user guide, "Understand CloudFormation quotas".
INLINE_BYTES: Final = 51_200
S3_BYTES: Final = 2**20
MOST: Final = {"Resources": 500, "Parameters": 200, "Outputs": 200}

#: Actions that know no resources: IAM takes them on `*` only.
#: (Service authorization reference, "Actions defined by Amazon EC2")
WITHOUT_RESOURCES: Final = frozenset({"ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"})
#: Actions on network interfaces that Lambda makes with the function's role and names itself, so that nobody can name
#: them beforehand. (Lambda developer guide, "Giving Lambda functions access to resources in an Amazon VPC"; AWS managed
#: policy AWSLambdaVPCAccessExecutionRole)
ON_INTERFACES: Final = frozenset(
    {"ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses",
     "ec2:UnassignPrivateIpAddresses"}
)  # fmt: skip

_WORDS: Final = {
    "sqs:SendMessage": "send messages to",
    "sqs:ReceiveMessage": "receive messages from",
    "sqs:DeleteMessage": "delete messages from",
    "sqs:GetQueueAttributes": "read the attributes of",
    "logs:CreateLogStream": "open log streams in",
    "logs:PutLogEvents": "write log lines to",
    "s3:GetObject": "read the objects",
    "s3:ListBucket": "list the bucket",
    "kms:Decrypt": "decrypt with",
    "kms:GenerateDataKey": "make data keys with",
}


@dataclass(frozen=True)
class Statement:
    """One statement of a role's policies.

    Parameters
    ----------
    role : str
        Logical id.
    functions : tuple of str
        Names of the functions that have the role.
    allows : bool
        False for a denial.
    actions, resources : tuple of str
        Actions as written; resources as written, `${LogicalId.Arn}` for those of the template.
    wide : tuple of str
        What is wider than need be, a phrase each.
    words : str
        For people.

    """

    role: str
    functions: tuple[str, ...]
    allows: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    wide: tuple[str, ...]
    words: str


@dataclass(frozen=True)
class Refusal:
    """Why this must not be deployed, and what mends it; a sentence each."""

    reason: str
    mend: str


def statements(template: Template) -> list[Statement]:
    """Return what each role may do, in the template's order."""
    found = [
        _statement(template, role, statement)
        for role, document in _policies(template)
        for statement in each_map(document.get("Statement"))
    ]
    for role, resource in template.of("AWS::IAM::Role").items():
        for arn in as_list(resource.properties.get("ManagedPolicyArns")):
            who = _functions_of_role(template, role)
            words = f"{_joined(who) or role} has the managed policy {_shown(arn)}, which this template does not show"
            found.append(Statement(role, who, True, (), (), ("a managed policy",), words))
    return found


def openness(template: Template) -> list[str]:
    """Return what is open to whom, a sentence each."""
    return [
        *(line for name, url in template.of("AWS::Lambda::Url").items() for line in _url(template, name, url)),
        *_other_permissions(template),
        *_queues(template),
        *(line for name, bucket in template.of("AWS::S3::Bucket").items() for line in _bucket(template, name, bucket)),
        *_repositories(template),
        *_ports(template),
        *_trust(template),
    ]


def refusals(
    template: Template, image: Image | None = None, *, stand_in: bool = False, inline: bool = True
) -> list[Refusal]:
    """Return why this must not be deployed; empty if it may.

    Parameters
    ----------
    template : Template
    image : Image, optional
        What the functions will run.
    stand_in : bool
        Whether a model that recognises nobody was asked for.
    inline : bool
        Whether the template is sent in the call itself, and not by way of S3.

    """
    return [
        *_limits(template, inline),
        *_loops(template),
        *(line for name, mapping in _mappings(template).items() for line in _mapping(template, name, mapping)),
        *(line for name, function in _functions(template).items() for line in _environment(name, function)),
        *_provisioned(template),
        *_without_network(template),
        *(_image(template, image, stand_in) if image else ()),
    ]


# Resources


def _named(template: Template, value: Value, *kinds: str) -> list[str]:
    """Return the logical ids of these types that a value is made of."""
    found = [value.logical_id] if isinstance(value, Symbol) else re.findall(r"\$\{(\w+)[.}]", as_text(value))
    return [name for name in found if name in template.of(*kinds)]


def _functions(template: Template) -> Mapping[str, Resource]:
    return template.of("AWS::Lambda::Function")


def _name_of(template: Template, logical_id: str, key: str = "FunctionName") -> str:
    return as_text(template.resources[logical_id].properties.get(key, logical_id))


def _function(template: Template, value: Value) -> str | None:
    """Return the logical id of the function that a value means, itself or by a version or an alias."""
    for name in _named(template, value, "AWS::Lambda::Version", "AWS::Lambda::Alias"):
        value = template.resources[name].properties.get("FunctionName")
    for name in _named(template, value, "AWS::Lambda::Function"):
        return name
    parts = as_text(value).split(":")
    return next((name for name in _functions(template) if _name_of(template, name) in parts), None)


def _queue(template: Template, value: Value) -> str | None:
    """Return the logical id of the queue that an ARN means."""
    for name in _named(template, value, "AWS::SQS::Queue"):
        return name
    last = as_text(value).rsplit(":", 1)[-1]
    queues = template.of("AWS::SQS::Queue")
    return next((name for name in queues if _name_of(template, name, "QueueName") == last), None)


def _functions_of_role(template: Template, role: str) -> tuple[str, ...]:
    return tuple(
        _name_of(template, name)
        for name, function in _functions(template).items()
        if role in _named(template, function.properties.get("Role"), "AWS::IAM::Role")
    )


def _mappings(template: Template) -> Mapping[str, Resource]:
    """Return the event source mappings that run."""
    mappings = template.of("AWS::Lambda::EventSourceMapping")
    return {name: one for name, one in mappings.items() if as_text(one.properties.get("Enabled", True)) == "true"}


def _setting(template: Template, logical_id: str, *path: str) -> str:
    """Return where a person sets a property: the parameter it comes from, else the property."""
    written: object = template.resources[logical_id].written
    for key in path:
        written = written.get(key) if isinstance(written, dict) else None
    if isinstance(written, dict) and len(written) == 1:
        ((call, argument),) = written.items()
        # Behind Fn::If stands the setting first, for the other branch is that it is not set.
        inner = argument[1] if call == "Fn::If" else written
        if isinstance(inner, dict) and isinstance(inner.get("Ref"), str):
            return f"the parameter {inner['Ref']}"
    return f"{'.'.join(path)} of {logical_id}"


# Who may do what


def _policies(template: Template) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """Return each role's policy documents with the role's logical id."""
    for role, resource in template.of("AWS::IAM::Role").items():
        for policy in each_map(resource.properties.get("Policies")):
            yield role, as_map(policy.get("PolicyDocument"))
    for resource in template.of("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::IAM::RolePolicy").values():
        roles = [*as_list(resource.properties.get("Roles")), *as_list(resource.properties.get("RoleName"))]
        for role in (name for one in roles for name in _named(template, one, "AWS::IAM::Role")):
            yield role, as_map(resource.properties.get("PolicyDocument"))


def _statement(template: Template, role: str, statement: Mapping[str, Value]) -> Statement:
    allows = statement.get("Effect") == "Allow"
    actions = tuple(as_text(action) for action in as_list(statement.get("Action")))
    resources = tuple(as_text(resource) for resource in as_list(statement.get("Resource")))
    wide = tuple(_width(statement, actions, resources)) if allows else ()
    functions = _functions_of_role(template, role)
    verbs = [_WORDS[action] for action in actions if action in _WORDS]
    if other := [action for action in actions if action not in _WORDS]:
        verbs.append(f"call {_joined(other)} on")
    where = ", ".join(_shown(resource) for resource in resources) or "all but some resources"
    only = "; ".join(
        f"{key} {operator} {', '.join(as_text(one) for one in as_list(value))}"
        for operator, keys in as_map(statement.get("Condition")).items()
        for key, value in as_map(keys).items()
    )
    words = f"{_joined(functions) or role} {'may' if allows else 'must not'} {_joined(verbs) or 'call'} {where}"
    words += f", only where {only}" if only else ""
    words += f" (WIDE: {'; '.join(wide)})" if wide else ""
    return Statement(role, functions, allows, actions, resources, wide, words)


def _width(statement: Mapping[str, Value], actions: Sequence[str], resources: Sequence[str]) -> Iterator[str]:
    """Return what is wider than need be."""
    for key in ("NotAction", "NotResource"):
        if key in statement:
            yield f"{key} allows whatever it does not name"
    if any("*" in action or "?" in action for action in actions):
        yield "an action with a wildcard"
    if any(_is_any(resource) for resource in resources):
        limited = [action for action in actions if action not in WITHOUT_RESOURCES | ON_INTERFACES]
        if limited:
            yield f"any resource for {', '.join(limited)}"


def _is_any(resource: str) -> bool:
    """Whether an ARN names no resource: `*`, or a wildcard where the resource's name begins."""
    service, last = (resource.split(":", 5)[2::3] if resource.startswith("arn:") else ("", resource))[:2]
    # Elsewhere a type may stand before the name, as in `key/*`; in S3 what stands there is the bucket.
    return bool(re.match(r"\*" if service == "s3" else r"([\w-]+[:/])?[*?]", last))


def _shown(resource: Value) -> str:
    """Return a resource in words: its logical id, or an ARN's last part."""
    text = re.sub(r"\$\{(\w+)[^}]*\}", r"\1", as_text(resource))
    return "any resource" if text == "*" else text.split(":", 5)[-1] if text.startswith("arn:") else text


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


# What is open


def _url(template: Template, logical_id: str, url: Resource) -> Iterator[str]:
    target = _function(template, url.properties.get("TargetFunctionArn"))
    name = _name_of(template, target) if target else logical_id
    if url.properties.get("AuthType") != "NONE":
        yield (
            f"The function URL of {name} (AWS_IAM) takes signed requests only, from who holds "
            f"lambda:InvokeFunctionUrl and lambda:InvokeFunction on it."
        )
        return
    needed = {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
    given = {
        as_text(permission.properties.get("Action"))
        for permission in template.of("AWS::Lambda::Permission").values()
        if permission.properties.get("Principal") == "*"
        and _function(template, permission.properties.get("FunctionName")) == target
    }
    # Both since October 2025. (Lambda developer guide, "Control access to Lambda function URLs")
    if missing := sorted(needed - given):
        yield f"The function URL of {name} (NONE) is public but answers 403: everybody lacks {_joined(missing)}."
    else:
        yield (
            f"The function URL of {name} (NONE) is open to ANYBODY who knows it: they can post frames, and you pay "
            f"for each. Everybody holds lambda:InvokeFunctionUrl, and lambda:InvokeFunction through the URL."
        )


def _other_permissions(template: Template) -> Iterator[str]:
    """Tell of permissions that are not a public URL's."""
    for permission in template.of("AWS::Lambda::Permission").values():
        properties = permission.properties
        through_url = properties.get("FunctionUrlAuthType") == "NONE" or (
            as_text(properties.get("InvokedViaFunctionUrl")) == "true"
        )
        if properties.get("Principal") == "*" and through_url:
            continue
        target = _function(template, properties.get("FunctionName"))
        who = "ANYBODY" if properties.get("Principal") == "*" else as_text(properties.get("Principal"))
        name = _name_of(template, target) if target else _shown(properties.get("FunctionName"))
        yield f"{who} may call {properties.get('Action')} on {name}."


def _queues(template: Template) -> Iterator[str]:
    closed = dict(template.of("AWS::SQS::Queue"))
    for policy in template.of("AWS::SQS::QueuePolicy", "AWS::SQS::QueueInlinePolicy").values():
        queues = [*as_list(policy.properties.get("Queues")), *as_list(policy.properties.get("Queue"))]
        names = [name for queue in queues for name in _named(template, queue, "AWS::SQS::Queue")]
        for name in names:
            closed.pop(name, None)
        yield from _principals(as_map(policy.properties.get("PolicyDocument")), ", ".join(names))
    if closed:
        yield f"{_joined(list(closed))}: no queue policy, so only who holds permissions in this account reaches them."


def _bucket(template: Template, logical_id: str, bucket: Resource) -> Iterator[str]:
    block = as_map(bucket.properties.get("PublicAccessBlockConfiguration"))
    wanted = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    open_ = [key for key in wanted if as_text(block.get(key)) != "true"]
    yield f"{logical_id}: " + (f"public access is NOT blocked ({', '.join(open_)})." if open_ else "no public access.")
    for policy in template.of("AWS::S3::BucketPolicy").values():
        if logical_id in _named(template, policy.properties.get("Bucket"), "AWS::S3::Bucket"):
            yield from _principals(as_map(policy.properties.get("PolicyDocument")), logical_id)


def _repositories(template: Template) -> Iterator[str]:
    for name, repository in template.of("AWS::ECR::Repository").items():
        policy = as_map(repository.properties.get("RepositoryPolicyText"))
        yield from _principals(policy, name)
        if not policy:
            yield f"{name}: no repository policy, so only who holds permissions in this account pulls from it."


def _ports(template: Template) -> Iterator[str]:
    """Tell of security groups that take connections from anywhere."""
    for name, group in template.of("AWS::EC2::SecurityGroup").items():
        for rule in each_map(group.properties.get("SecurityGroupIngress")):
            if rule.get("CidrIp") == "0.0.0.0/0" or rule.get("CidrIpv6") == "::/0":
                yield f"{name} takes connections from ANYWHERE on port {rule.get('FromPort', 'any')}."


def _trust(template: Template) -> Iterator[str]:
    """Tell of roles that others than Lambda take on."""
    for role, resource in template.of("AWS::IAM::Role").items():
        for statement in each_map(as_map(resource.properties.get("AssumeRolePolicyDocument")).get("Statement")):
            for who in _who(statement):
                if who != "lambda.amazonaws.com":
                    yield f"{who} may act as {role}."


def _principals(document: Mapping[str, Value], what: str) -> Iterator[str]:
    for statement in each_map(document.get("Statement")):
        actions = ", ".join(as_text(action) for action in as_list(statement.get("Action")))
        may = "may" if statement.get("Effect") == "Allow" else "must not"
        under = " under a condition" if statement.get("Condition") else ""
        yield from (f"{who} {may} call {actions} on {what}{under}." for who in _who(statement))


def _who(statement: Mapping[str, Value]) -> Iterator[str]:
    principal = statement.get("Principal")
    groups = principal.values() if isinstance(principal, dict) else [principal]
    for who in (one for group in groups for one in as_list(group)):
        yield "ANYBODY" if who == "*" else as_text(who)


# What must not be


def _limits(template: Template, inline: bool) -> Iterator[Refusal]:
    """CloudFormation user guide, "Understand CloudFormation quotas"."""
    if template.bytes > (INLINE_BYTES if inline else S3_BYTES):
        most = INLINE_BYTES if inline else S3_BYTES
        yield Refusal(
            f"The template has {template.bytes:,} bytes; CloudFormation takes {most:,}"
            f"{' in a call' if inline else ' from S3'}.",
            "Shorten it, or split it into two stacks.",
        )
    for section, most in MOST.items():
        if template.counts[section] > most:
            yield Refusal(
                f"The template has {template.counts[section]} {section}; CloudFormation takes {most}.",
                "Split it into two stacks.",
            )


def _loops(template: Template) -> Iterator[Refusal]:
    """Refuse a queue that calls a function which, itself or by others, sends to that queue: it would never end."""
    calls: dict[str, list[tuple[str, str]]] = {}
    for name, mapping in _mappings(template).items():
        queue = _queue(template, mapping.properties.get("EventSourceArn"))
        function = _function(template, mapping.properties.get("FunctionName"))
        if queue and function:
            calls.setdefault(queue, []).append((name, function))
    sends = {function: _sends(template, function) for function in _functions(template)}
    told: set[str] = set()
    for mappings, words in sorted(_cycles(template, calls, sends), key=lambda cycle: len(cycle[0])):
        if not told.isdisjoint(mappings):
            continue
        told |= set(mappings)
        yield Refusal(
            f"Frames would go round for ever, and you pay for each round: {words}.",
            f"Take the event source mapping {' or '.join(mappings)} out; clients read the answers, no function does.",
        )


def _cycles(
    template: Template, calls: Mapping[str, Sequence[tuple[str, str]]], sends: Mapping[str, Sequence[str]]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Return, for each queue that comes back to itself, the mappings of the shortest way and the way in words."""
    for start in calls:
        ways: list[tuple[str, tuple[str, ...], str]] = [(start, (), start)]
        seen: set[str] = set()
        while ways:
            queue, mappings, words = ways.pop(0)
            for mapping, function in calls.get(queue, ()):
                for target in sends[function]:
                    way = (*mappings, mapping)
                    said = f"{words} calls {_name_of(template, function)}, which may send to {target}"
                    if target == start:
                        yield way, said
                        ways, seen = [], set(calls)
                        break
                    if target not in seen:
                        seen.add(target)
                        ways.append((target, way, f"{said}, which"))
                else:
                    continue
                break


def _sends(template: Template, function: str) -> list[str]:
    """Return the queues that a function's role lets it send to."""
    roles = _named(template, template.resources[function].properties.get("Role"), "AWS::IAM::Role")
    found: dict[str, None] = {}
    for role, document in _policies(template):
        for statement in each_map(document.get("Statement")) if role in roles else ():
            actions = [as_text(action) for action in as_list(statement.get("Action"))]
            if statement.get("Effect") != "Allow" or not any(fnmatchcase("sqs:SendMessage", one) for one in actions):
                continue
            for resource in as_list(statement.get("Resource")):
                named = _named(template, resource, "AWS::SQS::Queue")
                pattern = as_text(resource).rsplit(":", 1)[-1]
                found |= dict.fromkeys(
                    named
                    or [
                        name
                        for name in template.of("AWS::SQS::Queue")
                        if fnmatchcase(_name_of(template, name, "QueueName"), pattern)
                    ]
                )
    return list(found)


def _mapping(template: Template, logical_id: str, mapping: Resource) -> Iterator[Refusal]:
    """Lambda developer guide, "Creating and configuring an Amazon SQS event source mapping"."""
    size = as_whole(mapping.properties.get("BatchSize"), 10)
    window = as_whole(mapping.properties.get("MaximumBatchingWindowInSeconds"), 0)
    if size > 10 and window < 1:
        yield Refusal(
            f"{logical_id}: a batch of {size} needs a batching window of at least 1 s.",
            f"Set {_setting(template, logical_id, 'MaximumBatchingWindowInSeconds')} to 1 or more, or "
            f"{_setting(template, logical_id, 'BatchSize')} to 10 or less.",
        )
    queue = _queue(template, mapping.properties.get("EventSourceArn"))
    function = _function(template, mapping.properties.get("FunctionName"))
    if not function:
        return
    properties = template.resources[function].properties
    if queue:
        hidden = as_whole(template.resources[queue].properties.get("VisibilityTimeout"), 30)
        wanted = 6 * as_whole(properties.get("Timeout"), 3) + window
        if hidden < wanted:
            yield Refusal(
                f"{queue} hides a frame for {hidden} s, less than six times the timeout of "
                f"{_name_of(template, function)} plus the batching window: frames would be worked on twice.",
                f"Set {_setting(template, queue, 'VisibilityTimeout')} to {wanted} or more.",
            )
    most = as_whole(as_map(mapping.properties.get("ScalingConfig")).get("MaximumConcurrency"), 0)
    reserved = as_whole(properties.get("ReservedConcurrentExecutions"), most)
    if most > reserved:
        mend = f"Set {_setting(template, function, 'ReservedConcurrentExecutions')} to {most} or more"
        if reserved >= 2:  # the least that MaximumConcurrency takes
            mend += (
                f", or {_setting(template, logical_id, 'ScalingConfig', 'MaximumConcurrency')} to {reserved} or less"
            )
        yield Refusal(
            f"{logical_id} may call {_name_of(template, function)} {most} times at once, and {reserved} are reserved: "
            f"the rest would be throttled, and frames end on the dead-letter queue.",
            f"{mend}.",
        )


def _environment(logical_id: str, function: Resource) -> Iterator[Refusal]:
    variables = as_map(as_map(function.properties.get("Environment")).get("Variables"))
    for name in sorted(RESERVED_VARIABLES & variables.keys()):
        yield Refusal(f"{logical_id}: the variable {name} is set by Lambda, which refuses it.", "Take it out.")


def _provisioned(template: Template) -> Iterator[Refusal]:
    """Lambda developer guide, "Configuring provisioned concurrency for a function": never more than is reserved."""
    for alias in template.of("AWS::Lambda::Alias").values():
        kept = as_map(alias.properties.get("ProvisionedConcurrencyConfig")).get("ProvisionedConcurrentExecutions")
        function = _function(template, alias.properties.get("FunctionName"))
        if kept is None or not function:
            continue
        warm = as_whole(kept, 0)
        reserved = as_whole(template.resources[function].properties.get("ReservedConcurrentExecutions"), warm)
        if warm > reserved:
            yield Refusal(
                f"{_name_of(template, function)}: {warm} are kept warm and {reserved} reserved; Lambda refuses more "
                f"than is reserved.",
                f"Set {_setting(template, function, 'ReservedConcurrentExecutions')} to {warm} or more.",
            )


def _without_network(template: Template) -> Iterator[Refusal]:
    """Refuse a VPC of which the subnets or route tables are not named."""
    missing: dict[str, None] = {}
    for resource in template.resources.values():
        for properties in (resource.properties, as_map(resource.properties.get("VpcConfig"))):
            missing |= {key: None for key in ("SubnetIds", "RouteTableIds") if properties.get(key) == []}
    if missing:
        yield Refusal("Functions in a VPC need its subnets and route tables.", f"Set {_joined(list(missing))}.")


def _image(template: Template, image: Image, stand_in: bool) -> Iterator[Refusal]:
    build = f"Build it with: faceq image build --tag {image.tags[0] if image.tags else 'TAG'}"
    if image.bytes > LAMBDA_BYTES:
        yield Refusal(
            f"The image has {image.bytes / 2**30:.1f} GiB without compression; Lambda takes 10.",
            "Build it with another model or engine: ENGINE=onnx is the smallest.",
        )
    # Only there does inspecting it say so. (`deploy.function_image`)
    if any("index of manifests" in warning for warning in image.warnings):
        yield Refusal("The image is an index of manifests; Lambda takes a plain manifest only.", build)
    for architecture in sorted({_architecture(function) for function in _functions(template).values()}):
        platform = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}.get(architecture, architecture)
        if image.platform != platform:
            yield Refusal(
                f"The image is for {image.platform} and the functions are {architecture}.",
                f"{build} --platform {platform}, or set the parameter Architecture.",
            )
    model = image.labels.get("faceq.model", "")
    if not model:
        yield Refusal("Model not found: the image does not say which one it holds (label faceq.model).", build)
    elif model == STAND_IN and not stand_in:
        yield Refusal(
            "The image holds the stand-in model, which is for tests and recognises nobody.",
            f"{build} --model auto",
        )


def _architecture(function: Resource) -> str:
    """Return what a function runs on; x86_64 is what CloudFormation takes if nothing is said."""
    return next((as_text(one) for one in as_list(function.properties.get("Architectures"))), "x86_64")
