"""What others say about images is taken or refused with a sentence, whatever it is."""

from __future__ import annotations

import random

import pytest

from tests.fuzz import __main__ as driver
from tests.fuzz import image_archives, image_documents, image_layers
from tests.fuzz.rounds import repeat


def test_documents_of_images() -> None:
    image_documents.fuzz(seed=11, seconds=None, rounds=1500)


def test_layers_through_the_filter() -> None:
    image_layers.fuzz(seed=21, seconds=None, rounds=600)


def test_images_on_disk() -> None:
    image_archives.fuzz(seed=31, seconds=None, rounds=250)


def test_a_fault_says_how_to_repeat_it() -> None:
    def once(rng: random.Random) -> None:
        assert rng.random() != random.Random(7).random()

    with pytest.raises(AssertionError) as caught:
        repeat(5, None, 10, once)
    assert caught.value.__notes__ == ["repeat this round with seed 7, one round"]


def test_the_driver_runs_every_parser(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, int | None]] = []

    def faulty(seed: int, seconds: float | None, rounds: int | None) -> None:
        ran.append(("faulty", rounds))
        raise AssertionError("a fault")

    monkeypatch.setattr(
        driver, "parsers", lambda: {"faulty": faulty, "image_documents": image_documents.fuzz}
    )
    assert driver.main(["0.002"]) == 1
    assert "image_documents: seed" in (shown := capsys.readouterr()).out
    assert "FAULT in faulty" in shown.out
    assert driver.main(["--seed", "3", "image_documents"]) == 0
    assert driver.main(["--seed", "3", "faulty"]) == 1
    assert ran == [("faulty", None), ("faulty", 1)]


def test_the_driver_knows_the_parsers() -> None:
    assert {"image_archives", "image_documents", "image_layers", "image_unpack"} <= driver.parsers().keys()
