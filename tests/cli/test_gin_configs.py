"""Every gin file that is shipped makes a run, with the values that the papers give."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mrt5_jax import config
from mrt5_jax.cli import gin_setup
from mrt5_jax.cli.main import main
from mrt5_jax.data.noise_kinds import NOISES
from mrt5_jax.data.registry import tasks_of
from mrt5_jax.data.task_names import label_of
from mrt5_jax.errors import UserError
from mrt5_jax.selection.selector_rule import GATE_MEAN
from mrt5_jax.selection.selectors import SELECTORS

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FILES = sorted(
    path.relative_to(REPOSITORY / "gin_configs").as_posix() for path in REPOSITORY.glob("gin_configs/*/*.gin")
)
POOLING = {"models/canine_t5.gin": "convolution", "models/mean_pooling.gin": "segment_mean"}
KINDS = {
    name: found[1]
    for name in FILES
    if (found := re.search(r"GateConfig(?:\.|:\s+)kind = '(\w+)'", (REPOSITORY / "gin_configs" / name).read_text()))
}
SCHEMES = {name: kind for name, kind in KINDS.items() if kind not in ("learned", "log_sigmoid", "every_kth")}
"""Laid over an MrT5, whose gate another selector replaces."""
MODELS = [
    name for name in FILES if name.startswith("models/") and "_" in name and name not in POOLING and name not in SCHEMES
]
INCLUDED = {
    name
    for path in REPOSITORY.glob("gin_configs/*/*.gin")
    for name in re.findall("^include '(.*)'", path.read_text(), re.M)
}
RECIPES = {
    "runs/base_on_v5e_8x8.gin": ("base", 4),
    "runs/large_on_v5p_4x4x4.gin": ("large", 16),
    "runs/xl_on_v5p_4x4x4.gin": ("xl", 16),
}
OVERLAYS = {
    "runs/correct_text_base.gin",
    "runs/eval.gin",
    "runs/noise.gin",
    "runs/noisy_text.gin",
    "runs/two_sided_control.gin",
    *RECIPES,
}
RUNS = [name for name in FILES if name.startswith("runs/") and name not in INCLUDED | OVERLAYS]

SIZES = {
    "small": (1472, 6, 64, 12, 4, 3584),
    "base": (1536, 12, 64, 18, 6, 3968),
    "large": (1536, 16, 64, 36, 12, 3840),
    "xl": (2560, 32, 64, 36, 12, 6720),
    "xxl": (4672, 64, 64, 36, 12, 12352),
}
"""emb_dim, heads, head_dim, encoder layers, decoder layers, mlp_dim (Xue et al. 2022)."""


@pytest.fixture
def resolve(tmp_path: Path) -> Callable[[str], gin_setup.Resolved]:
    """Resolves a run after giving it whatever it says that it requires."""
    (tmp_path / "en.txt").write_text("All work and no play makes Jack a dull boy. " * 2000)
    (tmp_path / "pairs.tsv").write_text("a dul boy\ta dull boy\n")
    (tmp_path / "unseen.tsv").write_text("al work\tall work\n")
    (tmp_path / "words").mkdir()
    (tmp_path / "words/en.txt").write_text("".join(f"{a}{b}den\n" for a in ("gar", "mon", "fel") for b in "aeiou"))
    values = {
        "MODEL_DIR": tmp_path / "model",
        "TEXT_FILES": tmp_path / "*.txt",
        "TASK_NAME": "spelling",
        "TRAIN_FILES": tmp_path / "pairs.tsv",
        "VALIDATION_FILES": tmp_path / "unseen.tsv",
        "WORD_FILES": tmp_path / "words/*.txt",
    }

    def resolve(name: str, bindings: Sequence[str] = (), models: Sequence[str] = ()) -> gin_setup.Resolved:
        try:
            return gin_setup.resolve([name, *models], bindings=bindings)
        except UserError as error:
            missing = re.match(r"(\w+) needs a value: --gin\.\1=", str(error))
            if not missing:
                raise
            return resolve(name, [*bindings, f"{missing[1]}='{values[missing[1]]}'"], models)

    return resolve


@pytest.mark.parametrize("name", RUNS)
def test_every_run_makes_sense(name: str, resolve: Callable[[str], gin_setup.Resolved]) -> None:
    resolved = resolve(name)
    resolved.check()
    assert not resolved.notes
    assert gin_setup.resolve(base_text=resolved.config_text) == resolved


def test_the_runs_of_the_papers_are_there() -> None:
    assert {
        f"runs/{name}.gin" for name in ("quickstart", "diagnostics", "pretrain_text", "continued_pretraining")
    } <= set(RUNS)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_laid_over_a_run(name: str) -> None:
    run = gin_setup.resolve(["runs/quickstart.gin", name]).run
    assert (run.model.gate is None) == ("byt5" in name)
    assert run.model.softmax1 == ("mrt5" in name)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_fits_every_run(model: str, run: str, resolve: Callable[..., gin_setup.Resolved]) -> None:
    """A plain ByT5 has no gate to control; whatever else a run sets of one is named, in one line a statement."""
    plain = "byt5" in model
    resolved = resolve(run, ["config.RunConfig.controller=None"] if plain else [], models=[model])
    resolved.check()
    assert bool(resolved.notes) == plain
    assert gin_setup.resolve(base_text=resolved.config_text).run == resolved.run


@pytest.mark.parametrize("run", ["runs/quickstart.gin", "runs/pretrain_text.gin"])
@pytest.mark.parametrize("model", POOLING)
def test_pooling_fits_a_run(model: str, run: str, resolve: Callable[..., gin_setup.Resolved]) -> None:
    """It has nothing to steer: what the run says of a controller and of soft deletion is switched off."""
    resolved = resolve(run, ["POOLING_LAYER=1"], models=[model])
    resolved.check()
    reduction: Any = POOLING[model]
    assert resolved.run.model.gate == config.GateConfig(layer=1, kind="every_kth", stride=2, reduction=reduction)
    assert resolved.run.training.deletion == "hard"


@pytest.mark.parametrize("run", ["runs/quickstart.gin", "runs/pretrain_text.gin"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_fits_a_run(
    scheme: str, run: str, resolve: Callable[..., gin_setup.Resolved], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of its gate, with the layers and sizes that it has; its penalties are all weighed."""
    monkeypatch.chdir(tmp_path)
    Path("masks.jsonl").write_text('{"inputs": "a", "mask": "11"}\n')
    masks = ["MASKS='masks.jsonl'"] if scheme == "models/oracle_t5.gin" else []
    resolved = resolve(run, masks, models=[scheme])
    resolved.check()
    gate = resolved.run.model.gate
    assert gate is not None
    assert (gate.kind, gate.layer) == (SCHEMES[scheme], 1)
    weighed = {*dict(resolved.run.loss.penalties), GATE_MEAN}
    assert set(SELECTORS[gate.kind].penalties) <= weighed
    assert gin_setup.resolve(base_text=resolved.config_text).run == resolved.run


def test_every_selector_has_a_gin_file() -> None:
    assert set(KINDS.values()) == set(SELECTORS)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_those_of_the_byt5_paper(size: str) -> None:
    model = gin_setup.resolve(["runs/quickstart.gin", f"models/mrt5_{size}.gin"]).run.model
    assert (
        model.emb_dim,
        model.num_heads,
        model.head_dim,
        model.num_encoder_layers,
        model.num_decoder_layers,
        model.mlp_dim,
    ) == SIZES[size]
    assert model.gate == config.GateConfig(layer=3, scale=-30.0, threshold=-15.0)


def test_continued_pretraining_is_the_papers_recipe(resolve: Callable[[str], gin_setup.Resolved]) -> None:
    run = resolve("runs/continued_pretraining.gin").run
    assert run.data.batch_size * run.data.input_length == 2**20
    assert (run.data.input_length, run.data.target_length, run.training.num_steps) == (1024, 189, 5000)
    assert (run.optimizer.learning_rate, run.optimizer.schedule, run.optimizer.clip_norm) == (1e-4, "linear", 1.0)
    assert (run.optimizer.warmup_steps, run.optimizer.weight_decay, run.model.dropout_rate) == (0, 0.0, 0.1)
    assert run.model.softmax1
    assert run.controller == config.ControllerConfig(0.5, proportional_gain=0.5, integral_gain=1e-5, smoothing=0.9)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_of_larger_sizes_are_laid_over_the_papers(
    name: str, resolve: Callable[..., gin_setup.Resolved]
) -> None:
    size, fsdp = RECIPES[name]
    resolved = resolve("runs/continued_pretraining.gin", models=[name])
    resolved.check()
    assert (resolved.run.model.emb_dim, resolved.run.model.num_encoder_layers) == (SIZES[size][0], SIZES[size][3])
    assert resolved.run.execution.mesh == config.MeshConfig(fsdp=fsdp)
    assert (resolved.run.execution.remat, resolved.run.data.batch_size) == ("full", 1024)


@pytest.mark.parametrize(
    ("file", "label", "binding", "rates"),
    [
        ("runs/noise.gin", "diagnostics.vowel_removal.length32", "NOISE_RATES=(0.1, 1)", ("0.1", "1")),
        ("runs/noisy_text.gin", "copied_text.en", "NOISY_FILES='en.txt'", ("0.05", "0.1", "0.2")),
    ],
)
def test_noise_is_laid_over_the_configuration_of_a_model(
    file: str, label: str, binding: str, rates: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its own task, or on text; what it is trained on stays."""
    monkeypatch.chdir(tmp_path)
    Path("en.txt").write_text("All work and no play makes Jack a dull boy.\n" * 9)
    base = gin_setup.resolve(["runs/quickstart.gin"])
    resolved = gin_setup.resolve([file], bindings=[binding], base_text=base.config_text)
    resolved.check()
    assert not resolved.notes
    assert resolved.run.data.train_task == base.run.data.train_task
    (suite,) = resolved.run.data.eval_tasks
    noisy = {f"{label}.{kind}_{rate}" for kind in NOISES for rate in rates}
    assert {label_of(spec.name) for spec in tasks_of(suite)} == {label, *noisy}


def test_diagnostics_are_the_papers_setting(resolve: Callable[[str], gin_setup.Resolved]) -> None:
    run = resolve("runs/diagnostics.gin").run
    assert (run.model.num_encoder_layers, run.model.num_decoder_layers) == (9, 3)
    assert (run.model.emb_dim, run.model.mlp_dim, run.model.head_dim) == (512, 1024, 64)
    assert (run.data.input_length, run.data.batch_size, run.training.num_steps) == (64, 128, 30_000)
    assert (run.loss.regularizer_delay, run.optimizer.learning_rate) == (10_000, 1e-4)
    assert run.controller is None
    assert 1e-4 <= run.loss.gate_weight <= 1.5e-2


def test_a_dry_run_prints_a_configuration_that_can_be_used_and_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_dir = tmp_path / "model"
    arguments = ["--gin_file=runs/quickstart.gin", "--gin_file=models/byt5_small.gin"]
    flags = [f"--gin.MODEL_DIR='{model_dir}'", "--gin.config.RunConfig.controller=None"]
    assert main(["train", *arguments, *flags, "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "# 299,637,760 parameters" in text
    assert gin_setup.resolve(base_text=text).run.model.emb_dim == 1472
    assert not model_dir.exists()
