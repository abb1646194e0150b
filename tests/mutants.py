"""Shows that the tests hold: each change below breaks the code in one place, and its tests must then fail.

    python tests/mutants.py                  # every change, two at a time
    python tests/mutants.py probe gallery    # those whose name holds one of these words

A change that no test notices is printed as SURVIVED, and the exit status is 1. The tree itself is never touched: each
change is made in a copy. `tests/test_mutants.py` checks that every change still fits the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAPPED = ("train", "export", "runtime")  # installed below pgn_edge
FAILED = 1  # exit status of pytest if tests ran and failed; a change that only breaks an import proves nothing
LIMIT_S = 600


@dataclass(frozen=True)
class Mutant:
    """One change to the code.

    Args:
        name: What is wrong after the change.
        file: Path of the changed file in the repository.
        old: Text that occurs exactly once in the file.
        new: Text in its place.
        tests: Test files that must notice the change.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _analysis(name: str, module: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"train/analysis/{module}.py", old, new, (f"tests/train/analysis/test_{module}.py",))


def _train(name: str, module: str, old: str, new: str, *tests: str) -> Mutant:
    chosen = tests or (f"tests/train/test_{module}.py",)
    return Mutant(name, f"train/{module}.py", old, new, chosen)


ANALYSIS = (
    _analysis(
        "clusters: frozen and prompted embeddings change places",
        "clusters",
        '"frozen ViT": _unit(features.frozen), "PGN + ViT": _unit(features.prompted)',
        '"frozen ViT": _unit(features.prompted), "PGN + ViT": _unit(features.frozen)',
    ),
    _analysis(
        "clusters: prompts are the mixtures again",
        "clusters",
        "features.prompts.reshape(len(features.labels), -1)",
        "flat_mixtures([features])[0]",
    ),
    _analysis(
        "clusters: k-means gets one cluster too few",
        "clusters",
        "count = min(len(np.unique(labels)), len(np.unique(values, axis=0)))",
        "count = max(1, min(len(np.unique(labels)), len(np.unique(values, axis=0))) - 1)",
    ),
    _analysis(
        "map: t-SNE is two coordinates of the points", "clusters", "return np.asarray(made)", "return points[:, :2]"
    ),
    _analysis(
        "gallery: images that use a token least", "tokens", "np.argsort(-peaks, axis=0", "np.argsort(peaks, axis=0"
    ),
    _analysis(
        "gallery: images of the first data set only",
        "tokens",
        "[_coefficients(each)[:, :, tokens].max(axis=1) for each in features]",
        "[_coefficients(each)[:, :, tokens].max(axis=1) for each in features[:1]]",
    ),
    _analysis(
        "gallery: chosen tokens are ignored",
        "tokens",
        "np.asarray(chosen, np.int64) if chosen else most_used",
        "most_used",
    ),
    _analysis("gallery: least used tokens", "tokens", "np.argsort(-share, kind", "np.argsort(share, kind"),
    _analysis("library: a dead token may be used in one prompt", "tokens", "DEAD = 0.1", "DEAD = 10.0"),
    _analysis(
        "attention: the map without prompts has prompts",
        "attention",
        "alone, _ = class_attention(vit, block, geometry, x)",
        "alone, _ = class_attention(vit, block, geometry, x, prompts)",
    ),
    _analysis(
        "attention: the two maps change places",
        "attention",
        "_maps(chosen[shown], alone[shown], beside[shown],",
        "_maps(chosen[shown], beside[shown], alone[shown],",
    ),
    _analysis(
        "attention: the class token's share of registers counts as image",
        "attention",
        "[:, vit.prefix.shape[0] :].float()",
        "[:, vit.prefix.shape[0] - 1 :].float()",
    ),
    Mutant(
        "attention: the first data set only",
        "train/analysis/report.py",
        "looks = [partial(attention, trained, each, number) for number, each in enumerate(features)]",
        "looks = [partial(attention, trained, features[0], 0)]",
        ("tests/train/analysis/test_report.py",),
    ),
    _analysis(
        "robustness: the frozen ViT has the PGN",
        "robustness",
        "PromptedViT(trained.model.vit, None, head,",
        "PromptedViT(trained.model.vit, trained.model.pgn, head,",
    ),
    _analysis(
        "robustness: the class order of the data is ignored",
        "robustness",
        "{PGN_NAME: (trained.model, order)}",
        "{PGN_NAME: (trained.model, np.arange(len(order)))}",
    ),
    _analysis(
        "robustness: noise of a tenth of its strength",
        "robustness",
        "255 * strength, image.shape",
        "25 * strength, image.shape",
    ),
    _analysis(
        "features: prompted embeddings are the frozen ones",
        "features",
        '"prompted": model.embed(x)',
        '"prompted": model.vit(x)',
    ),
)

TRAINING = (
    Mutant(
        "compare: the learning rate is chosen on test images",
        "train/series.py",
        "setting.data.validation, setting.preprocess(model))",
        "setting.data.test, setting.preprocess(model))",
        ("tests/train/test_series.py",),
    ),
    _train("compare: the worst learning rate is taken", "series", "best = max(jobs,", "best = min(jobs,"),
    _train(
        "compare: every seed is the first one",
        "series",
        "seed = chosen.schedule.seed + index",
        "seed = chosen.schedule.seed",
    ),
    _train(
        "compare: accuracy of a union counts all images",
        "series",
        "read = [(space == index) & (answer >= 0) for",
        "read = [(space >= 0) & (answer >= 0) for",
    ),
    Mutant(
        "union: labels of the validation split are not shifted",
        "train/data/dataset.py",
        "Joined([each.validation for each in sets], shifts)",
        "Joined([each.validation for each in sets], [0] * len(sets))",
        ("tests/train/data/test_dataset.py",),
    ),
    Mutant(
        "split: validation images stay in the training split",
        "train/data/dataset.py",
        "return Subset(samples, np.flatnonzero(~small)), ",
        "return samples, ",
        ("tests/train/data/test_dataset.py",),
    ),
    Mutant(
        "probe: the worst strength is taken",
        "train/baselines/probe.py",
        "best = max(fits",
        "best = min(fits",
        ("tests/train/baselines/test_probe.py",),
    ),
    Mutant(
        "probe: the bias forgets the mean",
        "train/baselines/probe.py",
        "bias - weight @ mean",
        "bias",
        ("tests/train/baselines/test_probe.py",),
    ),
    Mutant(
        "visual prompt: the frame covers the image",
        "train/baselines/visual.py",
        "middle = self.left.new_zeros(",
        "middle = self.left.new_ones(",
        ("tests/train/baselines/test_visual.py",),
    ),
    Mutant(
        "visual prompt: the patch replaces the pixels",
        "train/baselines/visual.py",
        "return image + nn.functional.pad(",
        "return 0 * image + nn.functional.pad(",
        ("tests/train/baselines/test_visual.py",),
    ),
    _train(
        "augmentation: solarize from a quarter of the range", "augment", "SOLARIZE_FROM = 128", "SOLARIZE_FROM = 64"
    ),
    _train("augmentation: no image is mirrored", "augment", "ImageOps.mirror(image)", "image"),
    _train(
        "augmentation: grey in half of the images", "augment", "= 0.4, 0.8, 0.2, 0.2, 0.5", "= 0.4, 0.8, 0.5, 0.2, 0.5"
    ),
    _train(
        "loop: the last epoch is kept, not the best",
        "loop",
        "if history.best_epoch == epoch:",
        "if True:",
    ),
    _train(
        "loop: validation counts unreadable images as seen",
        "loop",
        "seen += len(found)",
        "seen += len(found) + 1",
    ),
    Mutant(
        "schedule: the cosine ends at zero",
        "train/run.py",
        "(schedule.lr_end + (1 - schedule.lr_end) * cosine)",
        "cosine",
        ("tests/train/test_loop.py",),
    ),
    Mutant(
        "schedule: the warm-up starts at the peak",
        "train/run.py",
        "return schedule.lr * (self.done + 1) / warm",
        "return schedule.lr",
        ("tests/train/test_loop.py",),
    ),
    _train(
        "mapping: the frequency head is chosen before every epoch",
        "task",
        'head.mapping == "once" and epoch',
        'head.mapping == "never" and epoch',
    ),
    _train(
        "mapping: the iterative head looks without prompts",
        "task",
        'model.vit if head.mapping == "once" else model.embed',
        "model.vit",
    ),
    _train(
        "mapping: two classes share an output", "model", "free[chosen[label]] = False", "free[chosen[label]] = True"
    ),
    _train("warm start: the generator forgets it", "task", "net.features(), strict=False)", "{}, strict=False)"),
    Mutant(
        "store: a result of other options is taken",
        "train/store.py",
        'return data if data.get("job") == job.to_json() else None',
        "return data",
        ("tests/train/test_store.py",),
    ),
    _train(
        "report: the interval is half as wide",
        "compare_report",
        "t.ppf(0.975,",
        "t.ppf(0.75,",
        "tests/train/test_compare.py",
    ),
    _train(
        "report: the standard deviation is biased", "compare_report", "ddof=1", "ddof=0", "tests/train/test_compare.py"
    ),
    _train("ablation: constant prompts keep the library", "ablate", 'changes["library"] = None', "pass"),
    _train(
        "evaluation: top-5 is top-4",
        "evaluate",
        "(_rank(answers.scores, labels) < TOP)",
        "(_rank(answers.scores, labels) < TOP - 1)",
    ),
    _train(
        "evaluation: broken and mended change places",
        "evaluate",
        "((before == truth) & (now != truth))",
        "((before != truth) & (now == truth))",
    ),
    _train("evaluation: calibration without weights", "evaluate", "(self.count * np.abs(", "(np.abs("),
    _train(
        "evaluation: degraded images are left out",
        "evaluate",
        "right = answers.chosen[read] == labels[read]",
        "right = answers.chosen[answers.answered] == labels[answers.answered]",
    ),
    _train(
        "evaluation: confusion is transposed",
        "evaluate",
        "(labels[answers.answered], answers.chosen[answers.answered])",
        "(answers.chosen[answers.answered], labels[answers.answered])",
    ),
    Mutant(
        "labels: a breed that the files do not have",
        "pgn_edge/labels/pets.txt",
        "german shorthaired\n",
        "german shorthaired pointer\n",
        ("tests/core/test_labels.py",),
    ),
)

COMMANDS = (
    Mutant(
        "eval: subjects are compared with the one before, not the first",
        "pgn_edge/cli/eval/run.py",
        "compare(judged[0].answers, answers",
        "compare(judged[-1].answers, answers",
        ("tests/cli/test_eval.py",),
    ),
    Mutant(
        "eval: the class order of the data is ignored",
        "pgn_edge/cli/eval/subjects.py",
        "Answers(of_classes(scores, order)",
        "Answers(scores[:, : len(order)]",
        ("tests/cli/test_eval.py",),
    ),
    Mutant(
        "eval: engines see BGR as RGB",
        "pgn_edge/cli/eval/subjects.py",
        "(self.path, image[..., ::-1])",
        "(self.path, image)",
        ("tests/cli/test_eval.py",),
    ),
    Mutant(
        "compare: exit status 0 after a failed contender",
        "pgn_edge/cli/compare.py",
        "raise click.exceptions.Exit(1)",
        "raise click.exceptions.Exit(0)",
        ("tests/cli/test_compare.py",),
    ),
    Mutant(
        "compare: an option that is typed loses to the recipe",
        "pgn_edge/cli/compare.py",
        "values.update({name: options[name] for name in names if options[name] is not None})",
        "values.update({n: options[n] for n in names if options[n] is not None and n not in values})",
        ("tests/cli/test_compare.py",),
    ),
)

MUTANTS = ANALYSIS + TRAINING + COMMANDS


def copy_tree(folder: Path) -> None:
    """Copy the packages, as they are installed, and the tests into a folder."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "pgn_edge", folder / "pgn_edge", ignore=ignore)
    for name in MAPPED:
        shutil.copytree(ROOT / name, folder / "pgn_edge" / name, ignore=ignore)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)


def installed(folder: Path, file: str) -> Path:
    """Path in a copy of a file of the repository."""
    first = Path(file).parts[0]
    return folder / "pgn_edge" / file if first in MAPPED else folder / file


def notices(mutant: Mutant) -> bool:
    """Whether the tests of a change fail when it is made."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copy_tree(folder)
        path = installed(folder, mutant.file)
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        child = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S
        )
    if child.returncode not in (0, FAILED):
        raise RuntimeError(f"{mutant.name}: pytest ended with {child.returncode}\n{child.stdout[-2000:]}{child.stderr}")
    return child.returncode == FAILED


def main(words: list[str]) -> int:
    """Try the chosen changes, two at a time; 1 if one survived."""
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    survived = 0
    with ThreadPoolExecutor(2) as threads:
        for number, (mutant, noticed) in enumerate(zip(chosen, threads.map(notices, chosen), strict=True), 1):
            survived += not noticed
            print(f"{number:3} of {len(chosen)}  {'noticed ' if noticed else 'SURVIVED'}  {mutant.name}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} changes are noticed")
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
