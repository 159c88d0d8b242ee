"""Pages of the docs, run from top to bottom by scripts/newcomer.sh in an empty environment.

The folder gets a pretrained model (MiniLM, under the name that the pages use, without a hub), and
short texts of BBC News in three classes. Every `coda` command and every snippet of the pages runs
unchanged and in order.
"""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd

import conditional_adapters as ca
from conditional_adapters.toolkit.assets import (
    bbc_news,
    load_packaged_model,
    load_packaged_tokenizer,
)

PAGES = ("quickstart", "peft", "choosing-r", "seeing-the-routing", "export")
TOPICS = ("business", "sports", "tech")
WORDS = 40
# Files that the pages must have written.
MADE = (
    "runs/mine/adapter/adapter_model.safetensors",  # coda train
    "predictions.jsonl",  # coda predict
    "my-adapter/adapter_model.safetensors",  # PEFT's save_pretrained
    "page.html",  # coda show
    "words.png",  # plot_token_map
    "exported/model.onnx",  # coda export
)


def bring() -> None:
    """Write the model and the data."""
    load_packaged_model("minilm").save_pretrained("bert-base-uncased")
    load_packaged_tokenizer("minilm").save_pretrained("bert-base-uncased")
    articles = pd.DataFrame([asdict(article) for article in bbc_news()])
    articles = articles[articles["label"].isin(TOPICS)].sample(frac=1, random_state=0)
    texts = articles["text"].str.split().str[:WORDS].str.join(" ")
    rows = pd.DataFrame({"text": texts, "label": articles["label"].map(TOPICS.index)})
    rows[:192].to_csv("train.csv", index=False)
    rows[192:240].to_csv("validation.csv", index=False)
    rows[240:288].to_csv("test.csv", index=False)
    rows[288:296][["text"]].to_json("unlabelled.jsonl", orient="records", lines=True)


def follow(page: str) -> None:
    """Run the commands and snippets of a page."""
    scope: dict[str, object] = {}
    text = Path("docs", f"{page}.md").read_text()
    for language, code in re.findall(r"```(bash|python)\n(.*?)```", text, flags=re.DOTALL):
        if language == "bash":
            for line in re.findall("^coda .*", code, flags=re.MULTILINE):
                if "--data photos" in line or "--audio" in line:
                    print(f"(no photos or recordings here) {line}", flush=True)
                    continue
                print(f"$ {line}", flush=True)
                subprocess.run(line, shell=True, check=True)
        elif page != "export" and "call.wav" not in code:  # calls on models that the reader has
            print(f">>> {page}: {code.splitlines()[0]} ...", flush=True)
            exec(compile(code, page, "exec"), scope)


def main() -> None:
    """Write the data, follow the pages, and check their files."""
    assert "site-packages" in str(ca.__file__), f"{ca.__file__} is not the installed wheel."
    bring()
    for page in PAGES:
        follow(page)
    missing = [name for name in MADE if not Path(name).exists()]
    if missing:
        sys.exit(f"The pages did not write these files: {missing}.")
    print(json.dumps({"version": ca.__version__, "pages": PAGES, "made": MADE}))


if __name__ == "__main__":
    main()
