#!/usr/bin/env python3
"""The kernels, compiled by gcc and clang for baseline x86-64, AVX2 and AVX-512: one thread, in turn in one run.

Builds infinipot-stages (benchmarks/peers) for each compiler and target, checks that all builds give the same results, and prints
how long each stage takes beside what the machine can do, which the same build measures: Eigen's product, memcpy, reading.

    benchmarks/peers/targets.py --csv targets.csv
"""

import argparse
import csv
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

import numpy as np

from stages import Stages

HERE = pathlib.Path(__file__).resolve().parents[2]
TARGETS = {"x86-64": "SSE2", "x86-64-v3": "AVX2", "x86-64-v4": "AVX-512"}
FLAGS = {"AVX2": {"avx2", "fma"}, "AVX-512": {"avx512f", "avx512bw", "avx512vl", "avx512dq"}, "SSE2": {"sse2"}}
SHAPES = {
    "Llama-3-8B, one layer": ["--layers=1"],
    "SmolLM2-135M, 30 layers": ["--layers=30", "--query-heads=9", "--kv-heads=3", "--head-dim=64", "--entries=2048", "--keep=1024",
                                "--theta=10000", "--rows=992"],
}
STAGES = ["cap", "select", "compact", "nuc"]
# Sums are rounded in another order; values stay as they are.
TOLERANCE = {"cap": 2e-6, "select": 0, "compact": 2e-6, "nuc": 1e-5}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compilers", nargs="+", default=["g++", "clang++"], help="%(default)s")
    parser.add_argument("--build", type=pathlib.Path, default=HERE / "build/targets", help="folder [build/targets]")
    parser.add_argument("--turns", type=int, default=7, help="turns of each stage [%(default)s]")
    parser.add_argument("--csv", type=pathlib.Path, metavar="FILE", help="write the rows")
    options = parser.parse_args()
    for compiler in options.compilers:
        if not shutil.which(compiler):
            parser.error(f"there is no compiler {compiler}; see --compilers")
    return options


def runnable():
    """The targets that this processor has."""
    known = set(next(line for line in open("/proc/cpuinfo") if line.startswith("flags")).split())
    return [target for target, name in TARGETS.items() if FLAGS[name] <= known]


def build(compiler, target, folder):
    subprocess.run(["cmake", "-S", HERE, "-B", folder, "-G", "Ninja", f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_BUILD_TYPE=Release",
                    "-DINFINIPOT_NATIVE=OFF", f"-DCMAKE_CXX_FLAGS=-march={target}", "-DINFINIPOT_BUILD_TESTS=OFF",
                    "-DINFINIPOT_BUILD_BENCHMARKS=ON"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "--target", "infinipot-stages"], check=True, stdout=subprocess.DEVNULL)
    return folder / "benchmarks/infinipot-stages"


def check(builds):
    """Ends the program if two builds differ by more than rounding."""
    for stage in STAGES:
        with tempfile.TemporaryDirectory() as folder:
            dtype = np.uint32 if stage == "select" else np.float32
            results = {name: np.array(stages.result(stage, folder, dtype)) for name, stages in builds.items()}
        first = next(iter(results.values()))
        for name, result in results.items():
            error = float(np.max(np.abs(result.astype(float) - first) / np.maximum(1, np.abs(first.astype(float)))))
            if not error <= TOLERANCE[stage]:
                sys.exit(f"{stage} of {name} differs by {error:g}, more than {TOLERANCE[stage]:g}")


def measure(builds, turns):
    """{(build, stage): (median, of its limit)}"""
    samples = {(name, stage): ([], []) for name in builds for stage in STAGES}
    for turn in range(turns + 1):
        for stage in STAGES:
            for name, stages in builds.items():
                for which, kernel in enumerate((stage, stage + "_limit")):
                    time = stages.contestant(kernel)(1)[0][0]
                    if turn > 0:  # the first warms up
                        samples[name, stage][which].append(time)
    return {key: tuple(map(statistics.median, both)) for key, both in samples.items()}


def main():
    options = arguments()
    programs = {}
    for target in runnable():
        for compiler in options.compilers:
            print(f"building for {TARGETS[target]} with {compiler}", file=sys.stderr)
            programs[f"{compiler} {TARGETS[target]}"] = build(compiler, target, options.build / f"{compiler}-{target}")
    rows = []
    for shape, arguments_ in SHAPES.items():
        builds = {name: Stages(program, arguments_) for name, program in programs.items()}
        check(builds)
        for (name, stage), (ours, limit) in measure(builds, options.turns).items():
            rows.append({"shape": shape, "stage": stage, "build": name, "ours_ms": f"{ours:.4f}", "limit_ms": f"{limit:.4f}",
                         "of_limit": f"{ours / limit:.3f}"})
        for stages in builds.values():
            stages.close()
    names = list(programs)
    for shape in SHAPES:
        print(f"\n{shape}: ms (times the limit of the same build)\n\n| stage | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
        for stage in STAGES:
            own = {row["build"]: row for row in rows if (row["shape"], row["stage"]) == (shape, stage)}
            print(f"| {stage} | " + " | ".join(f"{float(own[n]['ours_ms']):.3g} ({float(own[n]['of_limit']):.2f})" for n in names) + " |")
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
