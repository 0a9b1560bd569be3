"""What is known of CIFAR-100 before any of it is here: the hashes of its images, and the names of its classes."""

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

# Fixed here and not read from the source: the label of each image is proven by the content hash, its name is
# not, and a much-used Parquet mirror spells label 26 'cra'.
CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905 - a hundred quoted names read worse
)
"""Names of the labels 0 to 99, in the order of the official `meta` file, which is the alphabet's."""
