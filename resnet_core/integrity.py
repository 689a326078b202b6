"""The former name of `resnet_core.storage.digest`, which registered versions import; see `resnet_core.classifier`."""

from resnet_core.storage.digest import DIGESTS as DIGESTS
from resnet_core.storage.digest import check_digests as check_digests
