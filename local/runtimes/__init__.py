"""The runtimes that run functions on a laptop as the Lambda service runs them.

`function_runtime.py` is the port. Two runtimes implement it, and tests/conformance/test_runtimes.py tests both:

- `embedded.py` starts processes on this machine, with `environment_pool.py`, `execution_environment.py`,
  `environment_spec.py` and `function_log.py`. The processes run `exit_with_parent.py`, and `runtime_client.py` where
  awslambdaric has no wheels.
- `rie.py` uses containers, with `replica_pool.py`, `replica.py` and `rie_request.py`. The containers run `rie_entry.py`
  and `rie_client.py`. `rie_protocol.py` is what the two sides send each other.

Both use `limits.py`, `platform_failure.py` and `invocation_tasks.py`.

The function image contains only `limits.py`, `rie_entry.py`, `rie_client.py` and `rie_protocol.py`. It has no aiohttp.
"""
