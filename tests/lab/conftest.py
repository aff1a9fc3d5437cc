"""The embedded backbone with its adapters, loaded once."""

import pytest

from deltamem_lab.backbone import Backbone
from deltamem_lab.loading import embedded_backbone


@pytest.fixture(scope="package")
def backbone() -> Backbone:
    return embedded_backbone(batch=8)
