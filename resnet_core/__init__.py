"""The domain of Grayline: pixels, shards, the ResNet, its training, metrics and inference.

Arrays and tensors in, arrays and tensors out; neither Prefect nor MLflow is imported, so everything
here works from a notebook:

    from resnet_core.classifier import Classifier
    from resnet_core.grayscale import decode

    classifier = Classifier.load(folder)
    classifier.predict([decode(path.read_bytes())])

Shape letters: N images, B images of a batch, C classes, H rows, W columns.
"""
