"""The former name of `resnet_core.model.classifier`, which registered versions import.

A version carries a copy of the code that it was made with. A process that has already imported this package
keeps this one: `mlflow.pyfunc.load_model` then loads old weights with today's classifier, as `classify-batch` does.
"""

from resnet_core.model.classifier import Classifier as Classifier
