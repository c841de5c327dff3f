"""Call a job's `main` in this process: what a person sees, without the seconds that a new Python imports."""

import io
import os
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

Ended = subprocess.CompletedProcess[str]


def call(job: str, *arguments: str, cwd: Path | None = None) -> Ended:
    """Run `jobs/<job>` with these words of a command line and return how it ended and what it said."""
    out, err, code, before = io.StringIO(), io.StringIO(), 0, Path.cwd()
    try:
        os.chdir(cwd or before)
        with redirect_stdout(out), redirect_stderr(err), patch("sys.argv", [f"jobs/{job}", *arguments]):
            import_module(f"jobs.{job.removesuffix('.py')}").main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        os.chdir(before)
    return Ended([job, *arguments], code, out.getvalue(), err.getvalue())
