"""CIFAR-100 and the generated images: from any source and layout to arrays of training, validation and test images."""
