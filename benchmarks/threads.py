"""What more CPU threads bring one forward pass of Predict: EfficientNet-Lite0 with weights of ImageNet, by PyTorch, in turns."""

import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from report import table_of_figures

from cutaway.cli._command import stdout
from cutaway.cli.demo_photo import FACTORY, MODEL, write_model
from cutaway_server.process.tuning import keep_freed_blocks, wait_briefly

ROUNDS, RUNS = 7, 5


def main() -> None:
    wait_briefly()  # before PyTorch is loaded
    keep_freed_blocks()
    from cutaway_server.models.arrays import to_array
    from cutaway_server.models.repository.load import Hardware, Permissions, load
    from cutaway_server.models.threads import available_cpus, use_cpu_threads
    from cutaway_server.prediction.engines.eager import Eager

    counts = sorted({1, 2, available_cpus()})
    with TemporaryDirectory() as folder:
        version = write_model(Path(folder)) / MODEL / "1"
        model = load(version, MODEL, "1", Permissions(factories=(FACTORY,)), Hardware(fixed=True), look_inside=False)
    table = table_of_figures("images in a batch", *(f"{count} threads" for count in counts), words=0)
    for batch in (1, 4):
        engine, x = Eager(model), tuple(map(to_array, model.probe(batch)))
        taken: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(ROUNDS):
            for count in counts:
                use_cpu_threads(count)
                engine.run(x)
                for _ in range(RUNS):
                    began = time.perf_counter()
                    engine.run(x)
                    taken[count].append(time.perf_counter() - began)
        table.add_row(str(batch), *(f"{1e3 * median(taken[count]):.1f} ms" for count in counts))
    stdout().print(table)


if __name__ == "__main__":
    main()
