"""A classification of XNLI's shape whose right accuracies are known, and a predictor that has them.

    mrt5 eval --model_dir=MODEL_DIR --module benchmarks.made_inference --task made_inference --generate
    python -m benchmarks.made_inference MODEL_DIR/eval/made_inference-*/generated-*.jsonl
    mrt5 eval ... (the same command again)

The first command lets the model answer and keeps its answers, the second puts those of the predictor in their place,
the third reads them and prints the table. Premises and hypotheses follow from a rule and the words below; the predictor
is right on 50 % of the first language's examples, on 3 % more of each next one, so on 92 % of the fifteenth.
"""

import argparse
import json
import random
from pathlib import Path

from mrt5_jax.data import answers
from mrt5_jax.data.registry import add_task
from mrt5_jax.data.sources import Example, IndexedSource, one_by_one
from mrt5_jax.data.task_specs import TaskSpec
from mrt5_jax.data.vocabulary import EOS_ID, encode

NAME = "made_inference"
EACH = 300
"""Examples of a language."""

WORDS = {
    "ar": ("ماء نار شجرة بيت كتاب قمر طريق خبز", "لا"),
    "bg": ("вода огън дърво къща книга луна път хляб", "не"),
    "de": ("Wasser Feuer Baum Haus Buch Mond Weg Brot", "kein"),
    "el": ("νερό φωτιά δέντρο σπίτι βιβλίο φεγγάρι δρόμος ψωμί", "όχι"),
    "en": ("water fire tree house book moon road bread", "no"),
    "es": ("agua fuego árbol casa libro luna camino pan", "no"),
    "fr": ("eau feu arbre maison livre lune chemin pain", "pas"),
    "hi": ("पानी आग पेड़ घर किताब चाँद रास्ता रोटी", "नहीं"),
    "ru": ("вода огонь дерево дом книга луна дорога хлеб", "не"),
    "sw": ("maji moto mti nyumba kitabu mwezi njia mkate", "si"),
    "th": ("น้ำ ไฟ ต้นไม้ บ้าน หนังสือ พระจันทร์ ถนน ขนมปัง", "ไม่"),
    "tr": ("su ateş ağaç ev kitap ay yol ekmek", "değil"),
    "ur": ("پانی آگ درخت گھر کتاب چاند راستہ روٹی", "نہیں"),
    "vi": ("nước lửa cây nhà sách trăng đường bánh", "không"),
    "zh": ("水 火 树 房子 书 月亮 路 面包", "不"),
}
"""Of each language eight nouns, and what denies one."""
LANGUAGES = tuple(WORDS)


def inference_example(split: str, index: int) -> Example:
    """Makes an example: of three things that are there one is also in the hypothesis, is not, or is denied."""
    place, number = index % len(LANGUAGES), index // len(LANGUAGES)
    nouns, denied = WORDS[LANGUAGES[place]]
    label = number % 3
    first, second, third, other = random.Random(index).sample(nouns.split(), 4)
    hypothesis = (second, other, f"{denied} {second}")[label]
    return {
        "inputs": f"Premise: {first}, {second}, {third}. Hypothesis: {hypothesis}.",
        "targets": str(label),
        "language": LANGUAGES[place],
    }


def right_share(language: str) -> float:
    """Returns the predictor's accuracy in a language."""
    return 0.5 + 0.03 * LANGUAGES.index(language)


def made_answer(index: int) -> str:
    """Returns what the predictor says of an example: the label, or the next one."""
    language, number = LANGUAGES[index % len(LANGUAGES)], index // len(LANGUAGES)
    label = number % 3
    return str(label if number < round(EACH * right_share(language)) else (label + 1) % 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="answers, as `mrt5 eval --generate` keeps them")
    for path in parser.parse_args().files:
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines():
            answer = json.loads(line)
            text = made_answer(answer["index"])
            ids = [*encode(text).tolist(), EOS_ID]
            lines.append(json.dumps(answer | {"prediction": text, "prediction_ids": ids}))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


add_task(
    TaskSpec(
        NAME,
        IndexedSource(one_by_one(inference_example), {"test": EACH * len(LANGUAGES)}),
        metrics=(answers.accuracy,),
        languages=LANGUAGES,
        labels=("0", "1", "2"),
    )
)

if __name__ == "__main__":
    main()
