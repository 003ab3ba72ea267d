"""The Lambda service around a runtime."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from local.addresses import ACCOUNT
from local.lambda_service import LambdaService
from local.runtimes.embedded import EmbeddedRuntime
from local.stack import ROOT, StackError
from template.model import FunctionUrl, ServiceTemplate


async def test_a_template_with_two_function_urls_is_refused_in_one_line(tmp_path: Path) -> None:
    urls = tuple(FunctionUrl(f"Url{name}", name, "NONE") for name in ("first", "second"))
    template = ServiceTemplate({}, urls, {}, ())
    runtime = EmbeddedRuntime([], task_root=ROOT, logs=tmp_path, region="us-east-1", account=ACCOUNT)
    async with AsyncExitStack() as cleanup:
        service = LambdaService(template, runtime, "us-east-1", cleanup)
        with pytest.raises(StackError, match=r"^The template has 2 function URLs \(of first, second\)[^\n]+$"):
            await service.serve_function_url(0)
