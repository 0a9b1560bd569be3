"""A group's checkout, under the umask 002 and in a folder of the group: each member goes on where another has ended."""

import engines
import pytest
import users

BUILT = ["results/runs/vgg08/seed0/gradients.csv", "report/figures/core.sha256"]


@pytest.fixture
def group_folder():
    with users.shared_folder() as folder:
        yield folder


def test_each_member_builds_with_either_engine_what_the_other_has_changed(group_folder):
    checkout = group_folder / "study"
    users.lay_out(checkout)

    def by(name, *words):
        return engines.run(checkout, *users.command(name, group_folder, *words))

    first, second = users.NAMES
    by(first, "dvc", "config", "--local", "cache.shared", "group")
    by(first, "snakemake", "--cores", "1", *BUILT)
    by(second, "sed", "-i", "s/epochs: 2/epochs: 3/", "params.yaml")
    assert "vgg08, seed 0: completed after 3 of 3 epochs" in by(second, "snakemake", "--cores", "1", *BUILT)
    assert "in DVC's record: 7 " in by(first, "vanishing", "sync")
    by(first, "sed", "-i", "s/epochs: 3/epochs: 4/", "params.yaml")
    for name, run in ((first, "vgg08"), (second, "vgg14_bn")):
        printed = by(name, "dvc", "repro", f"train@{run}-0")
        assert f"{run}, seed 0: completed after 4 of 4 epochs" in printed
    assert "in Snakemake's record: 2 (train@vgg08-0, train@vgg14_bn-0)" in by(second, "vanishing", "sync")
    made = [path for part in ("results", "checkpoints", "data", "report") for path in (checkout / part).rglob("*")]
    assert {path.stat().st_mode & 0o060 for path in made} == {0o060}
    assert {path.stat().st_gid for path in made} == {users.GROUP}
