import pytest
import torch

from agman.errors import InvalidInput
from agman.transforms import Augmentation, Preprocess, augment, normalise, stack_pixels


def batch(num_images: int = 64, side: int = 16) -> torch.Tensor:
    return torch.randint(
        0, 256, (num_images, 3, side, side), generator=torch.Generator().manual_seed(1)
    ).byte()


def test_preprocess_round_trip_and_digest() -> None:
    preprocess = Preprocess(image_size=256, mean=(0.5, 0.5, 0.5))
    assert Preprocess.from_json(preprocess.to_json()) == preprocess
    assert Preprocess.from_json(preprocess.to_json()).digest == preprocess.digest
    assert preprocess.digest != Preprocess().digest


def test_oversampling_makes_another_model_only_where_it_was_chosen() -> None:
    chosen = Preprocess(oversampling=1)
    assert Preprocess.from_json(chosen.to_json()) == chosen
    assert chosen.digest != Preprocess().digest
    assert "oversampling" not in Preprocess(oversampling=2).to_json()
    for wrong in (0.5, float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="oversampling"):
            Preprocess(oversampling=wrong)


def test_how_small_pictures_are_packed_is_part_of_a_model_that_saw_them_so() -> None:
    plain, packed = Preprocess(), Preprocess(packed_side=256)
    assert plain.digest == "08b7a0ae3fc5098c5ce969bfcc392413005091ef1afe307cca2f40983342f246", (
        "of before there was a choice"
    )
    assert packed.digest != plain.digest
    assert Preprocess.from_json(packed.to_json()) == packed
    assert "packed_side" not in plain.to_json()
    with pytest.raises(
        InvalidInput, match="packed_side must be 0 or at least image_size, 224 pixels, found 128"
    ):
        Preprocess(packed_side=128)


def test_other_reading_rule_is_refused() -> None:
    with pytest.raises(InvalidInput, match="reading rule 99"):
        Preprocess.from_json({**Preprocess().to_json(), "reading_rule": 99})


@pytest.mark.parametrize(
    "document", [{}, {"image_size": 224, "mean": [1], "std": [1, 1, 1]}, {"image_size": 3}]
)
def test_malformed_preprocess_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        Preprocess.from_json(document)


def test_normalise_is_the_imagenet_rule() -> None:
    pixels = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    expected = (1.0 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(normalise(pixels, Preprocess())[1, :, 2, 3], expected)


def test_normalise_gives_the_same_numbers_however_the_pixels_lie() -> None:
    planes = batch(3)
    last = stack_pixels([each.permute(1, 2, 0).contiguous().permute(2, 0, 1) for each in planes])
    assert torch.equal(last, planes)
    assert last.is_contiguous(memory_format=torch.channels_last)
    found = normalise(last, Preprocess())
    assert torch.equal(found, normalise(planes, Preprocess()))
    assert found.is_contiguous(memory_format=torch.channels_last), "convolutions need no copy"


def test_flip_mirrors_about_half_and_changes_nothing_else() -> None:
    pixels = batch()
    changed = augment(pixels, torch.Generator().manual_seed(3))
    same = (changed == pixels).flatten(1).all(1)
    mirrored = (changed == pixels.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 16 < int(mirrored.sum()) < 48


@pytest.mark.parametrize(
    "policy", [Augmentation(max_shift=0.2), Augmentation(max_zoom=0.2), Augmentation(max_colour=0.3)]
)
def test_each_change_is_seeded_and_has_an_effect(policy: Augmentation) -> None:
    pixels = batch()
    first, again = (augment(pixels, torch.Generator().manual_seed(5), policy) for _ in range(2))
    plain = augment(pixels, torch.Generator().manual_seed(5))
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)


def test_input_is_left_alone() -> None:
    pixels = batch()
    before = pixels.clone()
    augment(pixels, torch.Generator().manual_seed(5), Augmentation(flip=False)).zero_()
    augment(pixels, torch.Generator().manual_seed(5), Augmentation(max_colour=0.5)).zero_()
    assert torch.equal(pixels, before)
