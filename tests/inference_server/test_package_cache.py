"""The folder of compiled UNets: what is left in it by processes that were ended, and what others still use."""

import os
import subprocess
import sys
import time
from pathlib import Path

from inference_server.engines.package_cache import PackageCache


def test_what_compilers_have_done_outlives_a_process_that_is_ended(tmp_path: Path) -> None:
    """The engine that falls asleep in the middle takes its compiler along; the next one finds what that one kept."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from inference_server.engines.package_cache import PackageCache\n"
        "cache = PackageCache(Path(sys.argv[1]))\n"
        "with cache.scratch() as scratch, cache.compiler_cache() as kept:\n"
        "    (kept / 'kernel').touch(); print(scratch, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        scratch = Path(other.stdout.readline().strip())
        long_ago_s = time.time() - 1000
        os.utime(scratch, (long_ago_s, long_ago_s))
        PackageCache(tmp_path)
        assert scratch.exists(), "it belongs to a living process"
        other.kill()
    cache = PackageCache(tmp_path)
    assert not scratch.exists()
    with cache.compiler_cache() as kept:
        assert (kept / "kernel").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_was_cut_short_once_or_still_goes_on_is_no_verdict(tmp_path: Path) -> None:
    """A server that ends in the middle, or another process at the same package, does not cost a good one."""
    cache, made = PackageCache(tmp_path / "cache"), tmp_path / "made.pt2"
    made.touch()
    cache.put("digest", made)
    PackageCache(tmp_path / "cache").begin_trial("digest")  # and is gone
    assert cache.find("digest") is not None
    living = PackageCache(tmp_path / "cache")
    living.begin_trial("digest")
    assert cache.find("digest") is not None
    del living
    assert cache.find("digest") is None
