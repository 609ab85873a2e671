"""INT4 by calibration and INT4 that training has settled on: the share of the lost score that comes back.

    python bench/qat.py WORK BASE [--rows N | --data DATASET] [--minutes M] [--epochs E] [--rate R]

The tuned model is bench/prune.py's, of the same WORK. Scores are shares of right answers on test rows that
no training saw: of the tuned model in BF16, of its INT4 by calibration (GPTQ over the training rows), of the
INT4 that a pass of distillation under its rounding leaves. `regained` is (trained - calibrated) over
(tuned - calibrated), of the means. Goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from prune import HEAL, TEACH, Bench, carried_out, data_of, held_out_loss, mean, scores_of, served_scores

from steelyard.artefact import Inputs, Store, adopt
from steelyard.compression import compress
from steelyard.training import qat, train


def compressed(bench: Bench, folder: Path, data: Path, form: str, name: str) -> Path:
    """WORK/name: the step compress, which calibrates or takes what was learnt."""
    out = bench.work / name
    if not out.exists():
        inputs = Inputs({"checkpoint": adopt(folder), "dataset": adopt(data)})
        draft = Store(bench.work / "store").draft(
            "compressed", name.ljust(64, "0"), "compress", {}, inputs.artefacts
        )
        compress(inputs, {"form": form}, draft, bench.watch)
        shutil.move(draft.folder, out)
    return out


def whole_bench(bench: Bench) -> None:
    data = data_of(bench)
    settings = TEACH | {"num_train_epochs": bench.asked.tune_epochs}
    tuned = bench.step("tuned", train, settings, base=bench.base, dataset=data)
    before = bench.keep("scores/tuned", lambda: scores_of(bench, tuned, data))
    first = compressed(bench, tuned, data, "int4", "tuned-int4")
    calibrated = bench.keep("scores/int4", lambda: served_scores(bench, first, tuned, data))
    settings = HEAL | {"num_train_epochs": bench.asked.epochs, "learning_rate": bench.asked.rate}
    settings |= {"weight_decay": 0.0, "form": "int4_qat"}
    learnt = bench.step("qat", qat, settings, base=tuned, teacher=tuned, dataset=data)
    bench.keep("loss/qat", lambda: {"tuned": held_out_loss(tuned, data), "qat": held_out_loss(learnt, data)})
    second = compressed(bench, learnt, data, "int4_qat", "qat-int4")
    trained = bench.keep("scores/int4_qat", lambda: served_scores(bench, second, learnt, data))
    lost = mean(before) - mean(calibrated)
    bench.keep("regained", lambda: (mean(trained) - mean(calibrated)) / lost if lost > 0 else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--data", type=Path, help="as bench/prune.py has it")
    parser.add_argument("--rows", type=int, default=2000, help="of each task, to train on")
    parser.add_argument("--test", type=int, default=200, help="of each task, to score on")
    parser.add_argument("--tune-epochs", type=float, default=2.0)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--output", type=Path, help="WORK/qat.json where left out")
    carried_out(parser.parse_args(), "qat.json", whole_bench)


if __name__ == "__main__":
    main()
