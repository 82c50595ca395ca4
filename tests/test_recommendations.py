"""Sentences that recommend an option recommend one that the command has which says them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from weightspace.cli.app import COMMANDS, make_app

PACKAGE = Path(__file__).parent.parent / "src" / "weightspace"
OPTION = re.compile(r"--[a-z][a-z-]+")
NAMES = [command.__name__.rstrip("_") for commands in COMMANDS.values() for command in commands]
NETWORKS = ("align", "diff", "embed", "import", "inspect", "layers", "merge", "predict", "similar")
BUILT = ("align", "card", "diff", "distill", "evaluate", "generate", "inspect", "merge", "pretrain")
TRAINED = ("distill", "pretrain")
RESUMED = (*TRAINED, "grow", "import")
WRITTEN = (*TRAINED, "demo", "embed", "generate", "grow", "import", "layers", "publish", "align", "merge", "report")
ASKED = ("align", "card", "diff", "embed", "forecast", "inspect", "merge", "predict", "pretrain", "probe", "similar")
# Where sentences with options are made, by module and function, and the commands that can say them. A new sentence
# needs a line here.
SAID: dict[str, tuple[str, ...]] = {
    "corpus/frame.py:symmetry_of": ("align", "merge"),
    "analysis/pairs/aligning.py:_asker_of": ("align",),
    "analysis/pairs/diffing.py:_asked": ("diff",),
    "analysis/pairs/diffing.py:diff_weights": ("diff", "inspect"),
    "analysis/pairs/judging.py:_independent": ("diff",),
    "analysis/inspecting/asking.py:ask_folder": ("inspect",),
    "analysis/inspecting/checkpoints.py:_read_header": ("inspect",),
    "analysis/inspecting/studying.py:summary": ("inspect",),
    "analysis/inspecting/studying.py:study_folder": ("inspect",),
    "analysis/inspecting/kinship.py:relate": ("inspect",),
    "analysis/probing/comparing.py:compare_representations": ("probe",),
    "analysis/representations/responses.py:respond": ("embed",),
    "autoencoder/config.py:__post_init__": ("pretrain",),
    "autoencoder/training/devices.py:training_device": TRAINED,
    "autoencoder/training/distilling.py:distilling_parts": ("distill",),
    "autoencoder/training/feeding.py:__init__": ("pretrain",),
    "autoencoder/training/loop.py:run": TRAINED,
    "autoencoder/training/pretraining.py:pretrain": ("pretrain",),
    "autoencoder/training/loop.py:_examine": TRAINED,
    "corpus/asking.py:require_askable": ("pretrain",),
    "corpus/asking.py:require_runnable": ASKED,
    "generation/anchors.py:describe_choice": ("generate",),
    "generation/generating.py:generate_zoo": ("generate",),
    "generation/config.py:__post_init__": ("merge",),
    "generation/merging.py:_notes": ("merge",),
    "generation/merging.py:_unseen": ("merge",),
    "generation/judging.py:_agreeing": ("merge",),
    "generation/parts.py:_how_they_differ": ("merge",),
    "generation/selecting.py:select_networks": ("generate",),
    "generation/widths.py:novelty_of": ("generate",),
    "outputs.py:_kept": RESUMED,
    "outputs.py:_unfinished": RESUMED,
    "outputs.py:require_apart": WRITTEN,
    "outputs.py:_require_target": WRITTEN,
    "report/tables.py:cut": ("diff", "inspect"),
    "spreading.py:_spread_on_processes": ("grow", "import"),
    "spreading.py:_connect": ("grow", "import"),
    "spreading.py:_result_of": ("grow", "import"),
    "supervised.py:require_channels_last": ("grow",),
    "weights/state_dicts.py:_usual": NETWORKS,
    "zoo/addressing.py:require_network_output": ("align", "merge"),
    "zoo/architecture.py:_require_small": BUILT,
    "zoo/architecture.py:require_factory": BUILT,
    "zoo/example_inputs.py:find_example": (*NETWORKS, *BUILT),
    "zoo/fitting.py:_refusal": ("import",),
    "zoo/fitting.py:which_architecture": ("forecast", "inspect", "predict", "similar"),
    "zoo/growing/growing.py:_settle_plan": ("grow",),
    "zoo/growing/planning.py:make_plan": ("grow",),
    "zoo/growing/recipes.py:find_recipe": ("grow",),
    "zoo/importing/identifying.py:_with_key": ("import", "inspect"),
    "zoo/importing/identifying.py:": (*BUILT, "import"),
    "zoo/importing/importing.py:_settle": ("import",),
    "zoo/importing/plain.py:scan": ("import",),
    "zoo/importing/plain.py:_rows": ("import",),
    "zoo/importing/results_table.py:_ask": ("import",),
    "zoo/recorded_images.py:doubt_images": ("card", "distill", "generate", "pretrain"),
}
# What is said of another command than the one that says it, whose name the sentence holds.
OF_ANOTHER = {"corpus/frame.py:_read_symmetry"}


def sentences() -> Iterator[tuple[str, str]]:
    """Where a text with options stands (module and function), and each option; docstrings are no sentences."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "cli"):
            continue
        tree, name = ast.parse(path.read_text()), str(path.relative_to(PACKAGE))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        inner = {id(node): function.name for function in functions for node in ast.walk(function)}
        explained = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in explained:
                yield from ((f"{name}:{inner.get(id(node), '')}", option) for option in OPTION.findall(node.value))


def options_of(command: str) -> set[str]:
    app = make_app(full=True)[command]
    return {name for argument in app.assemble_argument_collection() for name in argument.names}


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    return {name: options_of(name) for name in NAMES}


def test_every_sentence_that_recommends_an_option_is_known() -> None:
    places = {place for place, _ in sentences()} - OF_ANOTHER
    assert places == set(SAID), "SAID lists the commands that can say it"


def test_every_recommended_option_is_one_of_the_command_that_says_it(options: dict[str, set[str]]) -> None:
    wrong = [
        f"{command} says {option} ({place})"
        for place, option in sentences()
        if place not in OF_ANOTHER
        for command in SAID[place]
        if option not in options[command]
    ]
    assert not wrong
