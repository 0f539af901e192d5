"""Threads, forked processes and the processor's floating-point mode."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from helpers import flat, random_arguments, run_on, run_python
from native_cases import apply

from throughtime import _native, cells
from throughtime.engines.native import NativeEngine, instruction_sets

PREPARE = """
import numpy as np, os, sys, time
from throughtime import cells
from throughtime.engines.base import Layout, Operands
from throughtime.engines.native import NativeEngine
program = cells.get("lstm").program(64, 64)
def run(threads=2):
    inputs = [np.ones((50, 32, 64), np.float32)]
    states = [np.zeros((32, 64), np.float32)] * 2
    draw = np.random.default_rng(0)
    parameters = [draw.normal(0, 0.1, p.shape).astype(np.float32) for p in program.parameters]
    operands = Operands(inputs, states, parameters)
    return NativeEngine(threads).run(program, operands, Layout(50, len(states[0]))).outputs[0]
"""


def test_the_engine_runs_without_torch() -> None:
    assert "False" in run_python(PREPARE + "run(); print('torch' in sys.modules)")


@pytest.mark.slow
def test_the_engine_works_after_fork() -> None:
    for load in ("", "import torch; torch.ones(300, 300) @ torch.ones(300, 300)\n"):
        source = PREPARE.replace("\n", "\n" + load, 1) + (
            "y = run()\n"
            "child = os.fork()\n"
            "if child == 0: os._exit(0 if np.array_equal(run(), y) else 1)\n"
            "print(os.waitpid(child, 0)[1] == 0 and np.array_equal(run(), y))"
        )
        assert "True" in run_python("import warnings; warnings.simplefilter('ignore')\n" + source)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a second processor")
def test_core_to_core_latency_is_plausible() -> None:
    # Light travels only 30 cm in 1 ns. The upper bound is loose because the machine may be busy.
    assert 1e-9 < _native.core_to_core_latency() < 1.0


def test_idle_threads_sleep() -> None:
    source = (
        PREPARE + "run(3); time.sleep(0.02); a = time.process_time(); time.sleep(0.3); print(time.process_time() - a)"
    )
    assert float(run_python(source)) < 0.05


def test_concurrent_callers_can_share_one_engine() -> None:
    program = cells.get("lstm").program(40, 40)
    arguments = random_arguments(program, 40, 20)
    wanted = flat(run_on(NativeEngine(1), program, 40, *arguments))
    wrong = []

    def call() -> None:
        for _ in range(5):
            found = flat(run_on(NativeEngine(2), program, 40, *arguments))
            if not all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True)):
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


# More threads than processors: all are pinned to one, along with a program that keeps it busy.
CROWDED = """
import os, subprocess, sys, threading
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
from helpers import flat, random_arguments, run_on
from native_cases import family
from throughtime import cells
from throughtime.engines.native import NativeEngine
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system can't pin processes")
def test_results_are_the_same_while_threads_compete_for_a_processor() -> None:
    # The first thread releases the others at some point that varies, and finishes the run alone.
    source = CROWDED + (
        "shapes = [('lstm', 256, 60, 1, None), ('gru', 256, 60, 2, [2] * 30 + [1] * 30), ('lstm', 64, 60, 40, None),\n"
        "          ('lstm', 64, 60, 40, [40] * 15 + [29] * 15 + [11] * 30)]\n"
        "busy = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
        "wrong = []\n"
        "def hold(threads, program, steps, arguments, sizes, wanted):\n"
        "    found = flat(run_on(NativeEngine(threads), program, steps, *arguments, sizes))\n"
        "    wrong.extend(threads for f, w in zip(found, wanted, strict=True) if not torch.equal(f, w))\n"
        "try:\n"
        "    for name, hidden, steps, rows, sizes in shapes:\n"
        "        for program in family(cells.get(name).program(16, hidden)):\n"
        "            arguments = random_arguments(program, steps, rows).map(lambda t: 0.3 * t.float())\n"
        "            wanted = flat(run_on(NativeEngine(1), program, steps, *arguments, sizes))\n"
        "            assert all(w.isfinite().all() for w in wanted)\n"
        "            given = (program, steps, arguments, sizes, wanted)\n"
        "            callers = [threading.Thread(target=hold, args=(n, *given)) for n in (2, 3, 4)]\n"
        "            for caller in callers: caller.start()\n"
        "            for caller in callers: caller.join()\n"
        "            for n in (2, 3, 4): hold(n, *given)\n"
        "finally:\n"
        "    busy.kill()\n"
        "print('wrong:', wrong)\n"
    )
    assert "wrong: []" in run_python(source)


def test_the_callers_denormal_mode_is_restored() -> None:
    engine = NativeEngine(2)
    tiny = np.full(8, np.finfo(np.float32).tiny / 4, np.float32)
    assert not apply(engine, "add", tiny, tiny).any()  # flushed during a run
    assert (tiny + tiny).all()  # but not after it


def test_denormals_are_flushed_to_zero() -> None:
    # They would make a run ten times slower or more; benchmarks/threads.py measures it.
    program = cells.get("lstm").program(64, 64)
    inputs, states, parameters = random_arguments(program, 5, 4)
    tiny = [(1e-40 * s).float() for s in states]
    assert all(((s.abs() > 0) & (s.abs() < torch.finfo(torch.float32).tiny)).any() for s in tiny)
    inputs, parameters = ([0 * t.float() for t in given] for given in (inputs, parameters))
    found = flat(run_on(NativeEngine(1), program, 5, inputs, tiny, parameters))
    assert not any(f.any() for f in found)  # with zero parameters a step only halves the state


def test_the_environment_variable_selects_the_instruction_set() -> None:
    source = PREPARE + "import hashlib; print(hashlib.sha256(run().tobytes()).hexdigest())"
    found = {isa: run_python(source, THROUGHTIME_ISA=isa) for isa in instruction_sets()}
    assert run_python(source, THROUGHTIME_ISA="") == found[instruction_sets()[0]]
    assert (
        len(found) == 1 or found["baseline"] != found[instruction_sets()[0]]
    )  # the baseline has no FMA, so it rounds differently


def test_an_unknown_instruction_set_is_rejected() -> None:
    source = PREPARE + "\ntry: run()\nexcept ValueError as error: print(error)"
    assert "no instruction set named mmx" in run_python(source, THROUGHTIME_ISA="mmx")
