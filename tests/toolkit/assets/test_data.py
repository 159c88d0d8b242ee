"""The packaged data sets: how many rows of what, in which order."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from conditional_adapters.errors import AssetError, ConfigError
from conditional_adapters.toolkit.assets import (
    ASSETS,
    FASHION_MNIST_CLASSES,
    bbc_news,
    fashion_mnist,
    newsgroups,
)
from conditional_adapters.toolkit.assets._catalogue import locate


@pytest.fixture(scope="module")
def articles(needs):
    needs("bbc_news")
    return bbc_news()


def test_bbc_news_has_the_published_number_of_articles_of_each_class(articles):
    assert Counter(article.label for article in articles) == {
        "business": 510,
        "entertainment": 386,
        "politics": 417,
        "sports": 511,
        "tech": 401,
    }


def test_bbc_news_is_in_the_order_of_its_files(articles):
    sources = [article.source for article in articles]
    assert sources == sorted(set(sources))
    assert (sources[0], sources[-1]) == ("business/001.txt", "tech/401.txt")
    assert all(a.source.startswith(f"{a.label}/") for a in articles)
    assert bbc_news() == articles


def test_bbc_news_articles_are_those_of_the_files(articles):
    folder = locate(ASSETS["bbc_news"])
    assert len(list(folder.rglob("*.txt"))) == len(articles)
    claxton = next(article for article in articles if article.source == "sports/001.txt")
    assert claxton.text.startswith("Claxton hunting first major medal\n\nBritish hurdler")
    for article in articles[::50]:
        # The packaged files are UTF-8, except for one byte in one of them.
        raw = (folder / article.source).read_text(encoding="utf-8", errors="strict")
        assert article.text == raw.strip()


def test_bbc_news_has_pounds_and_no_other_character_beyond_ascii(articles):
    beyond = Counter(c for article in articles for c in article.text if not c.isascii())
    assert beyond == {"£": 1403}


def test_bbc_news_repeats_98_texts_with_their_label(articles):
    assert len({article.text for article in articles}) == 2127
    assert len({(article.text, article.label) for article in articles}) == 2127


def test_a_changed_article_is_refused(fake_package):
    path = fake_package("bbc_news", b"")
    path.unlink()
    (path / "tech").mkdir(parents=True)
    (path / "tech" / "001.txt").write_text("Nothing happened")
    with pytest.raises(AssetError, match=rf"data has the SHA-256 .*{ASSETS['bbc_news'].sha256}"):
        bbc_news()


@pytest.mark.parametrize("split, rows, fewest", [("train", 11_293, 377), ("test", 7_528, 251)])
def test_newsgroups_are_the_division_by_date(needs, split, rows, fewest):
    needs(f"20newsgroups/{split}")
    posts = newsgroups(split)
    assert len(posts) == rows
    counts = Counter(post.label for post in posts)
    assert len(counts) == 20
    assert min(counts.items(), key=lambda item: item[1]) == ("talk.religion.misc", fewest)
    assert all(post.text and set(post.text) <= set(" abcdefghijklmnopqrstuvwxyz") for post in posts)
    path = locate(ASSETS[f"20newsgroups/{split}"])
    raw = list(csv.reader(path.read_text(encoding="ascii").splitlines(), delimiter="\t"))
    assert [row[0] for row in raw if row][3:] == [post.label for post in posts]


@pytest.mark.parametrize("split, rows", [("train", 60_000), ("test", 10_000)])
def test_fashion_mnist_is_complete_and_balanced(needs, split, rows):
    needs("fashion_mnist/train/images")
    images, labels = fashion_mnist(split)
    assert images.shape == (rows, 28, 28)
    assert images.dtype == labels.dtype == np.uint8
    assert images.flags.writeable
    assert np.bincount(labels).tolist() == [rows // 10] * len(FASHION_MNIST_CLASSES)


def test_fashion_mnist_pictures_belong_to_their_labels(needs):
    needs("fashion_mnist/train/images")
    images, labels = fashion_mnist("train")
    unseen, answers = fashion_mnist("test")
    # A picture is closest to the mean of its own class more often than not (chance: 0.1).
    means = np.stack([images[labels == c].mean(0).ravel() for c in range(10)])
    distances = ((unseen[:1000].reshape(-1, 1, 784) - means) ** 2).sum(-1)
    assert (distances.argmin(1) == answers[:1000]).mean() > 0.6
    # Trousers (1) leave the corners of the picture empty, bags (8) fill most of it.
    assert images[labels == FASHION_MNIST_CLASSES.index("Bag")].mean() > 80
    assert images[labels == FASHION_MNIST_CLASSES.index("Trouser")][:, :, 0].mean() < 5


def test_fashion_mnist_can_be_read_from_another_folder(needs, tmp_path):
    needs("fashion_mnist/train/images")
    for part in ("images", "labels"):
        asset = ASSETS[f"fashion_mnist/test/{part}"]
        (tmp_path / asset.file).symlink_to(Path(asset.folder) / asset.file)
    for ours, theirs in zip(
        fashion_mnist("test", directory=tmp_path), fashion_mnist("test"), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_an_unknown_split_is_an_error():
    with pytest.raises(ConfigError, match="Fashion-MNIST must be 'train' or 'test', got 'valid'"):
        fashion_mnist("valid")
