"""models/data/loading.py: films reach the device unchanged, whichever way they take."""

from dataclasses import replace

import numpy as np
import torch

from models.data.loading import Pixels, cache_on_gpu, gather, send, upload

FILMS = np.random.default_rng(0).integers(0, 256, (7, 8, 8), dtype=np.uint8)
ROWS = np.array([5, 0, 5, 3])


def test_films_come_in_the_order_asked_for():
    assert np.array_equal(gather(FILMS, ROWS, "cpu").numpy(), FILMS[ROWS])


def test_a_processor_keeps_no_second_copy():
    assert cache_on_gpu(FILMS, "cpu") is None


def test_an_upload_in_pieces_is_whole(monkeypatch):
    monkeypatch.setattr("models.data.loading.CHUNK_BYTES", 2 * 64)
    assert np.array_equal(upload(FILMS, "cpu").numpy(), FILMS)


def test_batches_are_the_same_from_the_map_and_from_the_device():
    pixels = Pixels(images=FILMS, mean=0.5, std=0.25, size=8, device="cpu")
    there = replace(pixels, store={"films": upload(FILMS, "cpu")})
    assert torch.equal(pixels.batch(ROWS), there.batch(ROWS))
    assert replace(there, on_batch=None).store is there.store  # a copy uploads nothing again


def test_small_arrays_keep_their_kind():
    assert send(np.array([True, False]), "cpu").dtype == torch.bool
