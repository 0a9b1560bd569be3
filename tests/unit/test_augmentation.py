import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from vanishing.training import augmentation


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (200, 3, 32, 32), dtype=np.uint8))


def test_each_image_is_cropped_and_flipped_as_torchvision_does(images):
    draws = augmentation.draw(len(images), seed=3, epoch=2)
    chosen = images[draws.order]
    augmented = augmentation.augment(chosen, draws)
    assert (augmented.dtype, augmented.shape) == (torch.uint8, images.shape)
    for image, after, (top, left), flip in zip(
        chosen, augmented, draws.offsets.tolist(), draws.flips.tolist(), strict=True
    ):
        expected = reference.crop(reference.pad(image, [4]), top, left, 32, 32)
        assert torch.equal(after, reference.horizontal_flip(expected) if flip else expected)


def test_the_middle_crop_without_a_flip_changes_nothing(images):
    draws = augmentation.Draws(torch.arange(200), torch.full((200, 2), 4), torch.zeros(200, dtype=torch.bool))
    assert torch.equal(augmentation.augment(images, draws), images)


def test_a_crop_at_the_corner_brings_black_rows_and_columns(images):
    draws = augmentation.Draws(torch.arange(1), torch.tensor([[0, 8]]), torch.tensor([False]))
    augmented = augmentation.augment(images[:1], draws)[0]
    assert augmented[:, :4].sum() == 0
    assert augmented[:, :, 28:].sum() == 0
    assert torch.equal(augmented[:, 4:, :28], images[0, :, :28, 4:])


def test_normalising_equals_torchvision(images):
    scaled = reference.to_dtype(images, torch.float32, scale=True)
    expected = reference.normalize(scaled, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    normalised = augmentation.normalise(images)
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised, expected, rtol=0, atol=2e-6)


def test_normalising_by_hand():
    white = augmentation.normalise(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))[0, :, 0, 0]
    by_hand = [(1 - 0.4914) / 0.2023, (1 - 0.4822) / 0.1994, (1 - 0.4465) / 0.2010]
    assert white.tolist() == pytest.approx(by_hand, rel=1e-6)


def test_the_draws_of_seed_0_and_epoch_1_are_these():
    draws = augmentation.draw(10, seed=0, epoch=1)
    assert draws.order.tolist() == [5, 6, 1, 2, 0, 8, 9, 3, 7, 4]
    assert draws.offsets.tolist() == [[0, 2], [3, 1], [8, 4], [0, 3], [6, 2], [7, 6], [6, 8], [7, 6], [0, 7], [8, 8]]
    assert draws.flips.tolist() == [False, False, False, False, True, True, True, False, True, False]


def as_lists(draws):
    return draws.order.tolist(), draws.offsets.tolist(), draws.flips.tolist()


def test_the_draws_depend_on_seed_and_epoch_alone():
    first = as_lists(augmentation.draw(100, seed=5, epoch=7))
    state = torch.get_rng_state()
    torch.rand(3)
    assert as_lists(augmentation.draw(100, seed=5, epoch=7)) == first
    torch.set_rng_state(state)
    augmentation.draw(100, seed=5, epoch=7)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("seed", "epoch"), [(5, 8), (6, 7), (7, 5), (0, 7)])
def test_another_seed_or_epoch_draws_anew(seed, epoch):
    first, other = as_lists(augmentation.draw(100, seed=5, epoch=7)), as_lists(augmentation.draw(100, seed, epoch))
    assert all(one != another for one, another in zip(first, other, strict=True))


def test_the_largest_seed_and_epoch_can_be_drawn_from():
    drawn = {str(as_lists(augmentation.draw(50, seed, 2**20 - 1))) for seed in (0, 1, 2**31 - 1)}
    assert len(drawn) == 3


def test_the_order_is_a_permutation():
    order = augmentation.draw(1000, seed=1, epoch=1).order
    assert order.tolist() != list(range(1000))
    assert sorted(order.tolist()) == list(range(1000))


def test_every_offset_from_0_to_8_is_as_likely():
    offsets = augmentation.draw(9000, seed=0, epoch=1).offsets
    for axis in (0, 1):
        counts = np.bincount(offsets[:, axis].numpy())
        assert len(counts) == 9
        assert ((counts > 1000 - 150) & (counts < 1000 + 150)).all()  # five standard deviations of 30


def test_half_of_the_images_are_flipped():
    flips = augmentation.draw(10_000, seed=0, epoch=1).flips.sum().item()
    assert 5000 - 250 < flips < 5000 + 250  # five standard deviations of 50


def test_a_batch_is_the_part_of_the_plan_and_the_last_one_may_be_short():
    draws = augmentation.draw(10, seed=0, epoch=1)
    parts = [draws.batch(start, 4) for start in (0, 4, 8)]
    assert [len(part.order) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([part.order for part in parts]), draws.order)
    assert torch.equal(torch.cat([part.offsets for part in parts]), draws.offsets)
    assert torch.equal(torch.cat([part.flips for part in parts]), draws.flips)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_crops_and_flips_the_same(images):
    draws = augmentation.draw(len(images), seed=3, epoch=2)
    device = torch.device("cuda")
    on_cuda = augmentation.augment(images.to(device), draws.to(device))
    assert torch.equal(on_cuda.cpu(), augmentation.augment(images, draws))
    torch.testing.assert_close(
        augmentation.normalise(on_cuda).cpu(), augmentation.normalise(on_cuda.cpu()), rtol=1e-6, atol=1e-6
    )
