import subprocess
import sys

import agman


def test_public_names_are_there() -> None:
    for name in agman.__all__:
        assert getattr(agman, name).__module__.startswith("agman.") or name == "FASHIONAI"


def test_checking_images_does_not_load_torch() -> None:
    program = "import sys, agman.errors, agman.images, agman.taxonomy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
