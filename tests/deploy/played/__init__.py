"""What moto 5.2.5 lacks of the AWS that `faceq deploy` uses, and where moto is not as AWS is.

moto's server holds the resources. `install` puts a CloudFormation of our own before them (stacks.py, api.py,
resources.py) and a real registry behind its ECR (ecr.py, doors.py). The template is never bent to the mock.
Where moto differs from AWS:

- CloudFormation has no `AWS::Lambda::Url`, `AWS::Lambda::Alias`, `AWS::CloudWatch::Alarm`; a `AWS::Lambda::Version` and
  a `AWS::Lambda::Permission` cannot be removed or replaced.
- A change set names resources only. AWS names each property, the value before and after, and whether the resource is
  replaced (CloudFormation API reference, "ResourceChangeDetail"); which properties replace comes from AWS's resource
  schemas, as cfn-lint carries them.
- Executing a change set happens inside the call and cannot fail; there are no events of resources and no rolling back.
- A parameter that only `Fn::Sub` names, or a resource that depends on a changed one, is not updated; an
  `AWS::NoValue` in a list stays as null; limits, capabilities, allowed values and patterns are not checked.
- Updating a Lambda function changes the code of published versions too, and leaves ImageConfig, Architectures,
  LoggingConfig, KmsKeyArn and concurrency; creating one through CloudFormation leaves them out.
- Updating a role leaves its policies as they are, updating a queue all but two attributes, creating a bucket its
  versioning, creating a repository its lifecycle policy. A log group's Arn lacks the `:*` at its end.
- SQS hands a message to a mapped function inside SendMessage, in a container of its own. Mappings are inert here.
- ECR's repositories are names without a registry. Here a real one stands behind them.
- Drift detection is missing.
"""
