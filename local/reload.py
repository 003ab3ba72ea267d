"""`faceq up --reload`: replace the functions' execution environments when their code changes."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, Protocol

from local.background_task import cancel
from local.runtimes.function_runtime import FunctionInitError
from local.stack import ROOT

#: Folders of the functions' code.
_CODE: Final = ("pipeline", "template", "adapters")
#: How long no file may change before we act on the changes, and the longest we wait for that, ms. An editor's "save
#: all" then counts as one change.
_QUIET_MS: Final = 50
_LONGEST_WAIT_MS: Final = 500


class ReplaceableRuntime(Protocol):
    """A runtime whose execution environments can be replaced while it runs."""

    async def replace(self) -> None:
        """Start new environments and end the old ones. Raises FunctionInitError."""


async def reload_on_change(runtime: ReplaceableRuntime, notify: Callable[[str], None]) -> None:
    """Replace the environments of `runtime` at each change of the functions' code, until cancelled.

    A change does not wait for the replacement that an earlier change started; it cancels that replacement.

    Parameters
    ----------
    runtime : ReplaceableRuntime
    notify : callable
        Takes a sentence for the user about each replacement.

    """
    import watchfiles

    root = ROOT.resolve()  # the system reports changed files by their resolved paths
    folders = [root / name for name in _CODE]
    changed: set[Path] = set()
    replacement: asyncio.Task[None] | None = None
    try:
        async for changes in watchfiles.awatch(
            *folders, watch_filter=_is_code, debounce=_LONGEST_WAIT_MS, step=_QUIET_MS
        ):
            if replacement is not None and replacement.done():
                changed.clear()
            elif replacement is not None:
                replacement.cancel()
            changed |= {Path(path) for _, path in changes}
            _remove_bytecode(changed)
            names = sorted(str(path.relative_to(root)) for path in changed)
            replacement = asyncio.create_task(_replace(runtime, names, notify))
    except (OSError, RuntimeError, ExceptionGroup) as error:  # watchfiles raises these when the system refuses
        notify(f"faceq no longer notices changes of the code ({error}). Restart it with: faceq up --reload")
    finally:
        if replacement is not None:
            await cancel(replacement)


async def _replace(runtime: ReplaceableRuntime, names: Sequence[str], notify: Callable[[str], None]) -> None:
    try:
        await runtime.replace()
    except FunctionInitError as error:
        notify(f"{error.place}: {error}" if error.place else str(error))
    else:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        notify(f"reloaded after a change to {names[0]}{others}")


def _is_code(_change: object, path: str) -> bool:
    name = Path(path).name
    return name.endswith(".py") and not name.startswith(".")  # Emacs' lock of embed.py is .#embed.py


def _remove_bytecode(files: Collection[Path]) -> None:
    """Remove the compiled files that Python keeps in __pycache__.

    Python takes a source file of the same size and the same second for unchanged. PYTHONDONTWRITEBYTECODE keeps the
    running environments from writing a new compiled file while we remove the old one.
    """
    for file in files:
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink(missing_ok=True)
