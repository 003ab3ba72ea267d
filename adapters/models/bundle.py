"""Copy a model into the function image."""

import json
from pathlib import Path

from adapters.models.installed import (
    DETECTOR,
    MANIFEST,
    InstalledModel,
    installed_detector,
    installed_model,
    read_manifest,
    write_file,
)
from pipeline.errors import SetupError

#: The file of InceptionResnetV1 that an engine does not load.
_UNUSED = {"onnx": "weights", "torch": "onnx"}


def bundle(name: str, cache: Path, engine: str, folder: Path) -> InstalledModel:
    """Copy the files of a model and of the detector that a function needs into `folder`, which is then itself a cache.

    Parameters
    ----------
    name : str
        An installed model, as `installed_model` takes it.
    cache : Path
    engine : str
        `onnx` leaves out the published weights, `torch` the graph that was built from them.
    folder : Path
        Created if it is missing.

    Raises
    ------
    SetupError
        The model is not installed, or has no weights that the engine can load.

    """
    model = installed_model(name, cache)
    installed_detector(cache)
    unused = _UNUSED[engine]
    if model.files.keys() == {unused}:
        raise SetupError("no_weights", f"The engine {engine} cannot load the model '{model.id}'. Choose another model.")
    for part in (DETECTOR, model.id):
        manifest = read_manifest(part, cache)
        manifest["files"].pop(unused, None)
        for file in manifest["files"].values():
            write_file(folder / file["path"], (cache / file["path"]).read_bytes())
        write_file(folder / part / MANIFEST, f"{json.dumps(manifest, indent=2)}\n".encode())
    return installed_model(model.id, folder)
