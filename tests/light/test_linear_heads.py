import numpy as np
import pytest

from maskwise.tasks.linear_heads import Part, Trial, choose_head, class_weights, fit_head

HEADS = [("linear", 1.0), ("mean", 1.0), ("mean", 0.2)]


def blobs(rng, classes=3, each=12, features=8, spread=1.0):
    """Regions around a centre a class; gives embeddings and class indices."""
    targets = np.repeat(np.arange(classes), each)
    return 4 * np.eye(classes, features)[targets] + spread * rng.normal(size=(len(targets), features)), targets


@pytest.mark.parametrize(("kind", "strength"), HEADS)
@pytest.mark.parametrize("classes", [2, 3])
def test_classes_that_lie_apart_are_told_apart(kind, strength, classes, rng):
    embeddings, targets = blobs(rng, classes)
    head = fit_head(kind, strength, embeddings, targets)
    assert head.weight.shape == (classes, 8)
    others, right = blobs(rng, classes)
    assert (head.logits(others).argmax(axis=1) == right).mean() > 0.9


@pytest.mark.parametrize(("kind", "strength"), HEADS)
def test_unit_and_origin_of_the_embeddings_do_not_matter(kind, strength, rng):
    embeddings, targets = blobs(rng)
    plain = fit_head(kind, strength, embeddings, targets).logits(embeddings)
    moved = fit_head(kind, strength, 7 * embeddings - 3, targets).logits(7 * embeddings - 3)
    np.testing.assert_allclose(np.diff(moved), np.diff(plain), atol=1e-3)


@pytest.mark.parametrize(("kind", "strength"), HEADS)
def test_order_of_regions_does_not_matter_and_classes_may_be_renumbered(kind, strength, rng):
    embeddings, targets = blobs(rng)
    order = rng.permutation(len(targets))
    plain = fit_head(kind, strength, embeddings, targets).logits(embeddings)
    shuffled = fit_head(kind, strength, embeddings[order], targets[order]).logits(embeddings)
    renumbered = fit_head(kind, strength, embeddings, np.array([2, 0, 1])[targets]).logits(embeddings)
    np.testing.assert_allclose(np.diff(shuffled), np.diff(plain), atol=1e-3)
    np.testing.assert_allclose(np.diff(renumbered[:, [2, 0, 1]]), np.diff(plain), atol=1e-3)


def test_round_mean_head_names_the_nearest_mean(rng):
    embeddings, targets = blobs(rng, spread=3.0)
    means = np.stack([embeddings[targets == index].mean(axis=0) for index in range(3)])
    others = 4 * rng.normal(size=(50, 8))
    nearest = np.linalg.norm(others[:, None] - means, axis=2).argmin(axis=1)
    assert (fit_head("mean", 1.0, embeddings, targets).logits(others).argmax(axis=1) == nearest).all()


def test_mean_head_discounts_directions_in_which_a_class_spreads():
    # Two classes differ by 1 in the second feature; the first feature is noise of size 10.
    noise = np.array([-10.0, 10, -9, 9])
    embeddings = np.column_stack([np.tile(noise, 2), np.repeat([0.0, 1.0], 4)])
    targets = np.repeat([0, 1], 4)
    asked = np.array([[10.0, 0.1], [-10.0, 0.9]])
    assert fit_head("mean", 0.01, embeddings, targets).logits(asked).argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("regions", [7, 40])
def test_mean_head_is_shrunk_discriminant_analysis(rng, regions):
    """The textbook's formula, with an inverse: fewer regions than features, and more."""
    targets = np.arange(regions) % 3
    embeddings = rng.normal(size=(regions, 12)) * np.linspace(1, 3, 12) + rng.normal(size=(3, 12))[targets]
    means = np.stack([embeddings[targets == index].mean(axis=0) for index in range(3)])
    inside = embeddings - means[targets]
    covariance = inside.T @ inside / (regions - 3)
    shrunk = 0.8 * covariance + 0.2 * np.trace(covariance) / 12 * np.eye(12)
    expected = means @ np.linalg.inv(shrunk) / np.sqrt(12)
    weight = fit_head("mean", 0.2, embeddings, targets).weight
    np.testing.assert_allclose(weight - weight[0], expected - expected[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("kind", "strength"), HEADS)
def test_one_region_a_class_is_enough(kind, strength):
    head = fit_head(kind, strength, np.eye(3), np.arange(3))
    assert head.logits(np.eye(3)).argmax(axis=1).tolist() == [0, 1, 2]


def test_classes_count_by_the_root_of_their_regions():
    targets = np.repeat([0, 1, 2], [1, 4, 25])
    weights = class_weights(targets)
    totals = np.bincount(targets, weights)
    np.testing.assert_allclose(totals / totals[0], [1, 2, 5])
    assert weights.mean() == pytest.approx(1)


def test_trials_are_judged_on_images_they_have_not_seen(rng):
    # Every image has its own look and a random class: whoever has seen the image knows, nobody else can.
    images = np.repeat(np.arange(20), 5)
    targets = rng.permutation(np.repeat([0, 1], 10))[images]
    looks = 5 * rng.normal(size=(20, 16))
    embeddings = looks[images] + 0.01 * rng.normal(size=(100, 16))
    trials = choose_head("auto", embeddings, targets, images)
    assert all(trial.micro < 0.75 for trial in trials)
    head = fit_head("linear", 10.0, embeddings, targets)
    assert (head.logits(embeddings).argmax(axis=1) == targets).all()


def test_best_trial_comes_first_and_kinds_can_be_asked_for(rng):
    embeddings, targets = blobs(rng, spread=2.0)
    images = np.tile(np.arange(12), 3)
    trials = choose_head("auto", embeddings, targets, images)
    assert {tuple(part.kind for part in trial.parts) for trial in trials} == {
        ("linear",),
        ("mean",),
        ("linear", "mean"),
    }
    assert [trial.likelihood for trial in trials] == sorted((trial.likelihood for trial in trials), reverse=True)
    of_mean = choose_head("mean", embeddings, targets, images)
    assert {trial.parts[0].kind for trial in of_mean} == {"mean"}
    assert 0.5 < trials[0].micro <= 1
    assert trials[0].likelihood > np.log(1 / 3)


@pytest.mark.parametrize("images", [np.arange(3), np.zeros(3, dtype=int)])
def test_nothing_is_claimed_where_nothing_can_be_tried(images):
    (trial,) = choose_head("auto", np.eye(3), np.arange(3), images)
    assert (trial.name, trial.micro, trial.temperature) == ("linear 1", None, 1.0)
    (trial,) = choose_head("mean", np.eye(3), np.arange(3), images)
    assert (trial.name, trial.micro) == ("mean 1", None)


def test_classes_of_one_image_are_not_counted(rng):
    embeddings, targets = blobs(rng)
    images = np.concatenate([np.tile(np.arange(6), 4), np.full(12, 6)])  # The third class is in one image alone.
    trials = choose_head("linear", embeddings, targets, images)
    assert all(trial.micro > 0.9 for trial in trials)
    assert {(trial.regions, trial.classes) for trial in trials} == {(24, 2)}


def test_one_class_alone_judges_nothing(rng):
    """Every region of it would be named right, and every probability be 1."""
    embeddings, targets = blobs(rng)
    images = np.concatenate([np.arange(12), np.full(24, 12)])  # The first class alone is in several images.
    (trial,) = choose_head("linear", embeddings, targets, images)
    assert (trial.micro, trial.temperature) == (None, 1.0)


def test_sum_of_heads_is_a_head(rng):
    embeddings, targets = blobs(rng)
    parts = (Part("linear", 1.0, 0.25), Part("mean", 0.5, 2.0))
    each = [part.share * fit_head(part.kind, part.strength, embeddings, targets).logits(embeddings) for part in parts]
    together = Trial(parts).fit(embeddings, targets)
    np.testing.assert_allclose(together.logits(embeddings), sum(each), atol=1e-9)


def test_parts_of_a_sum_weigh_the_same_once_calibrated(rng):
    embeddings, targets = blobs(rng, spread=2.0)
    trials = choose_head("auto", embeddings, targets, np.tile(np.arange(12), 3))
    (both,) = (trial for trial in trials if len(trial.parts) == 2)
    alone = {trial.name: trial.temperature for trial in trials}
    for part in both.parts:
        assert part.share == pytest.approx(1 / (2 * alone[f"{part.kind} {part.strength:g}"]))


def test_few_regions_that_are_all_named_right_do_not_make_sure(rng):
    embeddings, targets = blobs(rng, classes=2, each=6, spread=0.5)
    trials = choose_head("auto", embeddings, targets, np.tile(np.arange(6), 2))
    assert all(trial.micro == 1.0 for trial in trials)
    assert all(trial.temperature > 0.2 for trial in trials)  # The likeliest temperature is 0.
    logits = trials[0].fit(embeddings, targets).logits(embeddings.mean(axis=0, keepdims=True))
    sure = 1 / (1 + np.exp(-abs(np.diff(logits / trials[0].temperature))))
    assert sure < 0.8  # Between the two.
