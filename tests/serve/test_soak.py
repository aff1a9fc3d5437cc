import sys

import pytest
from scripts import benchmark


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_servers_memory_stays_flat() -> None:
    soak = benchmark("soak")
    report = soak.measure(seconds=6)
    assert report["unexpected"] == []
    assert report["turns"] >= 4
    assert report["left_early"] >= 4
    assert report["locks_at_the_end"] == 0
    assert report["grew_mib"] < 3 * soak.CEILING_MIB, report
