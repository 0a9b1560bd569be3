from pathlib import Path

import pytest
import yaml
from bad_files import BAD_FILES, REFUSED

import examples
from vanishing import cli, config
from vanishing.config import ParameterError

PARAMS = (Path(__file__).parents[2] / "params.yaml").read_text()
RUNS = ", ".join(yaml.safe_load(PARAMS)["runs"])
BLOCKS = "data, model, train, gradients, analyses, trainable_depth, runs, studies, seeds, tensorboard"
DATA = "recipe, set, sources, validation_per_class, seed, generated, folder"
MODEL = (
    "stages, blocks, filters, activation, norm, groups, convolutions, kernel_size, shortcut, reduction, "
    "reduction_shortcut, initialisation, gradient_amplification"
)
TRAIN = (
    "recipe, epochs, batch_size, learning_rate, final_learning_rate, schedule, weight_decay, l1, patience, "
    "precision, device, kernels, threads, snapshots"
)
NO_SOURCE = "a path, or a mapping with `url` (http or https) and, if known, `sha256` (64 hexadecimal digits)"
NAME = "text that matches '^[a-z][a-z0-9_]*$'"
TITLE = "title: Depth, batch normalisation and residual connections, under two schedules"
PYTHON_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
SWEEP = ": trainable_depth.sweeps.0.layers"
SHA = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"

# old text of params.yaml, its replacement (first occurrence), the message after the file's name
BAD = {
    "unknown block": ("\nseeds: [0]", "\nseeds: [0]\nsched: 1", f": sched = 1: unknown key; allowed: {BLOCKS}"),
    "unknown key of data": (
        "validation_per_class: 25",
        "validation_per_clas: 25",
        f": data.validation_per_clas = 25: unknown key; allowed: {DATA}; 1 more mistake",
    ),
    "unknown key of data.generated": (
        "    classes: 10",
        "    classes: 10\n    colours: 3",
        ": data.generated.colours = 3: unknown key; allowed: classes, train_per_class, test_per_class",
    ),
    "unknown key of a source": (
        f"sha256: {SHA}",
        "md5: eb9058c3",
        ": data.sources.1.md5 = 'eb9058c3': unknown key; allowed: url, sha256",
    ),
    "unknown key of model": (
        "stages: 3",
        "depth: 3\n  stages: 3",
        f": model.depth = 3: unknown key; allowed: {MODEL}",
    ),
    "unknown key of train": (
        "epochs: 100",
        "epochs: 100\n  epoch: 1",
        f": train.epoch = 1: unknown key; allowed: {TRAIN}",
    ),
    "unknown key of gradients": (
        "batches: 5",
        "batches: 5\n  images: 5",
        ": gradients.images = 5: unknown key; allowed: recipe, batches, batch_size, seed",
    ),
    "unknown key of a study": (
        "title: Depth",
        "colour: red\n    title: Depth",
        ": studies.core.colour = 'red': unknown key; allowed: title, runs, seeds, average, compare, draw",
    ),
    "unknown block of a run": (
        "model: {blocks: 0}",
        "gradients: {seed: 1}",
        ": runs.vgg08.gradients = {'seed': 1}: unknown key; allowed: data, model, train",
    ),
    "images of its own for a run": (
        "model: {blocks: 0}",
        "data: {seed: 1, set: generated}",
        ": runs.vgg08.data.set = 'generated': unknown key; allowed: seed",
    ),
    "negative seed of a run's validation split": (
        "model: {blocks: 0}",
        "data: {seed: -1}",
        ": runs.vgg08.data.seed = -1: allowed: greater than or equal to 0",
    ),
    "run with a number for its data": (
        "model: {blocks: 0}",
        "data: 1",
        ": runs.vgg08.data = 1: allowed: a mapping",
    ),
    "unknown model key of a run": (
        "{blocks: 0}",
        "{block: 0}",
        f": runs.vgg08.model.block = 0: unknown key; allowed: {MODEL}",
    ),
    "unknown train key of a run": (
        "{learning_rate: 1.0e-2}",
        "{lr: 1.0e-2}",
        f": runs.vgg38_bn_lr2.train.lr = 0.01: unknown key; allowed: {TRAIN}",
    ),
    "key with a line break": (
        "epochs: 100",
        '"ep\\nochs": 1\n  epochs: 100',
        f": train.'ep\\nochs' = 1: unknown key; allowed: {TRAIN}",
    ),
    "repeated key": ("epochs: 100", "epochs: 100\n  epochs: 5", ", line LINE: key 'epochs' is repeated"),
    "repeated run": ("  vgg38: {}", "  vgg08: {}", ", line LINE: key 'vgg08' is repeated"),
    "missing block": ("\nseeds: [0]", "\n", ": seeds: missing"),
    "missing key": ("  stages: 3", "", ": model.stages: missing"),
    "text for a number": ("epochs: 100", "epochs: many", ": train.epochs = 'many': allowed: an integer"),
    "quoted number": ("epochs: 100", "epochs: '100'", ": train.epochs = '100': allowed: an integer"),
    "fraction of an epoch": ("epochs: 100", "epochs: 99.5", ": train.epochs = 99.5: allowed: an integer"),
    "truth for a number": ("epochs: 100", "epochs: true", ": train.epochs = True: allowed: an integer"),
    "nothing for a number": ("epochs: 100", "epochs:", ": train.epochs = None: allowed: an integer"),
    "octal number": ("epochs: 100", "epochs: 0144", ": train.epochs = '0144': allowed: an integer"),
    "number in base 60": ("epochs: 100", "epochs: 1:40", ": train.epochs = '1:40': allowed: an integer"),
    "impossible date": ("epochs: 100", "epochs: 2024-13-45", ": train.epochs = '2024-13-45': allowed: an integer"),
    "number of 5,000 digits": (
        "epochs: 100",
        "epochs: " + "9" * 5000,
        f": train.epochs = '{'9' * 56}...: allowed: an integer",
    ),
    "no epoch": ("epochs: 100", "epochs: 0", ": train.epochs = 0: allowed: greater than or equal to 1"),
    "2**20 epochs": ("epochs: 100", "epochs: 1048576", ": train.epochs = 1048576: allowed: less than 1048576"),
    "batch of more than the training images": (
        "batch_size: 100 ",
        "batch_size: 47501 ",
        ": train.batch_size = 47501: allowed: at most the 47,500 training images",
    ),
    "batch of a run of more than the training images": (
        "vgg38: {}",
        "vgg38: {train: {batch_size: 50000}}",
        ": runs.vgg38.train.batch_size = 50000: allowed: at most the 47,500 training images",
    ),
    "six stages": ("stages: 3", "stages: 6", ": model.stages = 6: allowed: less than or equal to 5"),
    "six stages of a run": (
        "{blocks: 0}",
        "{stages: 6}",
        ": runs.vgg08.model.stages = 6: allowed: less than or equal to 5",
    ),
    "negative blocks": ("blocks: 5", "blocks: -1", ": model.blocks = -1: allowed: greater than or equal to 0"),
    "10**8 blocks": (
        "blocks: 5",
        "blocks: 100000000",
        ": model.blocks = 100000000: allowed: less than or equal to 1000",
    ),
    "10**8 filters": (
        "filters: 32",
        "filters: 100000000",
        ": model.filters = 100000000: allowed: less than or equal to 4096",
    ),
    "groups that do not divide filters": (
        "vgg38: {}",
        "vgg38: {model: {norm: group, groups: 5}}",
        ": runs.vgg38.model.groups = 5: allowed: a divisor of filters = 32",
    ),
    "groups that do not divide the filters of a bottleneck": (
        "vgg38: {}",
        "vgg38: {model: {norm: group, groups: 16, reduction: bottleneck}}",
        ": runs.vgg38.model.groups = 16: allowed: a divisor of filters / 4 = 8 with reduction = bottleneck",
    ),
    "filters that a bottleneck cannot quarter": (
        "vgg38: {}",
        "vgg38: {model: {filters: 30, reduction: bottleneck}}",
        ": runs.vgg38.model.filters = 30: allowed: a multiple of 4 with reduction = bottleneck",
    ),
    "unknown norm": ("norm: none", "norm: layer", ": model.norm = 'layer': allowed: 'none', 'batch' or 'group'"),
    "norm: no": ("norm: none", "norm: no", ": model.norm = 'no': allowed: 'none', 'batch' or 'group'"),
    "unknown norm of a run": (
        "{norm: batch}",
        "{norm: Batch}",
        ": runs.vgg38_bn.model.norm = 'Batch': allowed: 'none', 'batch' or 'group'",
    ),
    "unknown activation": (
        "activation: leaky_relu",
        "activation: gelu",
        ": model.activation = 'gelu': allowed: 'leaky_relu', 'relu', 'sigmoid' or 'tanh'",
    ),
    "four convolutions": ("convolutions: 2", "convolutions: 4", ": model.convolutions = 4: allowed: 2 or 3"),
    "kernels of even size": ("kernel_size: 3", "kernel_size: 4", ": model.kernel_size = 4: allowed: 3 or 5"),
    "unknown reduction": (
        "reduction: plain",
        "reduction: none",
        ": model.reduction = 'none': allowed: 'plain' or 'bottleneck'",
    ),
    "unknown shortcut": (
        "shortcut: none",
        "shortcut: pool",
        ": model.shortcut = 'pool': allowed: 'none', 'identity' or 'dense'",
    ),
    "unknown reduction shortcut": (
        "reduction_shortcut: none",
        "reduction_shortcut: identity",
        ": model.reduction_shortcut = 'identity': allowed: 'none', 'pool', 'convolution' or 'subsample'",
    ),
    "unknown initialisation": (
        "initialisation: default",
        "initialisation: xavier",
        ": model.initialisation = 'xavier': allowed: 'default', 'he' or 'orthogonal'",
    ),
    "dense with a shortcut over reduction blocks": (
        "{shortcut: dense}",
        "{shortcut: dense, reduction_shortcut: pool}",
        ": runs.vgg38_dense.model.reduction_shortcut = 'pool': allowed: none with shortcut = dense, where reduction "
        "blocks read all earlier outputs already",
    ),
    "gradients made smaller": (
        "gradient_amplification: 1.0",
        "gradient_amplification: 0.5",
        ": model.gradient_amplification = 0.5: allowed: greater than or equal to 1",
    ),
    "endless amplification": (
        "gradient_amplification: 1.0",
        "gradient_amplification: .inf",
        ": model.gradient_amplification = inf: allowed: a finite number",
    ),
    "negative l1": ("l1: 0.0", "l1: -1.0", ": train.l1 = -1.0: allowed: greater than or equal to 0"),
    "negative patience": ("patience: 0", "patience: -1", ": train.patience = -1: allowed: greater than or equal to 0"),
    "unknown schedule": (
        "schedule: cosine_per_epoch",
        "schedule: step",
        ": train.schedule = 'step': allowed: 'cosine_per_epoch', 'cosine_per_iteration' or 'constant'",
    ),
    "unknown kernels": ("kernels: pytorch", "kernels: cuda", ": train.kernels = 'cuda': allowed: 'pytorch' or 'fused'"),
    "unknown device": ("device: auto", "device: cuda:0", ": train.device = 'cuda:0': allowed: 'auto', 'cpu' or 'cuda'"),
    "learning rate 0": (
        "  learning_rate: 1.0e-3",
        "  learning_rate: 0",
        ": train.learning_rate = 0: allowed: greater than 0",
    ),
    "negative learning rate": (
        "  learning_rate: 1.0e-3",
        "  learning_rate: -1e-3",
        ": train.learning_rate = -0.001: allowed: greater than 0",
    ),
    "learning rate nan": (
        "  learning_rate: 1.0e-3",
        "  learning_rate: .nan",
        ": train.learning_rate = nan: allowed: a finite number",
    ),
    "learning rate yes": (
        "  learning_rate: 1.0e-3",
        "  learning_rate: yes",
        ": train.learning_rate = 'yes': allowed: a number",
    ),
    "learning rate of a run below its final one": (
        "{learning_rate: 1.0e-2}",
        "{learning_rate: 1e-6}",
        ": runs.vgg38_bn_lr2.train.final_learning_rate = 2e-05: allowed: at most learning_rate = 1e-06",
    ),
    "final learning rate above the learning rate": (
        "final_learning_rate: 2.0e-5",
        "final_learning_rate: 0.02",
        ": train.final_learning_rate = 0.02: allowed: at most learning_rate = 0.001",
    ),
    "snapshot of epoch 0": (
        "snapshots: [1,",
        "snapshots: [0,",
        ": train.snapshots.0 = 0: allowed: greater than or equal to 1",
    ),
    "recipe 2": ("recipe: 1", "recipe: 2", ": data.recipe = 2: allowed: 1"),
    "gradients on more than the training images": (
        "batches: 5",
        "batches: 500",
        ": gradients.batches x gradients.batch_size = 50000: allowed: at most the 47,500 training images",
    ),
    "validation of all images": (
        "validation_per_class: 25",
        "validation_per_class: 500",
        ": data.validation_per_class = 500: allowed: less than the 500 of a class",
    ),
    "a minibatch of one image at one pixel": (
        "  vgg08:\n    model: {blocks: 0}",
        "  vgg08:\n    model: {stages: 5, norm: batch}\n    train: {batch_size: 71}",
        ": runs.vgg08.train.batch_size = 71: leaves a minibatch of one image, of which batch normalisation has no "
        "variance at 1 x 1 pixels (run vgg08); allowed: another size",
    ),
    "source that is no address": (
        PYTHON_URL,
        "ftp://host/cifar",
        ": data.sources.1.url = 'ftp://host/cifar': allowed: text that matches '^https?://'",
    ),
    "source that is a number": ("- data/source", "- 5", f": data.sources.0 = 5: allowed: {NO_SOURCE}"),
    "hash of 63 digits": (
        SHA,
        SHA[1:],
        f": data.sources.1.sha256 = '{SHA[1:57]}...: allowed: text that matches '^[0-9a-f]{{64}}$'",
    ),
    "analysis of a missing run": (
        "    runs: [vgg08, vgg38, vgg38_bn, vgg38_rc, vgg38_bn_rc, vgg38_bn_lr2, vgg38_bn_rc_lr2, vgg08_short",
        "    runs: [vgg39",
        f": analyses.signal.runs = 'vgg39': no such run; allowed: {RUNS}",
    ),
    "analysis of a snapshot twice": (
        "snapshots: [0, 5, 20]",
        "snapshots: [0, 1, 1]",
        ": analyses.signal.snapshots = 1: allowed: each once",
    ),
    "analysis of more images than there are": (
        "batches: 5               # minibatches, the same",
        "batches: 2376  # minibatches, the same",
        ": analyses.signal.batches x analyses.signal.batch_size = 47520: allowed: at most the 47,500 training images",
    ),
    "fewer numbers of blocks than stages": (
        "blocks: 5",
        "blocks: [5, 5]",
        ": model.blocks = [5, 5]: allowed: an integer, or a list of one for each of the 3 stages",
    ),
    "negative blocks of a stage": (
        "blocks: 5",
        "blocks: [5, -1, 5]",
        ": model.blocks.1 = -1: allowed: greater than or equal to 0",
    ),
    "text among blocks": ("blocks: 5", "blocks: [5, five, 5]", ": model.blocks.1 = 'five': allowed: an integer"),
    "odd number of layers": ("layers: [8, 10", "layers: [9, 10", f"{SWEEP}.0 = 9: allowed: a multiple of 2"),
    "fewer layers than the stages have": ("layers: [8, 10", "layers: [6, 10", f"{SWEEP} = 6: allowed: 8 or more"),
    "depth twice": (
        "layers: [8, 10",
        "layers: [8, 8",
        ": trainable_depth.sweeps = 'default, fp32, 8 layers, seed 0': allowed: each once",
    ),
    "sweep twice": (
        "{initialisation: he, precision: fp32",
        "{initialisation: default, precision: fp32",
        ": trainable_depth.sweeps = 'default, fp32, 10 layers, seed 1': allowed: each once",
    ),
    "more images of a class than there are": (
        "images: 25  ",
        "images: 476",
        ": trainable_depth.images = 476: allowed: at most the 475 images there are",
    ),
    "more validation images of a class than there are": (
        "held_out: 10",
        "held_out: 26",
        ": trainable_depth.held_out = 26: allowed: at most the 25 images there are",
    ),
    "minibatch larger than the subset": (
        "batch_size: 25 ",
        "batch_size: 2501",
        ": trainable_depth.batch_size = 2501: allowed: at most the 2,500 images there are",
    ),
    "stricter threshold that is looser": (
        "strict_threshold: 10.0",
        "strict_threshold: 4.0",
        ": trainable_depth.strict_threshold = 4.0: allowed: at least threshold = 5",
    ),
    "study of a missing run": (
        "schedules\n    runs: [vgg08, vgg38,",
        "schedules\n    runs: [vgg08, vgg39,",
        f": studies.core.runs = 'vgg39': no such run; allowed: {RUNS}",
    ),
    "run twice in a study": (
        "schedules\n    runs: [vgg08, vgg38,",
        "schedules\n    runs: [vgg08, vgg08,",
        ": studies.core.runs = 'vgg08': allowed: each once",
    ),
    "run twice in a study without pairs": (
        "runs: [vgg16_three, vgg50_three,",
        "runs: [vgg16_three, vgg16_three,",
        ": studies.three_convolutions.runs = 'vgg16_three': allowed: each once",
    ),
    "pair with a run of another study": (
        "- [vgg38_bn_rc, vgg38_bn]\n      - [vgg38_resnet,",
        "- [vgg38_bn_rc, vgg38]\n      - [vgg38_resnet,",
        ": studies.residual.compare = 'vgg38': not in this study; allowed: vgg38_bn, vgg38_bn_rc, vgg38_resnet, "
        "vgg38_resnet_sigmoid",
    ),
    "pair of a run with itself": (
        "- [vgg08, vgg38]",
        "- [vgg08, vgg08]",
        ": studies.core.compare = 'vgg08': allowed: two different runs",
    ),
    "pair twice": (
        "- [vgg38_bn, vgg38]\n",
        "- [vgg08, vgg38]\n",
        ": studies.core.compare = ('vgg08', 'vgg38'): allowed: each once",
    ),
    "pair of one": ("- [vgg08, vgg38]", "- [vgg08]", ": studies.core.compare.0 = ['vgg08']: allowed: at least 2 items"),
    "pair of three": (
        "- [vgg08, vgg38]",
        "- [vgg08, vgg38, vgg38_bn]",
        ": studies.core.compare.0 = ['vgg08', 'vgg38', 'vgg38_bn']: allowed: at most 2 items",
    ),
    "mean of no epochs": (
        "average: 5",
        "average: 0",
        ": studies.learning_rate.average = 0: allowed: greater than or equal to 1",
    ),
    "study without seeds": ("seeds: [0, 1, 2]", "seeds: []", ": studies.core.seeds = []: allowed: at least 1 item"),
    "repeated seed of a study": (
        "seeds: [0, 1, 2]",
        "seeds: [0, 1, 1]",
        ": studies.core.seeds = 1: allowed: each once",
    ),
    "unknown figure family": (
        "draw: [training,",
        "draw: [landscape,",
        ": studies.core.draw.0 = 'landscape': allowed: 'training' or 'gradient_flow'",
    ),
    "figure family twice": (
        "draw: [training, gradient_flow]",
        "draw: [training, training]",
        ": studies.core.draw = 'training': allowed: each once",
    ),
    "title of two lines": (
        TITLE,
        'title: "a\\nb"',
        ": studies.core.title = 'a\\nb': allowed: text of one line, in Latin letters and the signs of the keyboard",
    ),
    "no seeds": ("\nseeds: [0]", "\nseeds: []", ": seeds = []: allowed: at least 1 item"),
    "seeds that are no list": ("\nseeds: [0]", "\nseeds: 3", ": seeds = 3: allowed: a list"),
    "negative seed": ("\nseeds: [0]", "\nseeds: [0, -1]", ": seeds.1 = -1: allowed: greater than or equal to 0"),
    "repeated seed": ("\nseeds: [0]", "\nseeds: [0, 1, 0]", ": seeds = 0: allowed: each once"),
    "run in capitals": ("vgg38: {}", "VGG38: {}", f": runs.VGG38 = 'VGG38': allowed: {NAME}"),
    "run that leaves its folder": ("vgg38: {}", "../vgg38: {}", f": runs.../vgg38 = '../vgg38': allowed: {NAME}"),
    "run named by a number": ("vgg38: {}", "38: {}", ", line LINE: key 38 is not text"),
    "run of nothing": ("vgg38: {}", "vgg38:", ": runs.vgg38 = None: allowed: a mapping"),
    "run with a list for a block": (
        "{learning_rate: 1.0e-2}",
        "[1]",
        ": runs.vgg38_bn_lr2.train = [1]: allowed: a mapping",
    ),
    "anchor": ("seeds: [0]", "seeds: &all [0]", f", line LINE: {REFUSED} 'all'"),
    "merge key": (
        "vgg38: {}",
        "vgg38: {<<: {model: {blocks: 0}}}",
        ": runs.vgg38.<< = {'model': {'blocks': 0}}: unknown key; allowed: data, model, train",
    ),
    "tag of a Python object": (
        "epochs: 100",
        "epochs: !!python/object/apply:os.system ['touch made']",
        f", line LINE: {REFUSED} 'tag:yaml.org,2002:python/object/apply:os.system'",
    ),
    "tag of a number": ("epochs: 100", "epochs: !!int abc", f", line LINE: {REFUSED} 'tag:yaml.org,2002:int'"),
    "long value": (
        "set: cifar100",
        "set: " + "x" * 10_000,
        f": data.set = '{'x' * 56}...: allowed: 'cifar100', 'generated' or 'folder'",
    ),
    "tabulator": ("  epochs: 100", "\tepochs: 100", ", line LINE: found character '\\t' that cannot start any token"),
}


@pytest.fixture
def write(tmp_path):
    def change(old, new):
        assert old in PARAMS
        path = tmp_path / "params.yaml"
        path.write_text(PARAMS.replace(old, new, 1))
        return path

    return change


def told(message, old, new):
    """Put the number of the line in which `new` ends where the message says LINE."""
    line = PARAMS[: PARAMS.index(old)].count("\n") + new.count("\n") + 1
    return message.replace("LINE", str(line))


def refusal(path):
    with pytest.raises(ParameterError) as caught:
        config.load(path)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(("old", "new", "message"), BAD.values(), ids=BAD)
def test_a_mistake_is_one_line_with_key_value_and_what_is_allowed(write, old, new, message):
    path = write(old, new)
    text = refusal(path)
    assert text == f"{path}{told(message, old, new)}"
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_holds_no_parameters_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    assert refusal(path) == f"{path}{message}"


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    missing = tmp_path / "params.yaml"
    assert refusal(missing) == f"{missing}: cannot be read: No such file or directory"
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


def test_recipe_of_the_measurement_is_checked_too(write):
    path = write("  recipe: 2                  # version of the measurement", "  recipe: 3  # version")
    assert refusal(path) == f"{path}: gradients.recipe = 3: allowed: 2"


def test_the_size_of_the_generated_images_bounds_the_configuration(write):
    path = write("set: cifar100", "set: generated")
    batch = "vgg38_bn_lr0_05_b1600.train.batch_size"
    assert refusal(path) == f"{path}: runs.{batch} = 1600: allowed: at most the 1,250 training images"
    text = (
        path.read_text().replace("batch_size: 1600", "batch_size: 1250").replace("batch_size: 800 ", "batch_size: 200 ")
    )
    path.write_text(text)
    assert config.load(path).data.train_counts == [125] * 10
    path.write_text(text.replace("batches: 5", "batches: 13"))
    key = "gradients.batches x gradients.batch_size"
    assert refusal(path) == f"{path}: {key} = 1300: allowed: at most the 1,250 training images"
    path.write_text(text.replace("train_per_class: 150", "train_per_class: 25"))
    assert refusal(path) == f"{path}: data.validation_per_class = 25: allowed: less than the 25 of a class"


@pytest.mark.parametrize("mistake", ["repeated seed", "six stages of a run", "tag of a Python object", "merge key"])
def test_the_command_line_ends_with_2_and_one_line_and_makes_nothing(write, monkeypatch, capsys, mistake):
    old, new, message = BAD[mistake]
    folder = write(old, new).parent
    monkeypatch.chdir(folder)
    assert cli.main(["models"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"vanishing models: params.yaml{told(message, old, new)}\n"
    assert [path.name for path in folder.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1E-3", 1e-3), ("1.e-3", 1e-3), (".5e-2", 5e-3), ("+2e-3", 2e-3), ("1", 1.0)]
)
def test_a_number_with_an_exponent_needs_no_dot(write, text, value):
    rate = config.load(write("  learning_rate: 1.0e-3", f"  learning_rate: {text}")).train.learning_rate
    assert (rate, type(rate)) == (value, float)


def test_a_run_lays_its_differences_over_the_defaults(write):
    study = config.load(
        write("vgg38: {}", "vgg38: {model: {norm: batch}, train: {epochs: 7, snapshots: [3], batch_size: 50}}")
    )
    run = study.run("vgg38")
    assert run.data == study.data
    assert run.model == study.model.model_copy(update={"norm": "batch"})
    assert run.train == study.train.model_copy(update={"epochs": 7, "snapshots": [3], "batch_size": 50})
    assert study.run("vgg08").train == study.train


def test_a_run_may_have_a_validation_split_of_its_own_and_the_file_stays_the_same(write):
    study = config.load(write("vgg38: {}", "vgg38: {data: {seed: 3}}"))
    run = study.run("vgg38")
    assert run.data == study.data.model_copy(update={"seed": 3})
    assert run.configuration()["data"]["seed"] == 3
    assert run.data.path == study.data.path


def test_a_constant_rate_may_be_below_the_final_one_that_it_never_reaches(write):
    study = config.load(write("vgg38: {}", "vgg38: {train: {schedule: constant, learning_rate: 1e-6}}"))
    assert study.run("vgg38").train.learning_rate == 1e-6


def test_a_summary_from_before_a_key_was_added_counts_with_its_default(study):
    today = study.run("vgg38_resnet_wd3").configuration()
    model = {key: value for key, value in today["model"].items() if key not in ("kernel_size", "reduction")}
    train = {key: value for key, value in today["train"].items() if key != "kernels"}
    assert config.completed(today | {"model": model, "train": train}) == today
    assert config.completed(today) == today
    other = study.run("vgg38_resnet_wd3_k5").configuration()
    assert config.completed(other) == other != today


def test_a_run_that_differs_in_nothing_has_the_defaults(study):
    assert study.run("vgg38").model_dump() == study.model_dump(include={"data", "model", "train"})


def test_merge_goes_into_mappings_and_replaces_everything_else():
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    overlay = {"a": {"c": [3]}, "d": {"e": 2}, "f": 3}
    assert config.merge(base, overlay) == {"a": {"b": 1, "c": [3]}, "d": {"e": 2}, "f": 3}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 1}


@pytest.mark.parametrize(
    ("epochs", "chosen", "kept"),
    [(100, [1, 50], (0, 1, 50, 100)), (3, [5, 2, 2, 1], (0, 1, 2, 3)), (1, [], (0, 1)), (5, [5], (0, 5))],
)
def test_snapshots_are_the_initialisation_the_chosen_within_reach_and_the_last(tiny, epochs, chosen, kept):
    assert tiny(train={"epochs": epochs, "snapshots": chosen}).train.snapshot_epochs == kept


def test_the_configuration_of_a_run_leaves_out_where_the_images_come_from(study, tiny):
    real, made = study.run("vgg08").configuration(), tiny().configuration()
    assert sorted(real["data"]) == ["recipe", "seed", "set", "validation_per_class"]
    assert sorted(made["data"]) == ["generated", "recipe", "seed", "set", "validation_per_class"]
    assert real["model"]["blocks"] == 0
    assert sorted(real) == ["data", "model", "train"]


def test_training_images_of_a_class_are_those_that_validation_leaves(study, tiny):
    assert (study.data.train_counts, str(study.data.path)) == ([475] * 100, "data/cifar100.npz")
    made = tiny().data
    assert (made.train_counts, str(made.path)) == ([10] * 3, "data/generated.npz")


# seeds, pairs and looks


def of_studies(studies, **overlay):
    """Return the parameters of runs that differ in nothing, in these studies."""
    content = examples.content(overlay, runs=["vgg08", "a", "b", "c", "d"])
    titled = {key: {"title": key} | study for key, study in studies.items()}
    return config.check(content | {"studies": titled})


def test_the_seeds_of_a_run_are_those_of_its_studies_or_else_those_of_all():
    studies = {
        "own": {"runs": ["vgg08", "a"], "seeds": [4, 2]},
        "other": {"runs": ["b", "a"], "seeds": [7, 2]},
        "common": {"runs": ["b", "c"]},
    }
    settings = of_studies(studies, seeds=[5, 1])
    wanted = {"vgg08": [2, 4], "a": [2, 4, 7], "b": [1, 2, 5, 7], "c": [1, 5], "d": [1, 5]}
    assert {run: settings.seeds_of(run) for run in settings.runs} == wanted
    assert list(settings.jobs()) == [(run, seed) for run in ("vgg08", *"abcd") for seed in wanted[run]]
    settings.check_seed("a", 7)
    with pytest.raises(ParameterError) as caught:
        settings.check_seed("a", 5)
    assert str(caught.value) == "seed 5 of run 'a' is not configured; allowed: 2, 4, 7"


def test_the_core_and_the_initialisations_have_three_seeds_and_every_other_run_one(study):
    thrice = study.studies["core"].runs + study.studies["initialisation"].runs
    assert {run: study.seeds_of(run) for run in study.runs} == {
        run: [0, 1, 2] if run in thrice else [0] for run in study.runs
    }
    assert (len(study.studies), len(study.runs), len(list(study.jobs()))) == (19, 117, 117 + 2 * (14 + 6))


def test_the_controls_are_five_networks_at_three_rates_and_the_shallow_one_with_batch_normalisation(study):
    cures = [(0, "none", "none"), (5, "none", "none"), (5, "batch", "none"), (5, "none", "identity")]
    cures.append((5, "batch", "identity"))
    wanted = {(*cure, rate) for cure in cures for rate in (1e-4, 1e-3, 1e-2)} | {(0, "batch", "none", 1e-3)}
    for key, schedule in (("controls", "cosine_per_epoch"), ("controls_per_iteration", "cosine_per_iteration")):
        runs = [study.run(name) for name in study.studies[key].runs]
        found = [(run.model.blocks, run.model.norm, run.model.shortcut, run.train.learning_rate) for run in runs]
        assert (len(found), set(found)) == (16, wanted)
        assert {run.train.schedule for run in runs} == {schedule}


def test_each_run_is_held_against_the_first_unless_the_pairs_are_given():
    studies = {
        "plain": {"runs": ["a", "b", "c"]},
        "paired": {"runs": ["a", "b", "c"], "compare": [["c", "b"], ["b", "c"]]},
        "unpaired": {"runs": ["a", "b"], "compare": []},
    }
    settings = of_studies(studies)
    assert settings.study("plain").pairs == [("b", "a"), ("c", "a")]
    assert settings.study("paired").pairs == [("c", "b"), ("b", "c")]
    assert settings.study("unpaired").pairs == []


def test_looks_by_hand():
    settings = of_studies(
        {"one": {"runs": ["a", "b"]}, "two": {"runs": ["c", "b"]}, "three": {"runs": ["d", "c", "a"]}}
    )
    # c must differ from b and from a, d from c and from a; vgg08 is in no study
    assert settings.looks == {"a": 0, "b": 1, "c": 2, "d": 1, "vgg08": 0}


def test_the_runs_of_every_study_have_different_looks(study):
    looks = study.looks
    assert set(looks) == set(study.runs)
    for each in study.studies.values():
        assert len({looks[run] for run in each.runs}) == len(each.runs)
    first = next(iter(study.studies.values())).runs
    assert [looks[run] for run in first] == list(range(len(first)))


def test_a_run_that_is_not_configured_is_answered_with_those_that_are(study):
    with pytest.raises(ParameterError, match=f"^run 'vgg16' is not configured; allowed: {RUNS}$"):
        study.run("vgg16")


def test_a_study_is_presented_with_a_run_of_its_own_or_once_it_is_whole(study):
    runs = {"a": ["x", "y"], "b": ["x", "z"], "c": ["y", "x"]}
    block = study.studies["core"]
    settings = study.model_copy(update={"studies": {key: block.model_copy(update={"runs": runs[key]}) for key in runs}})
    assert settings.presented({"x"}) == ["a"]
    assert settings.presented({"z"}) == ["b"]
    assert settings.presented({"x", "y"}) == ["a", "c"]
    assert settings.presented({"x", "z"}) == ["a", "b"]
    assert settings.presented(set()) == []
