"""Row order and batches: every row once per epoch, disjoint shares of processes, noise independent of the split."""

from itertools import islice

import torch

from model_factory.training.noise import RowNoise
from model_factory.training.rows import Buckets, EvalBatches, RowOrder, Share, TrainBatches


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
