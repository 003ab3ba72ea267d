"""An AWS for the tests of `faceq deploy`: moto 5.2.5, with what it lacks and with its differences from AWS corrected.

moto's server stores the resources. This package adds its own CloudFormation in front of it (cloudformation_api.py,
stack_changes.py, resource_types.py) and a real registry behind its ECR (repositories.py, endpoints.py). The template is
never changed to suit the emulation. These are the differences between moto and AWS that this package corrects:

- CloudFormation does not know `AWS::Lambda::Url`, `AWS::Lambda::Alias` and `AWS::CloudWatch::Alarm`. An
  `AWS::Lambda::Version` or `AWS::Lambda::Permission` cannot be deleted or replaced.
- A change set lists only resources. AWS lists each property, its value before and after, and whether the resource is
  replaced (CloudFormation API reference, "ResourceChangeDetail"). Here AWS's resource schemas, as cfn-lint contains
  them, say which properties cause a replacement.
- A change set is executed inside the call and cannot fail. There are no events of resources, and no rollback.
- A parameter that only `Fn::Sub` uses, or a resource that depends on a changed one, is not updated. An `AWS::NoValue`
  in a list becomes null. Limits, capabilities, allowed values and patterns are not checked.
- Updating a Lambda function changes the code of published versions too, and ignores ImageConfig, Architectures,
  LoggingConfig, KmsKeyArn and concurrency. Creating one through CloudFormation ignores these as well.
- Updating a role ignores its policies, and updating a queue ignores all but two attributes. Creating a bucket ignores
  its versioning, and creating a repository ignores its lifecycle policy. A log group's Arn lacks the `:*` at its end.
- SQS passes a message to a mapped function inside SendMessage, in a container of its own. Here mappings do nothing.
- ECR's repositories are names without a registry. Here a real registry is behind them.
- Drift detection is missing.
"""
