"""What a template allows, in words: what each role may do, and who can reach what."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from template.resources import QUEUE, ROLE, Resource, Template
from template.values import Value, as_list, as_map, as_text, each_map

#: Actions that know no resources: IAM takes them on `*` only.
#: (Service authorization reference, "Actions defined by Amazon EC2")
WITHOUT_RESOURCES: Final = frozenset({"ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"})
#: Actions on network interfaces. Lambda creates these with the function's role and chooses their names, so no policy
#: can name them beforehand. (Lambda developer guide, "Giving Lambda functions access to resources in an Amazon VPC";
#: AWS managed policy AWSLambdaVPCAccessExecutionRole)
ON_INTERFACES: Final = frozenset(
    {"ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses",
     "ec2:UnassignPrivateIpAddresses"}
)  # fmt: skip

#: Policies that are resources of their own. Our templates have none; one that is added is shown, without its contents.
_IAM_POLICIES: Final = ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::IAM::RolePolicy")
_RESOURCE_POLICIES: Final = (
    "AWS::SQS::QueuePolicy", "AWS::SQS::QueueInlinePolicy", "AWS::S3::BucketPolicy", "AWS::ECR::RegistryPolicy",
)  # fmt: skip

_WORDS: Final = {
    "sqs:SendMessage": "send messages to",
    "sqs:ReceiveMessage": "receive messages from",
    "sqs:DeleteMessage": "delete messages from",
    "sqs:ChangeMessageVisibility": "give messages back to",
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
        As written; `${LogicalId.Arn}` for the template's own resources.
    wide : tuple of str
        A phrase for each way in which the statement allows more than it needs to.
    words : str
        The statement as a sentence.

    """

    role: str
    functions: tuple[str, ...]
    allows: bool
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    wide: tuple[str, ...]
    words: str


def statements(template: Template) -> list[Statement]:
    """Return what each role may do, in the template's order. Raises TemplateError."""
    return [
        *(
            _statement(template, role, statement)
            for role, document in _policies(template)
            for statement in each_map(document.get("Statement"))
        ),
        *_unread_policies(template),
    ]


def openness(template: Template) -> list[str]:
    """Return a sentence for each thing that can be reached from outside the template. Raises TemplateError."""
    return [
        *(line for name, url in template.of("AWS::Lambda::Url").items() for line in _url(template, name, url)),
        *_other_permissions(template),
        *_queues(template),
        *(_bucket(name, bucket) for name, bucket in template.of("AWS::S3::Bucket").items()),
        *_repositories(template),
        *_ports(template),
        *_trust(template),
        *(
            f"{name} ({policy.kind}) may let others in: faceq does not read such policies."
            for name, policy in template.of(*_RESOURCE_POLICIES).items()
        ),
    ]


def queues_sent_to(template: Template, function: str) -> list[str]:
    """Return the logical ids of the queues that a function's role lets it send to; `function` is a logical id."""
    roles = template.roles_of(function)
    found: dict[str, None] = {}
    for role, document in _policies(template):
        for statement in each_map(document.get("Statement")) if role in roles else ():
            actions = [as_text(action) for action in as_list(statement.get("Action"))]
            if statement.get("Effect") == "Allow" and any(fnmatchcase("sqs:SendMessage", action) for action in actions):
                for resource in as_list(statement.get("Resource")):
                    found |= dict.fromkeys(_queues_named(template, resource))
    return list(found)


def enumerated(words: Sequence[str]) -> str:
    """Return words as in a sentence: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _queues_named(template: Template, resource: Value) -> list[str]:
    """Return the logical ids of the queues that a policy's resource names, or that its wildcards match."""
    pattern = as_text(resource).rsplit(":", 1)[-1]
    return template.referenced(resource, QUEUE) or [
        name for name in template.of(QUEUE) if fnmatchcase(template.name_of(name), pattern)
    ]


# What roles may do


def _policies(template: Template) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """Yield each role's logical id with each of its policy documents."""
    for role, resource in template.of(ROLE).items():
        for policy in each_map(resource.property("Policies")):
            yield role, as_map(policy.get("PolicyDocument"))


def _unread_policies(template: Template) -> Iterator[Statement]:
    """Yield a statement for each policy whose contents are not among a role's own."""
    for role, resource in template.of(ROLE).items():
        for arn in as_list(resource.property("ManagedPolicyArns")):
            functions = template.functions_with_role(role)
            words = f"{enumerated(functions) or role} has the managed policy {_shown(arn)}, which is not shown here"
            yield Statement(role, functions, True, (), (), ("a managed policy",), words)
    for name, policy in template.of(*_IAM_POLICIES).items():
        given_to = [*as_list(policy.property("Roles")), *as_list(policy.property("RoleName"))]
        for role in (role for value in given_to for role in template.referenced(value, ROLE)):
            functions = template.functions_with_role(role)
            words = (
                f"{enumerated(functions) or role} also has the policy {name}, which is not shown here: write its "
                f"statements into the role"
            )
            yield Statement(role, functions, True, (), (), ("a policy outside the role",), words)


def _statement(template: Template, role: str, statement: Mapping[str, Value]) -> Statement:
    allows = statement.get("Effect") == "Allow"
    actions = tuple(as_text(action) for action in as_list(statement.get("Action")))
    resources = tuple(as_text(resource) for resource in as_list(statement.get("Resource")))
    wide = tuple(_width(statement, actions, resources)) if allows else ()
    functions = template.functions_with_role(role)
    verbs = [_WORDS[action] for action in actions if action in _WORDS]
    if other := [action for action in actions if action not in _WORDS]:
        verbs.append(f"call {enumerated(other)} on")
    where = ", ".join(_shown(resource) for resource in resources) or "all but some resources"
    only = "; ".join(
        f"{key} {operator} {', '.join(as_text(operand) for operand in as_list(value))}"
        for operator, keys in as_map(statement.get("Condition")).items()
        for key, value in as_map(keys).items()
    )
    words = f"{enumerated(functions) or role} {'may' if allows else 'must not'} {enumerated(verbs) or 'call'} {where}"
    words += f", only where {only}" if only else ""
    words += f" (WIDE: {'; '.join(wide)})" if wide else ""
    return Statement(role, functions, allows, actions, resources, wide, words)


def _width(statement: Mapping[str, Value], actions: Sequence[str], resources: Sequence[str]) -> Iterator[str]:
    """Yield each way in which a statement allows more than it needs to."""
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
    # In an ARN of S3 the bucket comes here. Elsewhere a type may come before the name, as in `key/*`.
    return bool(re.match(r"\*" if service == "s3" else r"([\w-]+[:/])?[*?]", last))


def _shown(resource: Value) -> str:
    """Return a resource in words: its logical id, or an ARN's last part."""
    text = re.sub(r"\$\{(\w+)[^}]*\}", r"\1", as_text(resource))
    return "any resource" if text == "*" else text.split(":", 5)[-1] if text.startswith("arn:") else text


# What can be reached


def _url(template: Template, logical_id: str, url: Resource) -> Iterator[str]:
    target = template.function_of(url.property("TargetFunctionArn"))
    name = template.name_of(target) if target else logical_id
    if url.property("AuthType") != "NONE":
        yield (
            f"The function URL of {name} (AWS_IAM) takes signed requests only, from callers with the permissions "
            f"lambda:InvokeFunctionUrl and lambda:InvokeFunction on it."
        )
        return
    needed = {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}
    public = {
        as_text(permission.property("Action"))
        for permission in template.of("AWS::Lambda::Permission").values()
        if permission.property("Principal") == "*"
        and template.function_of(permission.property("FunctionName")) == target
    }
    # Both since October 2025. (Lambda developer guide, "Control access to Lambda function URLs")
    if missing := sorted(needed - public):
        yield f"The function URL of {name} (NONE) is public but answers 403: everybody lacks {enumerated(missing)}."
    else:
        yield (
            f"The function URL of {name} (NONE) is open to ANYBODY who knows it: they can post frames, and you pay "
            f"for each. Everybody has lambda:InvokeFunctionUrl, and lambda:InvokeFunction through the URL."
        )


def _other_permissions(template: Template) -> Iterator[str]:
    """Describe the permissions that are not a public URL's."""
    for permission in template.of("AWS::Lambda::Permission").values():
        is_public = permission.property("Principal") == "*"
        through_url = permission.property("FunctionUrlAuthType") == "NONE" or (
            as_text(permission.property("InvokedViaFunctionUrl")) == "true"
        )
        if is_public and through_url:
            continue
        target = template.function_of(permission.property("FunctionName"))
        who = "ANYBODY" if is_public else as_text(permission.property("Principal"))
        name = template.name_of(target) if target else _shown(permission.property("FunctionName"))
        yield f"{who} may call {as_text(permission.property('Action'))} on {name}."


def _queues(template: Template) -> Iterator[str]:
    with_policy = {
        name
        for policy in template.of(*_RESOURCE_POLICIES).values()
        for queue in [*as_list(policy.property("Queues")), *as_list(policy.property("Queue"))]
        for name in template.referenced(queue, QUEUE)
    }
    closed = [name for name in template.of(QUEUE) if name not in with_policy]
    if closed:
        yield f"{enumerated(closed)}: no queue policy, so only callers with permissions in this account reach them."


def _bucket(logical_id: str, bucket: Resource) -> str:
    block = as_map(bucket.property("PublicAccessBlockConfiguration"))
    wanted = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    unblocked = [key for key in wanted if as_text(block.get(key)) != "true"]
    return f"{logical_id}: " + (
        f"public access is NOT blocked ({', '.join(unblocked)})." if unblocked else "no public access."
    )


def _repositories(template: Template) -> Iterator[str]:
    for name, repository in template.of("AWS::ECR::Repository").items():
        policy = as_map(repository.property("RepositoryPolicyText"))
        for statement in each_map(policy.get("Statement")):
            actions = ", ".join(as_text(action) for action in as_list(statement.get("Action")))
            may = "may" if statement.get("Effect") == "Allow" else "must not"
            under = " under a condition" if statement.get("Condition") else ""
            yield from (f"{who} {may} call {actions} on {name}{under}." for who in _principals(statement))
        if not policy:
            yield f"{name}: no repository policy, so only callers with permissions in this account pull from it."


def _ports(template: Template) -> Iterator[str]:
    """Describe the security groups that take connections from anywhere."""
    for name, group in template.of("AWS::EC2::SecurityGroup").items():
        for rule in each_map(group.property("SecurityGroupIngress")):
            if rule.get("CidrIp") == "0.0.0.0/0" or rule.get("CidrIpv6") == "::/0":
                yield f"{name} takes connections from ANYWHERE on port {as_text(rule.get('FromPort', 'any'))}."


def _trust(template: Template) -> Iterator[str]:
    """Describe the roles that anything but Lambda may assume."""
    for role, resource in template.of(ROLE).items():
        for statement in each_map(as_map(resource.property("AssumeRolePolicyDocument")).get("Statement")):
            yield from (f"{who} may act as {role}." for who in _principals(statement) if who != "lambda.amazonaws.com")


def _principals(statement: Mapping[str, Value]) -> Iterator[str]:
    principal = statement.get("Principal")
    for value in principal.values() if isinstance(principal, dict) else [principal]:
        yield from ("ANYBODY" if who == "*" else as_text(who) for who in as_list(value))
