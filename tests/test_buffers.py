"""Memory that is used again: never while anybody still holds it."""

import gc
import threading

import pytest

from wildstream.stream.buffers import SMALLEST_BYTES, Buffers

BIG = (4, SMALLEST_BYTES)


def test_memory_is_used_again():
    buffers = Buffers()
    first = buffers.take(BIG)
    place = first.data_ptr()
    assert buffers.free_bytes == 0
    del first
    assert buffers.free_bytes == 4 * SMALLEST_BYTES
    assert buffers.take((4, SMALLEST_BYTES - 100)).data_ptr() == place


@pytest.mark.parametrize(
    "view",
    [
        lambda tensor: tensor[1],
        lambda tensor: tensor.unsqueeze(0).permute(2, 1, 0),
        lambda tensor: tensor.numpy(),
        lambda tensor: memoryview(tensor.numpy()),
        lambda tensor: tensor.untyped_storage(),
        lambda tensor: tensor.detach().view(-1)[:1],
    ],
)
def test_memory_is_held_by_any_view_of_it(view):
    buffers = Buffers()
    kept = view(buffers.take(BIG))
    gc.collect()
    assert buffers.free_bytes == 0
    del kept
    gc.collect()
    assert buffers.free_bytes == 4 * SMALLEST_BYTES


def test_two_tensors_never_share_memory():
    buffers = Buffers()
    held = []
    for value in range(50):
        tensor = buffers.take(BIG).fill_(value)
        held.append((tensor, value))
        if value % 3 == 0:
            del held[0]
        del tensor
    assert all(bool((tensor == value).all()) for tensor, value in held)


def test_little_is_not_given_much():
    buffers = Buffers()
    del (large := {0: buffers.take(BIG)})[0]
    assert not large
    small = buffers.take((1, SMALLEST_BYTES))
    assert buffers.free_bytes == 4 * SMALLEST_BYTES, "a quarter of the memory is too little to take it"
    assert small.shape == (1, SMALLEST_BYTES)


def test_what_is_kept_is_bounded():
    buffers = Buffers(kept_bytes=10 * SMALLEST_BYTES)
    held = [buffers.take(BIG) for _ in range(8)]
    held.clear()
    assert buffers.free_bytes == 8 * SMALLEST_BYTES, "two of four rows each are within ten"


def test_threads_do_not_get_the_same_memory():
    buffers = Buffers()
    wrong = []

    def work(value):
        for _ in range(300):
            tensor = buffers.take(BIG).fill_(value)
            if not bool((tensor == value).all()):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
