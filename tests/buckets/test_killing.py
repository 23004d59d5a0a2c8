"""Publishers that are killed or race, on a bad network; benchmarks/bucket.py does it for long."""

import random
from pathlib import Path

from tests.buckets.killing import kills, made_up, race
from tests.buckets.proxy import proxy
from tests.shards.s3_server import new_bucket, s3_clients, s3_environment, s3_server


def test_killed_or_replaced_on_a_bad_network_the_newest_published_state_comes_back(
    tmp_path: Path,
) -> None:
    with (
        s3_server() as server,
        s3_clients(**s3_environment(server)),
        proxy(server.address, seed=1, chance=0.1) as between,
    ):
        runs = f"s3://{new_bucket(server)}/runs"
        env = {**s3_environment(server), "AWS_ENDPOINT_URL": between.instead_of(server.address)}
        with s3_clients(**env):
            found = [*kills(made_up(4), f"{runs}/a", tmp_path, random.Random(0), 0.3, 0.2, env)]
            ended = race(made_up(3), f"{runs}/b", tmp_path / "race", random.Random(0), env)
    assert found[-1].step == 8
    assert any(kill.began for kill in found)
    assert ended is not None
    assert between.met.total() > between.met["none"] > 30
