"""Values are resolved as CloudFormation resolves them; what only AWS knows stays a Symbol."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from template.parameters import declared_parameters
from template.resources import Resource, Template
from template.values import Symbol, Value, has_symbol
from template.yaml_nodes import TemplateError

HEADER = """
Parameters:
  Prefix: {Type: String, Default: faceq}
  Zones: {Type: CommaDelimitedList, Default: "a, b"}
  Most: {Type: Number, Default: 3}
  Needed: {Type: String}
Mappings:
  Sizes: {small: {MB: 128}}
Conditions:
  "Yes": !Equals [1, "1"]
  "No": !Not [!Condition "Yes"]
Resources:
  Queue: {Type: AWS::SQS::Queue, Properties: {QueueName: q}}
  X:
    Type: T
    Properties:
      Key: """


def resource(expression: str, created_value: Any = None, **parameters: str) -> Resource:
    return Template(HEADER + expression, parameters, created_value).resources["X"]


def value(expression: str, **parameters: str) -> Value:
    return resource(expression, **parameters).properties.get("Key", "not set")


@pytest.mark.parametrize(
    ("short", "long", "expected"),
    [
        ("!Ref Prefix", "{Ref: Prefix}", "faceq"),
        ("!Ref Zones", "{Ref: Zones}", ["a", "b"]),
        ("!Ref Most", "{Ref: Most}", 3),
        ("!Ref AWS::Partition", "{Ref: AWS::Partition}", "aws"),
        ("!Ref AWS::NoValue", "{Ref: AWS::NoValue}", "not set"),
        ("[1, !Ref AWS::NoValue]", "[1, {Ref: AWS::NoValue}, {a: {Ref: AWS::NoValue}}]", None),
        ("!GetAtt Queue.Arn", "{Fn::GetAtt: [Queue, Arn]}", Symbol("Queue", "Arn")),
        ("!Sub '${Prefix}-x'", "{Fn::Sub: '${Prefix}-x'}", "faceq-x"),
        ("!Sub ['${A}-${Prefix}', {A: b}]", "{Fn::Sub: ['${A}-${Prefix}', {A: b}]}", "b-faceq"),
        ("!If ['Yes', 1, 2]", "{Fn::If: ['Yes', 1, 2]}", 1),
        ("!If ['No', 1, !Ref Prefix]", "{Fn::If: ['No', 1, {Ref: Prefix}]}", "faceq"),
        ("!If ['No', 1, !Ref AWS::NoValue]", "{Fn::If: ['No', 1, {Ref: AWS::NoValue}]}", "not set"),
        ("!Join ['-', [a, !Ref Prefix, true]]", "{Fn::Join: ['-', [a, {Ref: Prefix}, true]]}", "a-faceq-true"),
        ("!Select [1, !Ref Zones]", "{Fn::Select: ['1', {Ref: Zones}]}", "b"),
        ("!Split [',', 'x,y']", "{Fn::Split: [',', 'x,y']}", ["x", "y"]),
        ("!FindInMap [Sizes, small, MB]", "{Fn::FindInMap: [Sizes, small, MB]}", 128),
    ],
)
def test_each_function_gives_the_same_in_its_short_and_its_long_form(short: str, long: str, expected: Value) -> None:
    if expected is None:
        assert (value(short), value(long)) == ([1], [1, {}])
    else:
        assert (value(short), value(long)) == (expected, expected)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("!Ref Queue", Symbol("Queue")),
        ("!Ref Needed", Symbol("Needed")),
        ("!Ref AWS::Region", Symbol("AWS::Region")),
        ("!ImportValue other", Symbol("Fn::ImportValue")),
        ("!Select [0, !GetAZs '']", Symbol("Fn::GetAZs")),
        ("!Sub '${Prefix}-${Queue.Arn}-${!Literal}-${AWS::Region}'", "faceq-${Queue.Arn}-${Literal}-<Region>"),
        ("!Sub ['${Other}-${Prefix}', {Other: !Ref Queue}]", "${Queue}-faceq"),
        ("!Join [':', [a, !GetAtt Queue.Arn]]", "a:${Queue.Arn}"),
        ("!Split ['-', !Sub 'a-${Queue}']", ["a", "${Queue}"]),
    ],
)
def test_a_value_that_is_only_known_on_creation_differs_from_a_plain_text(expression: str, expected: Value) -> None:
    assert value(expression) == expected
    assert has_symbol(value(expression))


@pytest.mark.parametrize("expression", ["'${Queue}'", "!Sub '${!Queue}'", "!Sub '${Prefix}'"])
def test_a_text_that_only_looks_like_a_symbol_is_none(expression: str) -> None:
    assert not has_symbol(value(expression))


def test_given_parameters_replace_the_defaults() -> None:
    assert value("!Ref Zones", Zones="") == []
    text = value("!Sub '${Prefix}:${Needed}:${AWS::Region}'", Needed="n", **{"AWS::Region": "eu-west-1"})
    assert text == "faceq:n:eu-west-1"
    assert not has_symbol(text)


def test_a_machine_that_plays_resources_gives_references_its_own_values() -> None:
    def created(symbol: Symbol, kind: str, name: str) -> Value:
        return f"{kind}/{name}/{symbol.attribute}" if symbol.attribute != "Unknown" else symbol

    assert resource("!Ref Queue", created).property("Key") == "AWS::SQS::Queue/q/"
    assert resource("!Sub 'to ${Queue.Arn}'", created).property("Key") == "to AWS::SQS::Queue/q/Arn"
    assert resource("!GetAtt Queue.Unknown", created).property("Key") == Symbol("Queue", "Unknown")


@pytest.mark.parametrize(
    ("condition", "is_created"),
    [
        ("!Equals [!Ref Most, 3]", True),
        ("{Fn::Equals: [{Ref: Most}, '3']}", True),
        ("!Not [!Equals [!Ref Prefix, '']]", True),
        ("{Fn::Not: [{Fn::Equals: [{Ref: Prefix}, '']}]}", True),
        ("!And [!Equals [a, a], !Equals [a, b]]", False),
        ("{Fn::And: [{Fn::Equals: [a, a]}, {Condition: Other}]}", False),
        ("!Or [!Equals [a, a], !Equals [a, b]]", True),
        ("{Fn::Or: [{Fn::Equals: [a, b]}, {Condition: Other}]}", False),
        ("!Condition Other", False),
        ("{Condition: Other}", False),
        ("!Equals [true, 'true']", True),
    ],
)
def test_only_resources_whose_condition_holds_are_created(condition: str, is_created: bool) -> None:
    text = HEADER.replace('  "Yes":', f"  Wanted: {condition}\n  Other: !Equals [true, 'false']\n  \"Yes\":")
    assert ("W" in Template(f"{text}1\n  W: {{Type: T, Condition: Wanted}}\n", {}).resources) is is_created


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("!Ref Nothing", "Nothing is no parameter and no resource of this template"),
        ("!GetAtt Nothing.Arn", "no attribute Nothing.Arn"),
        ("!GetAtt Queue", "no attribute Queue."),
        ("!Sub '${Nothing}'", "Nothing is no parameter"),
        ("!Sub [a]", "Fn::Sub takes a list of 2 values"),
        ("!If ['Yes', 1]", "Fn::If takes a list of 3 values"),
        ("!If [Perhaps, 1, 2]", "There is no condition Perhaps"),
        ("!Join [a]", "Fn::Join takes a list of 2 values"),
        ("!Select [2, !Ref Zones]", "Fn::Select finds no value 2"),
        ("!Split ['', a]", "Fn::Split needs a separator"),
        ("!FindInMap [Sizes, huge, MB]", "Fn::FindInMap finds no huge"),
        ("!Nonsense 1", "Fn::Nonsense is not understood"),
        ("{a: 1, a: 2}", "a appears twice"),
        ("!!int many", "'many' is no int"),
    ],
)
def test_an_error_has_the_line_of_its_expression(expression: str, problem: str) -> None:
    with pytest.raises(TemplateError) as error:
        value(expression)
    assert problem in error.value.problem
    assert error.value.line == len((HEADER + expression).splitlines())
    assert error.value.message == f"line {error.value.line}: {error.value.problem}"
    assert error.value.code == "bad_template"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Conditions: {C: !Condition C}\nResources: {X: {Type: T, Condition: C}}", "condition C refers to itself"),
        ("Conditions: {C: !Ref X}\nResources: {X: {Type: T, Condition: C}}", "A condition cannot be Ref"),
        ("Conditions: {C: true}\nResources: {X: {Type: T, Condition: C}}", "A condition cannot be a plain value"),
        ("Resources: {X: {Type: T, Condition: None}}", "There is no condition None"),
        ("Resources: {X: &a {Type: T, Properties: *a}}", "no YAML aliases"),
        ("Parameters: {P: {Type: String, Default: !Ref Q}}\nResources: {}", "takes no intrinsic functions"),
        ("Parameters: {P: {Type: String, AllowedPattern: '['}}\nResources: {}", "no regular expression"),
    ],
)
def test_what_cloudformation_would_not_take_is_an_error(text: str, problem: str) -> None:
    with pytest.raises(TemplateError, match=problem):
        Template(text, {})


def test_a_queue_that_is_named_after_itself_is_an_error() -> None:
    text = "Resources: {Q: {Type: AWS::SQS::Queue, Properties: {QueueName: !GetAtt Q.QueueName}}}"
    template = Template(text, {}, lambda symbol, kind, name: name)
    with pytest.raises(TemplateError, match="the name of Q refers to itself"):
        template.resources["Q"].property("QueueName")


@pytest.mark.parametrize("text", ["{", "[]", "text", "", "Parameters: {}", "a: [", "[" * 5000])
def test_what_is_no_template_at_all_has_a_code_of_its_own(text: str) -> None:
    with pytest.raises(TemplateError) as error:
        Template(text, {})
    assert error.value.code == "not_a_template"
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["Resources: 1", "Resources: {X: {}}", "Resources: {X: {Type: T, Properties: {A: !If [a]}}}"]
)
def test_what_is_wrong_in_a_template_is_one_line(text: str) -> None:
    with pytest.raises(TemplateError) as error:
        assert Template(text, {}).resources["X"].properties
    assert "\n" not in str(error.value)


def test_a_date_stays_text() -> None:
    """CloudFormation takes an unquoted policy version as text; YAML would make a date of it."""
    assert value("{Version: 2012-10-17}") == {"Version": "2012-10-17"}


def test_scalars_are_what_yaml_says() -> None:
    assert value("[1, 0x1F, 1.5, yes, null, '1']") == [1, 31, 1.5, True, None, "1"]


def test_a_condition_of_a_policy_is_not_taken_for_one_of_the_template() -> None:
    assert value("{Condition: {StringLike: {a: b}}}") == {"Condition": {"StringLike": {"a": "b"}}}


def test_declared_parameters_have_their_defaults() -> None:
    declared = declared_parameters(HEADER + "1")
    assert {name: parameter.default for name, parameter in declared.items()} == {
        "Prefix": "faceq", "Zones": "a, b", "Most": 3, "Needed": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "setting"),
    [
        ("!Ref Most", "the parameter Most"),
        ("!If ['Yes', !Ref Most, !Ref AWS::NoValue]", "the parameter Most"),
        ("30", "Key of X"),
        ("!Sub '${Most}'", "Key of X"),
    ],
)
def test_a_setting_is_named_where_the_user_sets_it(expression: str, setting: str) -> None:
    assert resource(expression).setting("Key") == setting
    assert resource("{Inner: " + expression + "}").setting("Key", "Inner") == setting.replace("Key", "Key.Inner")


def test_the_shipped_templates_are_what_pyyaml_reads_too() -> None:
    """An independent reader: the resources of a template without conditions, by PyYAML with tags left out."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: "call")
    deploy = Path(__file__).parents[3] / "deploy"
    for name in ("template.yaml", "base.yaml"):
        text = (deploy / name).read_text()
        plain = yaml.load(text, Loader)
        expected = {key: entry["Type"] for key, entry in plain["Resources"].items() if "Condition" not in entry}
        resources = Template(text, {}).resources
        assert expected.items() <= {key: entry.kind for key, entry in resources.items()}.items()
        assert json.dumps(sorted(plain["Parameters"])) == json.dumps(sorted(declared_parameters(text)))
