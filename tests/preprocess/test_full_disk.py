"""A file that the system refuses to write ends a program of preprocess in one sentence that names it."""

import resource
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# a limit for one file, which raises EFBIG in place of ENOSPC: it needs no disk of its own
LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = {argv}
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run_limited(limit, *argv):
    code = LIMITED.format(limit=limit, argv=list(map(str, argv)))
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ") or not hasattr(resource, "RLIMIT_FSIZE"), reason="not a Unix")
def test_the_demo_s_csv_that_cannot_be_written_is_named(tmp_path):
    done = run_limited(2**16, "preprocess.make_demo", "--out", tmp_path / "demo")  # pictures are smaller, train.csv not
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "train.csv: cannot be written (File too large); nothing of it is left" in done.stderr
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ") or not hasattr(resource, "RLIMIT_FSIZE"), reason="not a Unix")
def test_a_download_that_cannot_be_written_goes_on_later(tmp_path):
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.bin").write_bytes(bytes(2**18))

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path / "served")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/a.bin"
    done = run_limited(2**16, "preprocess.download", address, "--out", tmp_path / "out")
    server.shutdown()
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "cannot be written (File too large); what is there is kept" in done.stderr
