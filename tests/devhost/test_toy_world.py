"""The toy world: drawn scenes are counted exactly, windows are parts of larger pictures,
prompts name classes.
"""

from __future__ import annotations

import pytest
import torch

from devhost.tiny.counting import count_objects
from devhost.tiny.forms import CLASS_TEXTS, CROWD_TEXTS, EMPTY_CLASS, FIRST_CROWD, TEXTS, crowd_count
from devhost.tiny.scenes import random_scenes, random_several_objects
from devhost.tiny.text import class_of_prompt

SIZES = [(16, 16), (32, 32), (24, 48), (48, 48)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", SIZES)
def test_one_whole_object_is_counted_in_every_drawn_scene(size):
    scenes = random_scenes(60, size, generator())
    counts = count_objects(scenes.latents(8), scenes.classes.tolist())
    assert all(count.objects == 1 and count.whole for count in counts)


@pytest.mark.parametrize("size", SIZES)
def test_balls_are_counted_in_every_drawn_scene(size):
    scenes = random_several_objects(60, size, generator())
    classes = scenes.classes.tolist()
    assert {crowd_count(number) for number in classes} == {2, 3, 4, 5}
    counts = count_objects(scenes.latents(8), classes)
    assert [count.objects for count in counts] == [crowd_count(number) for number in classes]
    assert all(count.whole for count in counts)


def test_a_second_object_is_counted():
    """Two scenes beside each other, and one upon the other so that the objects may touch."""
    scenes = random_scenes(40, (16, 16), generator())
    pairs = torch.cat([scenes.latents(), scenes.latents().roll(1, 0)], dim=3)
    counts = count_objects(pairs, scenes.classes.tolist())
    assert [count.objects for count in counts] == [2] * 40
    assert not any(count.exactly_one or count.whole for count in counts)


def test_an_empty_picture_has_no_object():
    scenes = random_scenes(8, (16, 16), generator())
    background = scenes.latents()
    background[:, 3] = -1
    assert [count.objects for count in count_objects(background, scenes.classes.tolist())] == [0] * 8


@pytest.mark.parametrize("draw", [random_scenes, random_several_objects])
def test_a_window_is_a_part_of_the_larger_picture(draw):
    small, large = (draw(12, size, generator()) for size in ((16, 16), (32, 32)))
    zoom = torch.full((12, 1, 1), 2.0)
    windows = small.cropped(zoom, generator(1))
    corners = (32 * windows.corner[:, :, 0, 0]).round()
    windows.corner.copy_(corners[:, :, None, None] / 32)  # on whole pixels of the larger picture
    parts = [
        latent[:, top : top + 16, left : left + 16]
        for latent, (top, left) in zip(large.latents(4), corners.int().tolist(), strict=True)
    ]
    torch.testing.assert_close(windows.latents(4), torch.stack(parts), atol=1e-5, rtol=0)


def test_windows_keep_to_the_scene():
    scenes = random_scenes(200, (16, 24), generator())
    zoom = torch.linspace(1, 3, 200)[:, None, None]
    corner = scenes.cropped(zoom, generator()).corner
    assert (corner >= 0).all()
    assert (corner[:, 0] <= 1 - 1 / zoom + 1e-6).all()
    assert (corner[:, 1] <= 1.5 * (1 - 1 / zoom) + 1e-6).all()
    assert corner[0].eq(0).all()


def test_latents_are_the_pictures_reduced():
    latents, pictures = random_scenes(4, (8, 12), generator()).pairs()
    reduced = torch.nn.functional.avg_pool2d(2 * pictures - 1, 8)
    torch.testing.assert_close(latents[:, :3], reduced, atol=1e-6, rtol=0)


def test_prompts_name_their_classes():
    assert [class_of_prompt(text) for text in TEXTS] == list(range(EMPTY_CLASS))
    assert class_of_prompt("Balls: THREE, and green ones") == FIRST_CROWD + CROWD_TEXTS.index(
        "three green balls"
    )
    assert class_of_prompt("a person in red, close-up") == CLASS_TEXTS.index("a red person")


@pytest.mark.parametrize("text", ["", "a person", "red", "blue balls", "redperson"])
def test_other_prompts_are_empty(text):
    assert class_of_prompt(text) == EMPTY_CLASS
