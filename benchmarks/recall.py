"""Times average recall with faster-coco-eval and pycocotools, on image-independent proposals.

    python benchmarks/recall.py --annotations instances_val.json --images 40

Medians of alternating runs in one process. The results file (1000 proposals per image) is written once and read in
every run.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from fastmask_jax.configuration import load_config
from fastmask_jax.evaluation.average_recall import average_recall
from fastmask_jax.evaluation.ellipse_baseline import write_ellipse_baseline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"fast": [], "reference": []}
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        start = time.perf_counter()
        entries = write_ellipse_baseline(
            options.annotations, results, load_config("coco"), max_proposals=1000, limit=options.images
        )
        print(f"{entries} proposals of {options.images} images made and written: {time.perf_counter() - start:.2f} s")
        for _ in range(options.repeats):
            for engine, times in seconds.items():
                start = time.perf_counter()
                figures[engine] = average_recall(options.annotations, results, limit=options.images, engine=engine)
                times.append(time.perf_counter() - start)
    for engine, times in seconds.items():
        print(f"{engine:<10} {statistics.median(times):.2f} s, segments and boxes")
    apart = max(abs(figures["fast"][k] - v) for k, v in figures["reference"].items() if v == v)
    print(f"largest difference of a figure: {apart:.1e}")


if __name__ == "__main__":
    main()
