"""infinipot-stages, driven over standard input."""

import pathlib
import subprocess
import sys

import numpy as np


class Stages:
    """infinipot-stages, kept running."""

    def __init__(self, program, options):
        self.process = subprocess.Popen([program, "--serve", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request):
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
            status, _, reply = self.process.stdout.readline().strip().partition(" ")
        except BrokenPipeError:
            status, reply = "", ""
        if status != "ok":
            sys.exit(f"infinipot-stages: '{request}': {reply or 'the program ended'}")
        return reply

    def result(self, stage, folder, dtype=np.float32):
        file = pathlib.Path(folder) / f"result.{stage}"
        self.ask(f"write {stage} {file}")
        return np.memmap(file, dtype, "r")

    def contestant(self, stage):
        """A function that runs the stage `count` times and gives the milliseconds of each, elapsed and of the processor."""

        def run(count):
            numbers = iter(map(float, self.ask(f"time {stage} {count}").split()))
            return list(zip(numbers, numbers))

        return run

    def close(self):
        self.process.stdin.close()
        self.process.wait()
