"""Brain mask and tissues of a digital head, whose anatomy is not the template's."""

from __future__ import annotations

import heads
import numpy as np
import pytest
from scipy import ndimage

from cestprep.imaging import tissue
from cestprep.imaging.grid import Grid
from cestprep.imaging.registration import Options, register_template
from cestprep.imaging.transforms import apply
from cestprep.phantom import scan

VOXEL_MM = 3.0
QUICK = Options(levels=3, iterations=120, samples=2048)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope="module")
def head():
    """T1 map with noise on a coarse grid, true fractions and brain there."""
    where, subject = heads.grid(VOXEL_MM), heads.subject(0)
    fractions = {
        name: scan.sample(f, subject.anatomy.affine, where.points).reshape(where.shape)
        for name, f in scan.blur(subject, where).fractions.items()
    }
    rate = np.zeros(where.shape)
    for name, share in fractions.items():
        t1 = subject.parameters[name]["t1"].reshape(subject.coarse.shape)
        rate += share / scan.sample(t1, subject.coarse.affine, where.points).reshape(where.shape)
    noise = np.exp(0.03 * np.random.default_rng(0).standard_normal(where.shape))
    t1 = np.where(rate > 0, noise / np.maximum(rate, 1e-3), 0)
    return where, fractions, t1, heads.brain(0, where, np.eye(4))


def truth(fractions, brain):
    stack = np.stack([fractions[name] for name in tissue.TISSUES])
    return np.argmax(stack, axis=0), brain & (stack.sum(axis=0) > 0.5)


def priors(head):
    """The template's, through the true warp."""
    where, _, _, _ = head
    template, anatomy = heads.template(), heads.subject(0).anatomy
    there = np.stack([scan.sample(anatomy.to_template[..., i], anatomy.affine, where.points)
                      for i in range(3)])  # fmt: skip
    wm, gm = (scan.sample(p, template.affine, there).reshape(where.shape)
              for p in (template.wm, template.gm))  # fmt: skip
    return np.stack([wm, gm, np.clip(1 - wm - gm, 0, 1)])


def test_tissues_are_those_of_the_head(head):
    _, fractions, t1, brain = head
    found = tissue.segment(t1, brain, priors(head))
    labels, inside = truth(fractions, brain)
    for i, least in enumerate((0.9, 0.88, 0.75)):
        assert dice((np.argmax(found, axis=0) == i) & inside, (labels == i) & inside) > least
    total = found.sum(axis=0)
    np.testing.assert_allclose(total[brain & (t1 > 0)], 1, rtol=1e-5)
    assert not total[~brain].any()


def test_unusable_t1_belongs_to_no_tissue(head):
    _, _, t1, brain = head
    broken = t1.copy()
    place = tuple(np.argwhere(brain)[len(np.argwhere(brain)) // 2])
    broken[place] = np.nan
    found = tissue.segment(broken, brain, priors(head))
    assert np.isfinite(found).all()
    assert not found[(slice(None), *place)].any()


def test_template_is_found_and_gives_the_brain(head):
    """To half a voxel; what real voxels allow is measured by ``make validate``."""
    where, _, t1, brain = head
    template, anatomy = heads.template(), heads.subject(0).anatomy
    rate = np.where(t1 > 0, 1 / np.maximum(t1, 0.05), 0)
    rough = ndimage.binary_dilation(brain, iterations=2)
    image = template.wm + 0.66 * template.gm + 0.25 * (template.brain - template.wm - template.gm)
    field = register_template((np.where(brain, rate, 0), where.affine), (image, template.affine),
                              rough, options=QUICK)  # fmt: skip
    points = apply(where.affine, np.argwhere(brain).T)
    true = np.stack([scan.sample(anatomy.to_template[..., i], anatomy.affine, points)
                     for i in range(3)])  # fmt: skip
    error = np.linalg.norm(points + field[brain].T - true, axis=0)
    still = np.linalg.norm(points - true, axis=0)
    assert still.mean() > 4
    assert error.mean() < 1.5
    whole = Grid(where.shape, where.affine)
    warped = scan.sample(template.brain, template.affine,
                         apply(whole.affine, np.indices(where.shape).reshape(3, -1))
                         + field.reshape(-1, 3).T).reshape(where.shape)  # fmt: skip
    assert dice(warped > 0.5, brain) > 0.95


def test_rough_brain_is_one_piece(head):
    where, _, _, brain = head
    image = heads.recovery(0, [10.0]).volume(0, where, np.eye(4))
    found = tissue.rough_brain(image)
    assert ndimage.label(found)[1] == 1
    assert dice(found, brain) > 0.8
