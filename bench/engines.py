"""Compare the engines: how long they take to start, to find faces and to embed them.

Each engine runs in its own process (`python -m bench.engines ENGINE MODEL PICTURES`), which makes one call for each
line of standard input. So the engines can take turns, and other load on the machine affects all of them alike.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Final

import numpy as np

from bench.sample_frames import NO_FACE
from bench.tables import SPREAD, Section, spread

#: The call that `FACEQ_TRY_ROTATIONS` makes for a frame without a face.
NO_FACE_IN_ALL_TURNS: Final = f"{NO_FACE}, in all four turns"
EMBED_ONE: Final = "embed 1 face"
EMBED_EIGHT: Final = "embed 8 faces"
#: Calls before the first one that is measured.
WARM_UP: Final = 3


class _Worker:
    """An engine's process.

    Parameters
    ----------
    engine : str
        `onnx`, `torch` or `dlib`; dlib only embeds, it finds no faces.
    model : str
        Id of the recogniser's model.
    pictures : Mapping of str to Path
        Kind of each frame and the path of its picture.

    """

    def __init__(self, engine: str, model: str, pictures: Mapping[str, Path]) -> None:
        self.calls = [*([] if engine == "dlib" else [*pictures, NO_FACE_IN_ALL_TURNS]), EMBED_ONE, EMBED_EIGHT]
        paths = json.dumps({kind: str(path) for kind, path in pictures.items()})
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.engines", engine, model, paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        self.start: dict[str, float] = self._answer()
        self.start["all"] = (time.perf_counter() - began) * 1e3

    def run(self, call: str) -> dict[str, float]:
        """Make one call; return its milliseconds (`ms`) and the process's resident memory in MB (`mb`)."""
        assert self._process.stdin is not None
        self._process.stdin.write(call + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer

    def stop(self) -> None:
        self._process.communicate()


def measure(engines: Mapping[str, str], pictures: Mapping[str, Path], runs: int, starts: int) -> list[Section]:
    """Measure each engine with its model; the ratios compare the others with the first.

    The first of the pictures shows a face; the one of the kind `NO_FACE` shows none.
    """
    names = {engine: f"{engine} ({model})" for engine, model in engines.items()}
    begun: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    took: dict[tuple[str, str], list[float]] = {}
    memory: dict[str, float] = {}
    for _ in range(starts - 1):
        for engine, model in engines.items():
            worker = _Worker(engine, model, pictures)
            worker.stop()
            begun[engine].append(worker.start)
    with ExitStack() as stack:
        workers = {engine: _Worker(engine, model, pictures) for engine, model in engines.items()}
        for engine, worker in workers.items():
            stack.callback(worker.stop)
            begun[engine].append(worker.start)
        for call in [*pictures, NO_FACE_IN_ALL_TURNS, EMBED_ONE, EMBED_EIGHT]:
            capable = {engine: worker for engine, worker in workers.items() if call in worker.calls}
            for number in range(WARM_UP + runs):
                for engine, worker in capable.items():
                    answer = worker.run(call)
                    memory[engine] = answer["mb"]
                    if number >= WARM_UP:
                        took.setdefault((call, engine), []).append(answer["ms"])
    first = next(iter(engines))
    speed = Section(
        "Engines: speed",
        "Milliseconds of one call on one thread, as in a function with the template's memory. The engines take turns "
        f"after each call. The ratio compares the median with that of {names[first]}.",
        ("call, engine", *SPREAD, "ratio"),
    )
    for (call, engine), values in took.items():
        ratio = float(np.median(values) / np.median(took[call, first]))
        what = call if call.startswith("embed") else f"detect {call}"
        speed.rows.append((f"{what}, {names[engine]}", *spread(values), f"{ratio:.2f}"))
    start = Section(
        "Engines: start and memory",
        "Milliseconds from the start of a process to a loaded engine, with all files in the page cache: interpreter, "
        "imports, networks. Medians. The memory is resident memory after all calls above.",
        ("engine", "import", "load", "process start to loaded", "slowest", "MB", "runs"),
    )
    for engine, starts_of_engine in begun.items():
        medians = [f"{np.median([each[part] for each in starts_of_engine]):.0f}" for part in ("import", "load", "all")]
        slowest = f"{max(each['all'] for each in starts_of_engine):.0f}"
        start.rows.append((names[engine], *medians, slowest, f"{memory[engine]:.0f}", str(len(starts_of_engine))))
    return [speed, start]


def _serve(engine: str, model: str, pictures: str) -> None:
    """Run as an engine's process: print the times of the start, then answer each input line with the call's time."""
    began = time.perf_counter()
    from adapters import wiring
    from adapters.settings import ModelSettings

    import_module(f"adapters.engine_{engine}")
    imported = time.perf_counter()
    settings = replace(
        ModelSettings.from_environment(os.environ),
        engine="onnx" if engine == "dlib" else engine,
        model=model,
        threads=1,
    )
    detector = None if engine == "dlib" else wiring.load_detector(settings)
    embedder = wiring.load_embedder(settings)
    loaded = time.perf_counter()
    print(json.dumps({"import": (imported - began) * 1e3, "load": (loaded - imported) * 1e3}), flush=True)

    import psutil

    from adapters.models.installed import installed_model
    from pipeline.embed import PREPROCESSINGS, cut
    from pipeline.images import decode
    from pipeline.rotations import find_faces

    images = {kind: decode(Path(path).read_bytes()) for kind, path in json.loads(pictures).items()}
    detector = detector or wiring.load_detector(settings)
    image = next(iter(images.values()))
    preprocessing = PREPROCESSINGS[installed_model(model, settings.models).preprocessing]
    crop = cut(image, detector.detect(image)[0], preprocessing)[None]
    crops = {EMBED_ONE: crop, EMBED_EIGHT: np.repeat(crop, 8, axis=0)}
    for line in sys.stdin:
        call = line.strip()
        began = time.perf_counter()
        if call in crops:
            embedder.embed(crops[call])
        elif call == NO_FACE_IN_ALL_TURNS:
            found = find_faces(images[NO_FACE], detector, try_rotations=True)
            assert not found.faces, "a face was found, so not all turns were tried"
        else:
            detector.detect(images[call])
        took = (time.perf_counter() - began) * 1e3
        print(json.dumps({"ms": took, "mb": psutil.Process().memory_info().rss / 2**20}), flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
