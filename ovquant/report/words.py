"""Numbers and lists as words, for all renderings."""

from __future__ import annotations

from typing import Any

_N_NAMED = 3


def number(value: float | None, form: str) -> str:
    """Return a number in a format, and a dash for one that is not known."""
    return "-" if value is None else format(value, form)


def counts(content: dict[str, Any]) -> str:
    """Return how many trials stand where, in words."""
    words = [trial["words"] for trial in content["trials"]]
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)) or "No trials"


def generations(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a line per generation."""
    standing = {trial["number"]: trial["standing"] for trial in content["trials"]}
    found: dict[int | None, dict[str, Any]] = {}
    for step in content["steps"]:
        line = found.setdefault(step["generation"], {"generation": step["generation"], "n_trials": 0, "n_feasible": 0})
        line["n_trials"] += 1
        line["n_feasible"] += standing[step["trial"]] in {"front", "feasible"}
        line["progress"] = step["progress"]
    return list(found.values())


def most(importance: dict[str, Any]) -> str:
    """Return the genes that mattered most, as a sentence."""
    named = [f"{one['gene']} ({one['value']:.2f})" for one in importance["weights"][:_N_NAMED] if one["value"] > 0]
    return f"most {', then '.join(named)}." if named else "no gene mattered beyond chance."


def shares(content: dict[str, float]) -> str:
    """Return shares as a list in words."""
    return ", ".join(f"{kind} {share:.0%}" for kind, share in content.items())


def unstable(latency: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each reason that speed-ups were not steady."""
    names: dict[str, list[str]] = {}
    for model in latency:
        if model["unstable"] is not None:
            names.setdefault(model["unstable"], []).append(model["name"])
    return [f"of {', '.join(who)}: {reason}." for reason, who in names.items()]
