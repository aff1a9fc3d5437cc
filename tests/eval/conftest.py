"""The embedded backbone with its adapters, loaded once."""

import pytest

from deltamem.eval.backbone import Backbone
from deltamem.eval.loading import embedded_backbone


@pytest.fixture(scope="package")
def backbone() -> Backbone:
    return embedded_backbone(batch=8)
