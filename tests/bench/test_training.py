"""The training benchmarks: what they judge by, how memory is counted, and every side for a few steps."""

import mmap
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench import gpu, memory, peers, train_throughput
from bench.sides import SIDES, Setup, measure, write_films
from models.config import TrainConfig
from models.statistics.bootstrap import interval

MIB = 2**20


def row(hilum=30.0, limit=31.0, classic=12.0, same=29.0):
    return train_throughput.Row(name="net, jpeg", hilum=hilum, limit=limit, classic=classic, same=same)


def test_throughput_is_judged_by_three_ratios():
    assert row().faults() == []
    (slow,) = row(limit=40.0).faults()
    assert "(a) is 0.75 of (b), below 0.92" in slow
    (below,) = row(same=31.0).faults()
    assert "0.97 of (d)" in below
    (few,) = row(classic=14.0).faults()
    assert few.endswith("(a) is 2.14 times (c), below 2.2.")
    (never,) = row(classic=20.0).faults()
    assert "no loop can be: (b), the network alone, is 1.55 times (c)" in never


def test_memory_is_judged_by_the_largest_trainer_and_by_the_cache():
    good = memory.Row(trainers=2, own=110.0 * MIB, bare=100.0 * MIB, cache=1.0, together=220.0 * MIB)
    assert good.faults() == []
    assert good.cells() == ["2", "110", "1.10", "1.00", "220"]
    bad = memory.Row(trainers=2, own=120.0 * MIB, bare=100.0 * MIB, cache=2.0, together=440.0 * MIB)
    assert ["1.20 times the bare loop" in bad.faults()[0], "counts 2.00 times" in bad.faults()[1]] == [True, True]


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux")
def test_a_mapped_file_counts_as_far_as_it_was_read(tmp_path):
    path = tmp_path / "images.u8"
    path.write_bytes(bytes(range(256)) * 4096)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        before = memory.sizes(os.getpid(), str(path))[1]
        assert sum(mapped[0::4096]) == 0
        whole, after = memory.sizes(os.getpid(), str(path))
    assert before < after == MIB < whole
    assert memory.sizes(os.getpid(), str(path))[1] == 0
    assert memory.sizes(2**22 + 1) == (0, 0)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux")
def test_processes_stand_still_while_their_memory_is_counted():
    """Also beside one that has ended; afterwards they go on."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    try:
        with memory.held([*busy, ended]):
            assert [memory.state(one.pid) for one in (*busy, ended)] == ["T", "T", "X"]
        deadline = time.monotonic() + 10
        while any(memory.state(one.pid) == "T" for one in busy) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert all(memory.state(one.pid) in "RS" for one in busy)
    finally:
        for one in busy:
            one.kill()
            one.wait()


def test_a_gpu_is_judged_by_the_limit_and_by_one_alone():
    def results(alone, limit, together):
        rates = {gpu.ALONE: alone, gpu.LIMIT: limit, gpu.REPEATABLE: 1, "a, 12 at once": together}
        return {name: gpu.Result(images=value) for name, value in rates.items()}

    assert gpu.faults(results(91, 100, 90)) == []
    assert len(gpu.faults(results(80, 100, 70))) == 2
    cells = gpu.rows(results(50, 100, 50), per_film=2.0, most=400.0)[0]
    assert cells == ["a hilum", "50.0", "0.50", "1.00", "0.25", "", "0.0"]
    assert gpu.table(("side", "x"), [["a", "10"]]) == "side   x\na     10"


def test_a_peer_is_timed_from_the_end_of_its_first_epoch():
    side = peers.side_of([{"time": 5.0, "auc": 0.5}, {"time": 7.0, "auc": 0.6}, {"time": 9.0, "auc": 0.7}], 100, None)
    assert side.rate == 50.0
    assert [line[1] for line in peers.epoch_rows([side, side])] == ["", "2.0", "2.0"]


def test_the_difference_of_peers_is_paired_over_patients(tmp_path):
    truth = np.arange(200) % 2
    names = [f"film{index}" for index in range(200)]
    frame = pd.DataFrame({"image_id": names, "patient_id": [f"p{index // 2}" for index in range(200)]})
    frame.assign(pneumonia=truth.astype(float)).to_parquet(tmp_path / "labels.parquet")
    draws = np.random.default_rng(0)
    sharp, blunt = (pd.Series(truth + draws.normal(0, spread, 200), index=names) for spread in (0.3, 3.0))
    better, worse = (peers.Side(times=(0, 1), aucs=(), films=1, scores=scores) for scores in (sharp, blunt[::-1]))
    gap, ours, theirs = peers.auc_difference(tmp_path, [better], [worse])
    assert ours > 0.95 > theirs
    assert gap.low > 0
    assert peers.auc_difference(tmp_path, [worse], [better])[0].high < 0


def test_a_peer_at_its_best_is_judged_as_well(capsys):
    level, behind = interval(np.array([0.0, -0.01, 0.01])), interval(np.array([-0.05, -0.06, -0.04]))
    assert not peers.verdict("standard", 1.9, level)
    assert peers.verdict("standard", 1.7, level)
    assert not peers.verdict("best", 1.1, level)
    assert peers.verdict("best", 0.9, level)
    assert peers.verdict("best", 1.1, behind)
    assert capsys.readouterr().out.count("fastai's best form") == 3


def test_a_peer_at_its_best_has_hilums_batch():
    assert peers.BATCH["best"] == TrainConfig().batch_size


@pytest.mark.parametrize("bench", [gpu, memory, peers, train_throughput])
def test_help(bench, capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(["--help"])
    assert end.value.code == 0
    assert "--check" in capsys.readouterr().out


@pytest.mark.parametrize("side", ["hilum", "limit", pytest.param("classic", marks=pytest.mark.slow)])
def test_every_side_takes_steps(side, tmp_path):
    films = np.random.default_rng(0).integers(0, 256, (8, 32, 32), dtype=np.uint8)
    data = write_films(tmp_path / "cache", films)
    if side == "classic":
        data = tmp_path / "files"
        data.mkdir()
        for index, film in enumerate(films):
            Image.fromarray(film).save(data / f"{index}.png")
    setup = Setup(side=side, backbone="test_resnet", size=32, batch=4, threads=1, precision="fp32", data=str(data))
    result, a_step = measure(SIDES[side](setup, tmp_path), setup.batch, 0, 1.0)
    assert result["images"] == 8
    assert result["seconds"] == pytest.approx(2 * a_step)
