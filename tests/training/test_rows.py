"""Row order and batches: every row once per epoch, disjoint shares of processes, noise independent of the split."""

import json
import shutil
from itertools import islice

import numpy as np
import pytest
import torch

from model_factory.experiment.config import read_experiment
from model_factory.training.engine import train
from model_factory.training.noise import RowNoise, mix_seed
from model_factory.training.row_order import MANY, Buckets, HashedOrder, RowOrder, choose_order
from model_factory.training.rows import EvalBatches, Share, TrainBatches
from model_factory.training.run.checkpoints import read_checkpoint
from tests.training.runs import bytes_of, experiment, seq2seq


def keys(count, share, start=0, stop=6):
    return list(TrainBatches(RowOrder(count, 7), share, start, stop))


def test_epoch_has_every_row_once_in_new_order():
    flat = [key for batch in keys(10, Share(5), stop=4) for key in batch]
    epochs = [[index for _, index in flat[first : first + 10]] for first in (0, 10)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]
    assert [position for position, _ in flat] == list(range(20))


def test_processes_and_parts_share_step_without_overlap():
    whole = keys(11, Share(12))
    for batch, accumulation, world in ((6, 1, 2), (3, 2, 2), (4, 3, 1), (2, 2, 3)):
        ranks = [iter(keys(11, Share(batch, accumulation, world, rank))) for rank in range(world)]
        for step in whole:
            parts = [key for _ in range(accumulation) for rank in ranks for key in next(rank)]
            assert parts == step


def test_later_start_gives_tail_of_stream():
    share = Share(3, 2)
    assert keys(7, share, start=4) == keys(7, share)[8:]
    assert len(TrainBatches(RowOrder(7, 0), share, 4, 6)) == 12


def test_batches_span_epochs_of_small_split():
    assert [len(batch) for batch in keys(3, Share(8), stop=2)] == [8, 8]


def test_eval_batches_cover_rows_once_in_equal_counts():
    for count in (1, 2, 7, 8, 9):
        ranks = [list(EvalBatches(count, Share(2, 1, 3, rank))) for rank in range(3)]
        assert len({len(batches) for batches in ranks}) == 1
        seen = sorted(index for batches in ranks for batch in batches for _, index in batch)
        assert seen == list(range(count))


def noise(seed, step, rows):
    index = torch.tensor([13 * row % 29 for row in rows])
    return RowNoise(seed, step, index, torch.tensor(list(rows)), 8)


def test_row_noise_is_independent_of_process_split():
    whole = noise(3, 5, range(8))
    parts = [noise(3, 5, range(4)), noise(3, 5, range(4, 8))]
    assert torch.equal(torch.cat([part.times() for part in parts]), whole.times())
    drawn = torch.cat([part.generators().rand(6) for part in parts])
    assert torch.equal(drawn, whole.generators().rand(6))


def test_row_noise_differs_by_seed_step_row():
    streams = [noise(seed, step, range(8)).generators().rand(4) for seed in range(3) for step in range(3)]
    values = torch.cat(streams).flatten()
    assert len(values.unique()) == len(values)
    times = noise(0, 0, range(8)).times()
    assert sorted((8 * times).ceil().int().tolist()) == list(range(1, 9))


def test_row_order_is_stateless():
    order = RowOrder(50, 1)
    forward = [order.index(position) for position in islice(range(200), 200)]
    assert [RowOrder(50, 1).index(position) for position in reversed(range(200))] == forward[::-1]


def test_buckets_group_similar_lengths_without_losing_rows():
    count, rows = 1000, 16
    lengths = torch.randint(5, 60, (count,), generator=torch.Generator().manual_seed(0))
    order = RowOrder(count, 3, Buckets(lengths, rows))
    stream = [order.index(position) for position in range(3 * count)]
    assert all(sorted(stream[first : first + count]) == list(range(count)) for first in range(0, 3 * count, count))
    steps = [lengths[stream[first : first + rows]] for first in range(0, 3 * count - rows, rows)]
    spread = torch.stack([(step.max() - step.min()).float() for step in steps])
    assert spread.median() <= 3  # steps of random rows have a spread of 50
    assert (spread > 6).sum() <= 2  # the step between two epochs
    means = torch.stack([step.float().mean() for step in steps])
    assert not torch.equal(means, means.sort().values)
    assert [RowOrder(count, 3, Buckets(lengths, rows)).index(position) for position in (2500, 7)] == [
        stream[2500],
        stream[7],
    ]


def test_buckets_of_split_smaller_than_step():
    order = RowOrder(3, 0, Buckets(torch.tensor([5, 6, 7]), 8))
    assert sorted(order.index(position) for position in range(3)) == [0, 1, 2]


def hashed_epoch(count, seed=5, epoch=0, buckets=None):
    order = HashedOrder(count, seed, buckets)
    return [order.index(position) for position in range(count * epoch, count * epoch + count)]


@pytest.mark.parametrize(
    "count", [*range(1, 70), 255, 256, 257, 1000, 4095, 4096, 4097, 16_385, 65_536, 65_537, 99_991, 100_000]
)
def test_hashed_order_is_a_bijection(count):
    for epoch in (0, 3):
        assert np.array_equal(np.sort(hashed_epoch(count, epoch=epoch)), np.arange(count))


def test_hashed_order_has_the_rows_of_runs_begun_before():
    word = 2**64 - 1

    def encrypt(value, keys, half=5):  # with Python's integers, as it was computed row by row
        left, right = value >> half, value & (1 << half) - 1
        for key in keys:
            mixed = (right + key) * 0xBF58476D1CE4E5B9 & word
            mixed = (mixed ^ mixed >> 31) * 0x94D049BB133111EB & word
            left, right = right, left ^ ((mixed ^ mixed >> 29) & (1 << half) - 1)
        return left << half | right

    for epoch in (0, 1):
        keys, found = [mix_seed(5, 11, epoch, turn) for turn in range(6)], []
        for row in range(700):
            value = encrypt(row, keys)
            while value >= 700:
                value = encrypt(value, keys)
            found.append(value)
        assert hashed_epoch(700, epoch=epoch) == found


def test_hashed_order_has_few_fixed_points_and_no_correlation():
    count = 100_000
    first, second = (np.array(hashed_epoch(count, epoch=epoch)) for epoch in (0, 1))
    assert (first == np.arange(count)).sum() <= 6  # Poisson with mean 1: more in one of 12,000 orders
    assert (first == second).sum() <= 6
    for one, other in ((first[:-1], first[1:]), (first, second), (first, np.arange(count))):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / count**0.5


def test_hashed_order_is_stateless_and_differs_by_seed():
    order = HashedOrder(10_000, 1)
    forward = [order.index(position) for position in range(20_000)]
    again = HashedOrder(10_000, 1)
    assert [again.index(position) for position in reversed(range(20_000))] == forward[::-1]
    assert hashed_epoch(10_000, seed=2) != forward[:10_000]


def test_hashed_order_of_two_billion_rows_reaches_all_of_them():
    order = HashedOrder(2_000_000_000, 3)
    found = np.array([order.index(position) for position in range(10_000)])
    assert len(set(found.tolist())) == 10_000
    assert 0 <= found.min() < 1_000_000
    assert 1_999_000_000 < found.max() < 2_000_000_000
    tenths = np.bincount(found // 200_000_000, minlength=10)
    assert abs(tenths - 1000).max() < 5 * 30  # five standard deviations of a binomial of mean 1000


@pytest.mark.parametrize("offset", [0, 5])
def test_buckets_of_hashed_order_sort_windows(offset):
    count, rows = 3000, 8
    lengths = torch.randint(5, 60, (count,), generator=torch.Generator().manual_seed(0))
    buckets = Buckets(lengths, rows, offset)
    order = HashedOrder(count, 3, buckets)
    stream = [order.index(position) for position in range(2 * count)]
    assert sorted(stream[:count]) == sorted(stream[count:]) == list(range(count))
    plain = hashed_epoch(count, seed=3)
    assert sorted(stream[:800]) == sorted(plain[:800])  # a pool is a window of a hundred steps
    steps = [lengths[stream[first : first + rows]] for first in range(offset, 2 * count - rows, rows)]
    spread = torch.stack([(step.max() - step.min()).float() for step in steps])
    assert spread.median() <= 3  # steps of random rows have a spread of 48
    assert (spread > 10).sum() <= 8  # the step between two windows
    again = HashedOrder(count, 3, buckets)
    assert [again.index(position) for position in (5500, 7)] == [stream[5500], stream[7]]


def test_many_rows_have_a_hashed_order_unless_the_run_began_before():
    buckets = Buckets(torch.ones(1), 8)
    for is_mapped in (False, True):
        assert isinstance(choose_order(MANY, 0, None, is_mapped=is_mapped), HashedOrder)
        assert isinstance(choose_order(MANY, 0, buckets, is_mapped=is_mapped), HashedOrder)
        assert isinstance(choose_order(MANY - 1, 0, buckets, is_mapped=is_mapped), RowOrder)
        assert isinstance(choose_order(MANY, 0, buckets, is_mapped=is_mapped, version=1), RowOrder)
    assert isinstance(choose_order(MANY - 1, 0, None, is_mapped=False), RowOrder)
    assert isinstance(choose_order(MANY, 0, None, is_mapped=False, version=1), RowOrder)
    assert isinstance(choose_order(9, 0, None, is_mapped=True, version=1), HashedOrder)


def test_resume_keeps_the_order_that_the_run_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr("model_factory.training.row_order.MANY", 10)  # of the 40 rows
    path, whole = experiment(tmp_path, **seq2seq(tmp_path), max_steps=8, save_steps=3), tmp_path / "whole"
    config = read_experiment(path).config
    train(config, whole)
    assert read_checkpoint(whole, 6).manifest.row_order == 2
    hashed = bytes_of(whole)
    (whole / "model.safetensors").unlink()
    shutil.rmtree(whole / "checkpoint-8")
    train(config, whole, resume=True)
    assert bytes_of(whole) == hashed

    run = tmp_path / "begun_before"
    monkeypatch.setattr("model_factory.training.row_order.MANY", 2**24)
    train(config, run)
    permuted = bytes_of(run)
    assert permuted != hashed
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoint-8")
    manifest = run / "checkpoint-6" / "checkpoint.json"
    content = json.loads(manifest.read_text())
    del content["row_order"]
    manifest.write_text(json.dumps(content))
    monkeypatch.setattr("model_factory.training.row_order.MANY", 10)
    train(config, run, resume=True)
    assert bytes_of(run) == permuted
    assert read_checkpoint(run, 8).manifest.row_order == 1
