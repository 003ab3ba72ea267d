"""The option `--name`, which chooses one of several stacks on this machine.

The stage of the image that installs models runs `cli.main` without the package `client`, so this file imports none of
it.
"""

import functools
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Final

import typer

from adapters.settings import FACEQ_NAME, stack_name
from pipeline.errors import SetupError

#: The parameter of the option `--name`.
_LOCAL_STACK: Final = "local_stack_name"
_LocalStackName = Annotated[
    str | None,
    typer.Option("--name", metavar="STACK", help="Use the stack of this name on this machine.  [default: FACEQ_NAME]"),
]


def with_local_stack_name(command: Callable[..., object]) -> Callable[..., object]:
    """Give a command the option `--name`, which sets FACEQ_NAME while the command runs.

    Every reader of the variables then uses the stack, or the gallery, of this name.
    """
    signature = inspect.signature(command, eval_str=True)
    if _LOCAL_STACK in signature.parameters:
        return command

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> object:
        name = options.pop(_LOCAL_STACK, None)
        if name is None:
            return command(*arguments, **options)
        try:
            stack_name({FACEQ_NAME: str(name)})
        except SetupError:
            raise typer.BadParameter(
                f"'{name}' is not made of up to 31 of a-z, 0-9 and '-'", param_hint="--name"
            ) from None
        before = os.environ.get(FACEQ_NAME, "")
        os.environ[FACEQ_NAME] = str(name)
        try:
            return command(*arguments, **options)
        finally:
            os.environ[FACEQ_NAME] = before

    option = inspect.Parameter(_LOCAL_STACK, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_LocalStackName)
    parameters = [*signature.parameters.values(), option]
    vars(run)["__signature__"] = signature.replace(parameters=parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
