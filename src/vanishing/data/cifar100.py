"""Facts of CIFAR-100: the hashes of its images, its classes and its superclasses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Expected:
    """Content hashes (`vanishing.data.records.content_hash`) of the training and test images."""

    train: str
    test: str


CIFAR100 = Expected(
    train="37a2b72bd30f9438ff20798c661450f58f138c034f556846cd744a56bbb09967",
    test="b9ad4d741ee82873becf8846c246715e789a57766586a9677a8bbe26c8b30279",
)
"""The published data set: 50,000 and 10,000 images (Krizhevsky, Learning multiple layers of features, 2009)."""

# Written here and not read from a source: the content hash covers labels, not names, and a widely used Parquet mirror
# spells label 26 'cra'.
_TABLE = """
aquatic mammals: beaver dolphin otter seal whale
fish: aquarium_fish flatfish ray shark trout
flowers: orchid poppy rose sunflower tulip
food containers: bottle bowl can cup plate
fruit and vegetables: apple mushroom orange pear sweet_pepper
household electrical devices: clock keyboard lamp telephone television
household furniture: bed chair couch table wardrobe
insects: bee beetle butterfly caterpillar cockroach
large carnivores: bear leopard lion tiger wolf
large man-made outdoor things: bridge castle house road skyscraper
large natural outdoor scenes: cloud forest mountain plain sea
large omnivores and herbivores: camel cattle chimpanzee elephant kangaroo
medium-sized mammals: fox porcupine possum raccoon skunk
non-insect invertebrates: crab lobster snail spider worm
people: baby boy girl man woman
reptiles: crocodile dinosaur lizard snake turtle
small mammals: hamster mouse rabbit shrew squirrel
trees: maple_tree oak_tree palm_tree pine_tree willow_tree
vehicles 1: bicycle bus motorcycle pickup_truck train
vehicles 2: lawn_mower rocket streetcar tank tractor
"""

OFFICIAL_ARCHIVE = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
"""SHA-256 of cifar-100-python.tar.gz (169,001,437 bytes) of https://www.cs.toronto.edu/~kriz/cifar.html."""

SUPERCLASSES = {
    name: tuple(classes.split()) for name, classes in (line.split(": ") for line in _TABLE.strip().splitlines())
}
"""The five classes of each superclass (Krizhevsky 2009; https://www.cs.toronto.edu/~kriz/cifar.html)."""

CLASSES = tuple(sorted(name for classes in SUPERCLASSES.values() for name in classes))
"""Names of the labels 0 to 99: the official `meta` file has them in alphabetical order."""
