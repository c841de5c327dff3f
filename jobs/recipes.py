"""Named configurations: the good ones, in code, to start from and to vary by flags."""

from pipelines.nightly import NightConfig

DEMO_LAKE = "./demo-lake"
DEMO_SOURCE = "generated:num_images=3000,seed=0,night=1"

NIGHT = {
    "catalog": ("a shop's own catalog", NightConfig(lake="./lake", source="./pictures")),
    "demo": ("the generated demo catalog", NightConfig(lake=DEMO_LAKE, source=DEMO_SOURCE)),
}
