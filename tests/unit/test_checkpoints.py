import json
import pickle
import threading

import pytest
import torch
from safetensors.torch import load, save

from vanishing.errors import UserError
from vanishing.training import checkpoints
from vanishing.training.checkpoints import CheckpointError
from vanishing.training.streams import Stream

TENSORS = {
    "weight": torch.linspace(-1, 1, 24).reshape(2, 3, 4),
    "count": torch.tensor(7),
    "half": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
    "sums": torch.tensor([1e-300, 3.0], dtype=torch.float64),
    "empty": torch.zeros(0, 3),
}
VALUES = {"epoch": 3, "history": [{"loss": 0.1, "name": "é"}], "nothing": None, "infinite": float("inf")}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "state.safetensors"
    checkpoints.write(path, TENSORS, VALUES)
    return path


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        checkpoints.read(path)
    message = str(caught.value)
    assert isinstance(caught.value, UserError)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message.removeprefix(f"{path}: ")


def test_tensors_and_values_come_back_as_they_were(path):
    tensors, values = checkpoints.read(path)
    assert values == VALUES
    assert sorted(tensors) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_nan_and_negative_zero_come_back_bit_by_bit(tmp_path):
    path = tmp_path / "x.safetensors"
    odd = torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])
    checkpoints.write(path, {"odd": odd})
    assert torch.equal(checkpoints.read(path)[0]["odd"].view(torch.int32), odd.view(torch.int32))


def test_tensors_in_any_memory_order_that_ask_for_gradients_can_be_kept(tmp_path):
    weight = torch.rand(2, 3, 4, 4, requires_grad=True).to(memory_format=torch.channels_last)
    checkpoints.write(tmp_path / "x.safetensors", {"weight": weight})
    assert torch.equal(checkpoints.read(tmp_path / "x.safetensors")[0]["weight"], weight.detach())


def test_the_bytes_hang_on_the_content_alone(path, tmp_path):
    other = tmp_path / "folder" / "another name"
    checkpoints.write(other, dict(reversed(TENSORS.items())), dict(reversed(VALUES.items())))
    assert other.read_bytes() == path.read_bytes()
    checkpoints.write(other, TENSORS, VALUES | {"epoch": 4})
    assert other.read_bytes() != path.read_bytes()


def test_nothing_else_is_left_in_the_folder(path):
    checkpoints.write(path, {"weight": torch.ones(2)})
    assert [file.name for file in path.parent.iterdir()] == ["state.safetensors"]
    assert checkpoints.read(path)[1] == {}


def test_a_failed_write_leaves_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoints.write(path, TENSORS, {"object": object()})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["state.safetensors"]


def test_every_flipped_bit_is_noticed(path):
    content = path.read_bytes()
    for place in {*range(0, 24), *range(24, len(content), len(content) // 60), len(content) - 1}:
        for bit in (1, 128):
            damaged = bytearray(content)
            damaged[place] ^= bit
            path.write_bytes(damaged)
            assert refusal(path).startswith("damaged"), f"byte {place}"


def test_a_truncated_or_lengthened_file_is_noticed(path):
    content = path.read_bytes()
    for length in (0, 1, 7, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert refusal(path).startswith("damaged")
    path.write_bytes(content + b"\0")
    assert refusal(path).startswith("damaged")


def test_the_same_tensors_in_other_bytes_are_noticed(path):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    path.write_bytes((size + 8).to_bytes(8, "little") + content[8 : 8 + size] + b" " * 8 + content[8 + size :])
    assert torch.equal(load(path.read_bytes())["weight"], TENSORS["weight"])
    assert refusal(path) == "damaged: its content does not have the SHA-256 written in it"


def test_a_missing_file_is_answered_with_what_makes_it(tmp_path):
    assert (
        refusal(tmp_path / "best.safetensors")
        == "missing; `dvc pull` brings it if it was pushed, `vanishing train` makes it"
    )


def test_a_directory_is_no_checkpoint(tmp_path):
    assert refusal(tmp_path) == "damaged or no checkpoint of this project (IsADirectoryError)"


class Malicious:
    def __reduce__(self):
        return print, ("a pickle was run",)


def test_a_pickle_is_never_run(tmp_path, capsys):
    for name, content in (("plain", pickle.dumps(Malicious())), ("torch", None)):
        path = tmp_path / name
        if content is None:
            torch.save({"weight": Malicious()}, path)
        else:
            path.write_bytes(content)
        assert refusal(path).startswith("damaged or no checkpoint of this project")
    assert capsys.readouterr().out == ""


ENVELOPES = {
    "no metadata": None,
    "foreign metadata": {"format": "pt"},
    "no JSON": {checkpoints.KEY: "values"},
    "JSON of another kind": {checkpoints.KEY: "[1]"},
    "no values": {checkpoints.KEY: "{}"},
    "no hash": {checkpoints.KEY: json.dumps({"values": {}})},
    "another hash": {checkpoints.KEY: json.dumps({"sha256": "0" * 64, "values": {}})},
    "deep JSON": {checkpoints.KEY: "[" * 100_000},
}


@pytest.mark.parametrize("metadata", ENVELOPES.values(), ids=ENVELOPES)
def test_a_foreign_safetensors_file_is_refused(tmp_path, metadata):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(save({"weight": torch.ones(3)}, metadata))
    assert refusal(path).startswith("damaged")


def test_what_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 11)
    with pytest.raises(
        UserError, match=r"c\.safetensors: would have 12 bytes; the limit is 11: a smaller network fits$"
    ):
        checkpoints.write(tmp_path / "c.safetensors", {"weight": torch.ones(3)})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def held(monkeypatch):
    """Hold every write back until the event is set; a failing test lets them go too."""
    release, write = threading.Event(), checkpoints.write

    def slow(*arguments):
        assert release.wait(60)
        write(*arguments)

    monkeypatch.setattr(checkpoints, "write", slow)
    yield release
    release.set()


def test_a_writer_goes_on_at_once_and_writes_the_tensors_as_they_were(held, tmp_path):
    path, weight = tmp_path / "state.safetensors", torch.ones(2)
    with checkpoints.Writer(Stream()) as writer:
        writer.write(path, {"weight": weight}, VALUES)
        weight.zero_()
        assert not path.exists()
        held.set()
    tensors, values = checkpoints.read(path)
    assert tensors["weight"].tolist() == [1, 1]
    assert values == VALUES


def test_a_writer_gives_the_bytes_of_a_plain_write(path, tmp_path):
    with checkpoints.Writer(Stream()) as writer:
        writer.write(tmp_path / "later.safetensors", TENSORS, VALUES)
        writer.wait()
        assert (tmp_path / "later.safetensors").read_bytes() == path.read_bytes()


def test_a_writer_keeps_the_order_and_waits_when_too_much_is_under_way(held, tmp_path):
    path = tmp_path / "state.safetensors"
    threading.Timer(0.2, held.set).start()
    with checkpoints.Writer(Stream()) as writer:
        for epoch in range(checkpoints.PENDING + 1):
            writer.write(path, TENSORS, {"epoch": epoch})
        assert held.is_set(), "the last write did not wait for the first"
    assert checkpoints.read(path)[1] == {"epoch": checkpoints.PENDING}


def test_what_cannot_be_written_is_told_and_nothing_is_written_after_it(held, tmp_path):
    (tmp_path / "file").touch()
    later = tmp_path / "later.safetensors"
    with pytest.raises(OSError, match="file"), checkpoints.Writer(Stream()) as writer:
        writer.write(tmp_path / "file" / "snapshot.safetensors", TENSORS)
        writer.write(later, TENSORS)
        held.set()
    assert not later.exists()


def test_an_error_of_the_training_is_not_hidden_by_one_of_a_write(held, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ZeroDivisionError), checkpoints.Writer(Stream()) as writer:
        writer.write(tmp_path / "file" / "snapshot.safetensors", TENSORS)
        held.set()
        raise ZeroDivisionError


def test_a_writer_on_a_cpu_asks_nothing_of_a_gpu(monkeypatch, tmp_path):
    monkeypatch.delattr(torch, "cuda")
    with checkpoints.Writer(Stream()) as writer:
        writer.write(tmp_path / "state.safetensors", {"weight": torch.ones(2)})
    assert (tmp_path / "state.safetensors").exists()


def test_an_error_of_a_write_reaches_every_later_call(tmp_path):
    (tmp_path / "file").touch()
    writer = checkpoints.Writer(Stream())
    writer.write(tmp_path / "file" / "snapshot.safetensors", TENSORS)
    for _ in range(2):
        with pytest.raises(OSError, match="file"):
            writer.wait()
        with pytest.raises(OSError, match="file"):
            writer.write(tmp_path / "state.safetensors", TENSORS)
    assert not (tmp_path / "state.safetensors").exists()
