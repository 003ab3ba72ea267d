"""Measure the service and the engines: `python -m bench`, or `make bench`. Takes minutes; with `--quick` one minute."""

import argparse
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from adapters.models.catalogue import CASIA_WEBFACE, DLIB, STAND_IN, VGGFACE2
from adapters.models.install import install
from adapters.models.installed import MANIFEST, installed_model
from adapters.settings import FACEQ_MODELS_DIR, Paths
from bench import engines, service
from bench.sample_frames import NO_FACE, ONE_FACE, TWO_FACES, frame, photographs, picture_without_face, pictures
from bench.service import Service
from bench.tables import SPREAD, Section, load, machine, show, spread, write
from client.frames import Frame
from pipeline.errors import FaceqError, SetupError

HERE: Final = Path(__file__).parent
#: The limits that the project promises for the service with the model that `auto` chooses.
BUDGETS: Final = {
    **{f"pipeline overhead, one in flight, {kind}, ms, median": 25.0 for kind in (ONE_FACE, TWO_FACES)},
    "`faceq up` to ready, s, median": 3.0,
    "first answer of a fresh function process, s, median": 1.5,
}
BURST: Final = 50


def main() -> int:
    """Run; return 1 if a frame of the burst got no answer or the service could not be measured, else 0."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs, to check that everything works")
    parser.add_argument("--output", type=Path, default=HERE / "results.md", help="the Markdown file to write")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    try:
        sections, all_answered = _measure(arguments.quick, console)
    except (FaceqError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    write(sections, arguments.output, "python -m bench" + (" --quick" if arguments.quick else ""))
    console.print(f"written to {arguments.output}", soft_wrap=True)
    return 0 if all_answered else 1


def _measure(quick: bool, console: Console) -> tuple[list[Section], bool]:
    cache = Paths.from_environment(os.environ).models
    os.environ[FACEQ_MODELS_DIR] = str(cache)
    about = machine(HERE.parent)
    about.rows.append(("load average at the start", load()))
    services = _services(cache)
    budgets = Section(
        "Budgets",
        f"The service with {services[0][0]} on {services[0][1]}.",
        ("what", "budget", "measured", "within budget"),
    )
    runs, starts = (20, 2) if quick else (100, 5)
    all_answered = True
    frames = {kind: frame(kind, picture) for kind, picture in pictures(cache).items()}
    with tempfile.TemporaryDirectory(prefix="faceq-bench-") as folder:
        flow = _Flow()
        for model, engine in services:
            console.print(f"measuring the service with {model} on {engine}")
            measured = Service(Path(folder) / f"{model}-{engine}", model, engine)
            for name, photo in photographs(cache).items():
                measured.faceq("people", "add", name, str(photo))
            all_answered &= flow.add(measured, frames, runs, starts)
        for what, budget in BUDGETS.items():
            value = flow.budget_figures[what]
            budgets.rows.append((what, f"{budget:g}", f"{value:.2f}", "yes" if value <= budget else "no"))
        budgets.rows.append(
            (f"{BURST} frames at once, answered", str(BURST), str(flow.answered), "yes" if all_answered else "no")
        )
        console.print("measuring the engines")
        paths = {}
        without_face = frame(NO_FACE, picture_without_face(cache))
        for kind, sent in {**frames, NO_FACE: without_face}.items():
            paths[kind] = Path(folder) / sent.filename.replace(", ", "-").replace(" ", "-")
            paths[kind].write_bytes(sent.content)
        sections = [budgets, *flow.sections(), *engines.measure(_engines(cache), paths, runs // 4, min(starts, 5))]
    about.rows.append(("load average at the end, ours included", load()))
    for section in sections:
        show(section, console)
    return [about, *sections], all_answered


class _Flow:
    """The tables about the service; each measured service adds its rows."""

    def __init__(self) -> None:
        self.budget_figures: dict[str, float] = {}
        self.answered = 0
        self._starts = Section(
            "Start and stop",
            "Seconds, with all files in the page cache. Ready means that the service would answer a frame.",
            ("what", *SPREAD),
        )
        self._cold = Section(
            "Fresh function process",
            "Seconds from the start of the process, on the runtime that `faceq up` uses.",
            ("what", *SPREAD),
        )
        self._frames = Section(
            "One frame in flight",
            "Milliseconds from the start of the post until the client has the answer. Overhead is this total without "
            "the compute of both functions, which the answer gives in `timings`.",
            ("what", *SPREAD),
        )
        self._steps: list[Section] = []
        self._burst = Section(
            f"{BURST} frames posted at once", "Milliseconds from the start of a post until the client has the answer.",
            ("what", "answered", "median", "max", "all done, s", "frames a second"),
        )  # fmt: skip
        self._memory = Section(
            "Resident memory after the burst", "MB, one figure for each process.", ("part", "MB of each process", "sum")
        )

    def add(self, measured: Service, frames: dict[str, Frame], runs: int, starts: int) -> bool:
        """Measure a service; return whether each frame of the burst was answered."""
        first = not self.budget_figures
        times = [measured.start_and_stop() for _ in range(starts)]
        detached = [measured.start_detached() for _ in range(starts)]
        for what, values in (
            ("`faceq up` to ready", [ready for ready, _ in times]),
            ("`faceq up -d`, whole command", detached),
            ("Ctrl-C to the end", [end for _, end in times]),
        ):
            self._starts.rows.append((f"{what}, {measured.name}", *spread(values, 2)))
        overheads = []
        with measured.running() as stack:
            steps = Section(
                f"Where a frame's time goes, {measured.name}",
                "Milliseconds; means, because they add up. The functions log whole milliseconds; rounding evens out in "
                "the mean. A reader can receive a message before the queue has answered its sender, so the step after "
                "a send can be negative.",
                ("step", *frames),
            )
            columns = []
            for kind, sent in frames.items():
                passages = service.one_in_flight(stack, sent, runs)
                totals, overhead = ([getattr(p, what) for p in passages] for what in ("total", "overhead"))
                overheads.append(float(np.median(overhead)))
                self._frames.rows += [
                    (f"total, {kind}, {measured.name}", *spread(totals)),
                    (f"overhead, {kind}, {measured.name}", *spread(overhead)),
                ]
                columns.append(service.mean_steps(passages))
            for step in columns[0]:
                steps.rows.append((step, *(f"{column[step]:.1f}" for column in columns)))
            steps.rows.append(("sum", *(f"{sum(column.values()):.1f}" for column in columns)))
            self._steps.append(steps)
            outcomes, seconds = service.burst(stack, frames[ONE_FACE], BURST)
            took = [outcome.milliseconds for outcome in outcomes if outcome.answer is not None]
            self._burst.rows.append(
                (
                    measured.name, str(len(took)), f"{np.median(took):.0f}", f"{max(took):.0f}", f"{seconds:.1f}",
                    f"{len(took) / seconds:.1f}",
                )
            )  # fmt: skip
            self._add_memory(measured)
            cold = service.cold_starts(measured, stack, frames[ONE_FACE], starts)
        for function, colds in cold.items():
            for what, each in (
                ("init done", [start.ready for start in colds]),
                ("first answer", [start.answered for start in colds]),
            ):
                self._cold.rows.append((f"{function}, {what}, {measured.name}", *spread(each, 2)))
        if first:
            slowest = max(float(np.median([start.answered for start in colds])) for colds in cold.values())
            ready = float(np.median([ready for ready, _ in times]))
            self.budget_figures = dict(zip(BUDGETS, (*overheads, ready, slowest), strict=True))
            self.answered = len(took)
        return len(took) == BURST

    def sections(self) -> list[Section]:
        return [self._starts, self._cold, self._frames, *self._steps, self._burst, self._memory]

    def _add_memory(self, measured: Service) -> None:
        parts: dict[str, list[float]] = {}
        for part, megabytes in service.memory(measured):
            parts.setdefault(part, []).append(megabytes)
        for part, each in parts.items():
            row = (f"{part}, {measured.name}", " ".join(f"{value:.0f}" for value in each), f"{sum(each):.0f}")
            self._memory.rows.append(row)
        total = sum(sum(each) for each in parts.values())
        self._memory.rows.append((f"all, {measured.name}", "", f"{total:.0f}"))


def _services(cache: Path) -> list[tuple[str, str]]:
    """Return the models and engines to measure: first what `auto` chooses, then InceptionResnetV1 on each engine."""
    default = installed_model("auto", cache).id
    network = _network(cache)
    services = [(default, "onnx"), (network, "onnx"), *([(network, "torch")] if _has_torch() else [])]
    return list(dict.fromkeys(services))


def _engines(cache: Path) -> dict[str, str]:
    """Return the engines to compare, each with its model."""
    network = _network(cache)
    engines_and_models = {"onnx": network}
    if _has_torch():
        engines_and_models["torch"] = network
    try:
        installed_model(DLIB, cache)
    except SetupError:
        return engines_and_models
    return {**engines_and_models, "dlib": DLIB}


def _network(cache: Path) -> str:
    """Return an installed InceptionResnetV1 model; without one, install the stand-in, which is as fast."""
    for name in (VGGFACE2, CASIA_WEBFACE):
        if (cache / name / MANIFEST).exists():
            return name
    return install(STAND_IN, cache).id


def _has_torch() -> bool:
    return all(find_spec(name) for name in ("torch", "torchvision", "facenet_pytorch"))


if __name__ == "__main__":
    sys.exit(main())
