"""The static memory plan."""

import itertools
import random

from edgevit.compiler.memory import ALIGNMENT, Lifetime, aligned, plan


def test_blocks_alive_together_never_share_memory():
    generator = random.Random(0)
    for _ in range(50):
        blocks = []
        for _ in range(generator.randrange(1, 40)):
            first = generator.randrange(30)
            blocks.append(Lifetime(generator.randrange(1, 5000), first, first + generator.randrange(10)))
        offsets, total = plan(blocks)
        assert all(offset % ALIGNMENT == 0 for offset in offsets)
        assert max(o + b.size for o, b in zip(offsets, blocks, strict=True)) <= total
        for i, a in enumerate(blocks):
            for j, b in enumerate(blocks[:i]):
                if a.overlaps(b):
                    assert offsets[i] + a.size <= offsets[j] or offsets[j] + b.size <= offsets[i]


def test_a_chain_needs_its_two_largest_neighbours_only():
    sizes = [6400, 640, 3200, 64, 1280]
    blocks = [Lifetime(size, step, step + 1) for step, size in enumerate(sizes)]
    assert plan(blocks)[1] == max(aligned(a) + aligned(b) for a, b in itertools.pairwise(sizes))


def test_nothing_needs_nothing():
    assert plan([]) == ([], 0)
