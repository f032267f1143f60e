"""Print a script that completes the commands, their parameters and plugins in bash or zsh.

Run it again after a plugin was installed. Examples::

  diffuse.completion bash > ~/.local/share/bash-completion/completions/diffuse.process
  eval "$(diffuse.completion zsh)"      # in ~/.zshrc, after compinit
"""

from __future__ import annotations

import argparse
import re

from diffuse_framework.command_line import report, show, view
from diffuse_framework.command_line.shared.failures import report_failures
from diffuse_framework.command_line.shared.scopes import SCOPES, allowed_values
from diffuse_framework.command_line.visual_checks import (
    check_diffuse_extraction,
    check_phase3_outputs,
    run_phase2_e2e_visual_check,
    run_phase3_e2e_visual_check,
)
from diffuse_framework.config.presets import preset_names
from diffuse_framework.host.hookspecs import STAGES
from diffuse_framework.host.loader import load_registry
from diffuse_framework.host.registry import Registry

_FUNCTIONS = r"""
# Offer those of the words that begin with the first argument, each with the second argument in front.
_diffuse_offer() {
    local begin=$1 front=$2 word
    shift 2
    for word in "$@"; do
        [[ $word == "$begin"* ]] && COMPREPLY+=( "$front$word" )
    done
}

# Offer parameters up to their next dot, values after =, and files.
_diffuse_complete() {
    local word key value values found rest front
    COMPREPLY=()
    word=${COMP_WORDS[COMP_CWORD]}
    # bash splits words at =, zsh does not.
    if [[ $word == *=* && $word != "=" ]]; then
        key=${word%%=*} value=${word#*=} front=$key=
    elif [[ $word == "=" ]]; then
        key=${COMP_WORDS[COMP_CWORD-1]}
    elif (( COMP_CWORD >= 2 )) && [[ ${COMP_WORDS[COMP_CWORD-1]} == "=" ]]; then
        key=${COMP_WORDS[COMP_CWORD-2]} value=$word
    fi
    if [[ -n $key ]]; then
        _diffuse_values "$1" "$key"
        [[ -n $values ]] || values=$(compgen -f -- "$value")
        _diffuse_offer "$value" "$front" $values
        return 0
    fi
    _diffuse_names "$1"
    for found in $values; do
        [[ $found == "$word"* ]] || continue
        rest=${found#"$word"}
        [[ $rest == *.* ]] && found=$word${rest%%.*}.
        [[ " ${COMPREPLY[*]} " == *" $found "* ]] || COMPREPLY+=( "$found" )
    done
    _diffuse_offer "$word" "" $(compgen -f -- "$word")
    return 0
}
"""


@report_failures()
def run(args: list[str] | None = None, registry: Registry | None = None) -> None:
    """Run diffuse.completion."""
    parser = argparse.ArgumentParser(
        "diffuse.completion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    options = parser.parse_args(args)
    print(completion_script(options.shell, registry or load_registry()))


# Commands that take options in place of parameters.
OPTIONS = {
    "diffuse.check_diffuse_extraction": check_diffuse_extraction.make_parser,
    "diffuse.check_phase3_outputs": check_phase3_outputs.make_parser,
    "diffuse.report": report.make_parser,
    "diffuse.run_phase2_e2e_visual_check": run_phase2_e2e_visual_check.make_parser,
    "diffuse.run_phase3_e2e_visual_check": run_phase3_e2e_visual_check.make_parser,
    "diffuse.show": show.make_parser,
    "diffuse.view": view.make_parser,
}


def completion_script(shell: str, registry: Registry) -> str:
    """Return the script for a shell, "bash" or "zsh"."""
    names, values = _words(registry)
    lines = ["# Written by diffuse.completion; write it again when plugins change."]
    if shell == "zsh":
        lines.append("autoload -U +X bashcompinit && bashcompinit")
    lines += [_function("_diffuse_names", names), _function("_diffuse_values", values), _FUNCTIONS.strip()]
    for command in sorted(names):
        function = f"_{command.replace('.', '_')}"
        lines.append(f"{function}() {{ _diffuse_complete {command}; }}")
        lines.append(f"complete -o nospace -F {function} {command}")
    return "\n".join(lines)


def _words(registry: Registry) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return what each command takes, and the values of each of its parameters."""
    names: dict[str, list[str]] = {
        "diffuse.plugins": list(STAGES),
        "diffuse.new_plugin": list(STAGES),
        "diffuse.completion": ["bash", "zsh"],
    }
    for command, make_parser in OPTIONS.items():
        names[command] = sorted(set(re.findall(r"--[a-z][\w-]*", make_parser().format_help())))
    values: dict[str, list[str]] = {"diffuse.process preset": preset_names()}
    for command, scope_of in SCOPES.items():
        definitions = scope_of(registry).all_definitions()
        names[command] = [f"{definition.path}=" for definition in definitions]
        for definition in definitions:
            allowed = allowed_values(definition, registry)
            if allowed:
                values[f"{command} {definition.path}"] = allowed
    names["diffuse.process"].append("preset=")
    return names, values


def _function(name: str, words: dict[str, list[str]]) -> str:
    """Return a shell function that sets `values` by its arguments."""
    cases = []
    for key in sorted(words):
        # Words that mean something to a shell can't be completed safely.
        safe = [word for word in words[key] if re.fullmatch(r"[\w.+=/-]+", word)]
        cases.append(f'        "{key}") values="{" ".join(safe)}";;')
    return "\n".join([f"{name}() {{", '    case "$*" in', *cases, '        *) values="";;', "    esac", "}"])
