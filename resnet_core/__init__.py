"""Hold the domain of Grayline: pixels, shards, the ResNet, its training, metrics and inference.

Take arrays and tensors, return arrays and tensors. Prefect and MLflow are never imported, so a notebook can use it:

    from resnet_core.images.decode import decode
    from resnet_core.model.classifier import Classifier

    classifier = Classifier.load(folder)
    classifier.predict([decode(path.read_bytes(), classifier.preprocessing.rule)])

Shape letters: N images, B images of a batch, C classes, H rows, W columns.
"""
