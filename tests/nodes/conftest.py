"""What several tests of nodes have in common."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def broken_compiler(tmp_path, monkeypatch):
    """A compiler that fails at everything, and no cache of what another one has made."""
    import torch._inductor.config as settings

    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with settings.patch({"force_disable_caches": True, "cpp.cxx": (None, "/bin/false")}):
        yield
    torch._dynamo.reset()
