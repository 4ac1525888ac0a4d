"""What can be wrong with a reproduction file, in words: its syntax, its shape, its names.

Works on plain TOML tables and dotted keys ("train.batch_size"); `litevl.spec` has the models.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from litevl.errors import SpecError
from litevl.spec_conflicts import (
    Problem,
    conflicts,
    has_own_data,
    is_under,
    needed_keys,
    own_problems,
    unusable_path,
)
from litevl.tasks import ALL_TASKS, task_of_metric

PROFILES = ("mini", "paper")
COMBINED = "combined"  # what the report of all data sets goes by
SHARED_BY_VARIANTS = (
    "data.dataset",
    "data.root",
    "data.leave_out",
    "data.sentence_order",
    "data.answers",
    "data.world",
    "train.seeds",
)
EXPECTED_WORDS = {
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "finite_number": "a finite number",
    "string_too_short": "some text",
    "too_short": "at least one entry",
}

NAME_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
FETCH_PATTERN = r"^(blip|hub):[A-Za-z0-9_][A-Za-z0-9_./@-]*$"
PATTERN_WORDS = {
    NAME_PATTERN: "small letters, digits and single hyphens",
    FETCH_PATTERN: '"blip:NAME" or "hub:OWNER/NAME"',
}


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables; SpecError, with the line, where it is not TOML or cannot be read."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        there = [*Path("reproductions").glob("*.toml"), *path.parent.glob("*.toml")]
        others = sorted({str(other) for other in there if other.name != "pyproject.toml"})
        hint = f"; there is {', '.join(others)}" if others else ""
        raise SpecError(f"{path}: no such file{hint}") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: a folder; name the .toml file in it") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise SpecError(f"{path}: not TOML: line {line} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: not TOML: {error}") from None
    except ValueError as error:  # a number with thousands of digits
        raise SpecError(f"{path}: not TOML: {error}") from None


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}. An empty table stays as one."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        has_keys = isinstance(value, dict) and value
        found |= flat(value, f"{prefix}{key}.") if has_keys else {prefix + key: value}
    return found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    table: dict[str, Any] = {}
    for key, value in values.items():
        for name in reversed(key.split(".")):
            value = {name: value}
        table = merged(table, value)
    return table


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` put in, table by table; neither is changed."""
    table = dict(base)
    for key, value in over.items():
        below = table.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        table[key] = merged(table[key], value) if both else value
    return table


def suggestion(word: str, known: Iterable[str], full: Mapping[str, str] | None = None) -> str:
    """ "; did you mean ...?", or nothing where no known word is near.

    full: what to print for a known word, where that is more than the word itself.
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{(full or {}).get(near[0], near[0])}'?" if near else ""


def shown(value: object) -> str:
    """A TOML value as a message quotes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        short = value if len(value) <= 60 else f"{value[:57]}..."
        return f"the string {json.dumps(short, ensure_ascii=False)}"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    if isinstance(value, int) and abs(value) >= 10**15:  # str() refuses thousands of digits
        return "a number beyond any use here"
    return str(value)


def table_model(annotation: Any) -> type[BaseModel] | None:
    """The table type inside an annotation: World in `World | None`, Variant in `tuple[Variant]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inside = (table_model(argument) for argument in get_args(annotation))
    return next((model for model in inside if model is not None), None)


def known_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a table type, its tables included."""
    for name, field in model.model_fields.items():
        yield prefix + name
        below = table_model(field.annotation)
        if below is not None:
            yield from known_keys(below, f"{prefix}{name}.")


def shape_problems(model: type[BaseModel], table: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(kind, where, what) for each unknown key, wrong type, value out of range or missing key."""
    try:
        model.model_validate(table)
    except ValidationError as error:
        found = error.errors(include_url=False)
    else:
        return []
    problems = []
    for entry in found:
        if entry["type"] == "too_short" and entry["input"]:
            continue  # pydantic counts the valid entries; the invalid ones are reported already
        what = shape_message(model, entry["type"], entry["loc"], entry["input"], entry.get("ctx"))
        problems.append((entry["type"], where(entry["loc"], table), what))
    return problems


def shape_message(
    model: type[BaseModel],
    kind: str,
    location: tuple[int | str, ...],
    value: object,
    context: Mapping[str, Any] | None,
) -> str:
    """One of pydantic's errors, in the words of the file."""
    if kind == "missing":
        return "missing"
    if kind == "extra_forbidden":
        parent = model
        for name in location[:-1]:  # an array index or a free key stays in the same table type
            field = parent.model_fields.get(str(name))
            parent = (field and table_model(field.annotation)) or parent
        key = str(location[-1])
        elsewhere = {known.split(".")[-1]: known for known in known_keys(model)}
        near = suggestion(key, parent.model_fields) or suggestion(key, elsewhere, elsewhere)
        return f"unknown key{near}"
    if kind == "literal_error" and context:
        choices = context["expected"].replace("'", '"')
        hint = suggestion(value, choices.split('"')[1::2]) if isinstance(value, str) else ""
        return f"expected {choices}, got {shown(value)}{hint}"
    if kind == "string_pattern_mismatch" and context:
        expected = PATTERN_WORDS[context["pattern"]]
        return f"expected {expected}, got {shown(value)}"
    bounds = {"gt": "a number above", "ge": "at least", "le": "at most"}
    bounds |= {"max_length": "a length of at most"}
    limits = [
        f"{words} {context[key]}" for key, words in bounds.items() if context and key in context
    ]
    expected = limits[0] if limits else EXPECTED_WORDS.get(kind, f"something else ({kind})")
    return f"expected {expected}, got {shown(value)}"


def where(location: tuple[int | str, ...], table: Mapping[str, Any]) -> str:
    """Dotted key of a location; an entry of an array of tables goes by its name if it has one."""
    words = ""
    at: Any = table
    for step in location:
        try:
            at = at[step]
        except (KeyError, IndexError, TypeError):
            at = None
        name = at.get("name") if isinstance(step, int) and isinstance(at, dict) else step
        words += f".{name}" if isinstance(name, str) else f"[{step}]"
    return words.removeprefix(".")


def problems(
    document: Mapping[str, Any], spec: type[BaseModel], settings: type[BaseModel]
) -> list[Problem]:
    """Everything wrong with a document (dotted keys as `with_dotted_keys` leaves them)."""
    found = [(key, what) for _, key, what in shape_problems(spec, document)]
    shared = {
        section: document[section] for section in settings.model_fields if section in document
    }
    shared_found, shared_bad = layer_problems(settings, shared)
    found += shared_found
    tables = document.get("profile")
    scales = {p: tables[p] for p in PROFILES if p in tables} if isinstance(tables, dict) else {}
    if has_own_data(document):
        scales = {"own": {}}
        found += own_problems(document)
    elif "profile" not in document:
        found.append(("profile", "missing"))

    values: dict[str, dict[str, Any]] = {}
    by_profile: dict[str, list[Problem]] = {}
    for profile, scale in scales.items():
        if not isinstance(scale, dict):
            continue
        scale_found, scale_bad = layer_problems(settings, scale)
        found += [(f"profile.{profile}.{key}", what) for key, what in scale_found]
        bad = shared_bad | scale_bad
        good = {k: v for k, v in flat(merged(shared, scale)).items() if not is_under(k, bad)}
        by_profile[profile] = missing_keys(settings, good, bad, profile)
        unsaid = {k: v for k, v in default_values(settings).items() if not is_under(k, bad)}
        values[profile] = unsaid | good
        by_profile[profile] += conflicts(values[profile], profile)
    for profile, own in by_profile.items():
        for key, what in own:
            in_all = all((key, what) in others for others in by_profile.values())
            found.append((key if in_all else f"profile.{profile}.{key}", what))

    datasets = {own.get("data.dataset") for own in values.values()} - {None}
    if len(datasets) > 1:
        what = "both profiles use one data set, and differ in its scale"
        found.append(("profile.mini.data.dataset", what))
    roots = [profile_values.get("data.root") for profile_values in values.values()]
    if len(roots) > len(set(roots)) and None not in roots:
        what = "both profiles use this folder; drawn clips would mix with the real ones"
        found.append(("profile.mini.data.root", what))
    found += variant_problems(settings, document, values)
    found += name_problems(settings, document)
    found += metric_problems(document, sorted(str(dataset) for dataset in datasets))
    return list(dict.fromkeys(found))


def layer_problems(
    settings: type[BaseModel], layer: Mapping[str, Any]
) -> tuple[list[Problem], set[str]]:
    """Problems of one layer of settings, which may leave keys to others; and the keys at fault."""
    found = [entry for entry in shape_problems(settings, layer) if entry[0] != "missing"]
    return [(key, what) for _, key, what in found], {key.split("[")[0] for _, key, _ in found}


def default_values(settings: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """What a key that may be left out stands for then (dotted keys); nothing where that is None."""
    found: dict[str, Any] = {}
    for name, field in settings.model_fields.items():
        below = table_model(field.annotation)
        if below is not None and field.is_required():
            found |= default_values(below, f"{prefix}{name}.")
        elif not field.is_required() and field.default is not None:
            found[prefix + name] = field.default
    return found


def missing_keys(
    settings: type[BaseModel], values: Mapping[str, Any], bad: set[str], profile: str
) -> list[Problem]:
    """Keys that neither the shared tables nor the profile's set; `bad` ones are told already."""
    found = [
        (key, "missing")
        for kind, key, _ in shape_problems(settings, nested(values))
        if kind == "missing" and not is_under(key, bad)
    ]
    has_world = any(is_under(key, ["data.world"]) for key in values.keys() | bad)
    if profile == "mini" and not has_world and "data" not in bad:
        found.append(("data.world", "missing; the mini profile draws its clips"))
    return found + needed_keys(values, bad)


def variant_problems(
    settings: type[BaseModel],
    document: Mapping[str, Any],
    values: Mapping[str, Mapping[str, Any]],
) -> list[Problem]:
    """Problems that a variant's changes bring to settings that are right without them."""
    found: list[Problem] = []
    for variant in tables_in(document, "variant"):
        changes = variant.get("set")
        if not isinstance(changes, dict):
            continue
        shape_found, bad = layer_problems(settings, nested(changes))
        good = {key: value for key, value in changes.items() if not is_under(key, bad)}
        new = shape_found
        what = "all variants share clips and seeds, so that their runs can be paired"
        new += [(key, what) for key in good if is_under(key, SHARED_BY_VARIANTS)]
        for profile, profile_values in values.items():
            before = conflicts(profile_values, profile)
            after = conflicts({**profile_values, **good}, profile)
            new += [problem for problem in after if problem not in before]
        found += [(f"variant.{variant.get('name', '?')}.{key}", what) for key, what in new]
    return found


def name_problems(settings: type[BaseModel], document: Mapping[str, Any]) -> list[Problem]:
    """Variants and dotted keys that are named but do not exist, and names used twice."""
    found: list[Problem] = []
    if document.get("name") == COMBINED:
        found.append(
            ("name", f'"{COMBINED}" is what the report of all data sets goes by; give another name')
        )
    variants = [str(entry.get("name")) for entry in tables_in(document, "variant")]
    claims = [str(entry.get("name")) for entry in tables_in(document, "claim")]
    starts = [str(entry.get("name")) for entry in tables_in(document, "start")]
    for kind, names in (("variant", variants), ("claim", claims), ("start", starts)):
        twice = {name for name in names if names.count(name) > 1}
        found += [(f"{kind}.{name}", "two entries have this name") for name in sorted(twice)]

    def check(key: str, name: object) -> None:
        if isinstance(name, str) and name not in variants:
            found.append((key, f"no variant '{name}'{suggestion(name, variants)}"))

    for claim in tables_in(document, "claim"):
        key = f"claim.{claim.get('name', '?')}"
        check(f"{key}.better", claim.get("better"))
        check(f"{key}.worse", claim.get("worse"))
        if "better" in claim and claim["better"] == claim.get("worse"):
            found.append((key, "compares a variant with itself"))
    targets = tables_in(document, "target")
    for index, target in enumerate(targets):
        check(f"target[{index}].variant", target.get("variant", "full"))
    found += target_problems(targets, starts)
    for start in tables_in(document, "start"):
        unusable = unusable_path(str(start.get("weights", "")))
        if unusable:
            found.append((f"start.{start.get('name', '?')}.weights", unusable))

    known = list(known_keys(settings))
    provenance = document.get("provenance")
    for key in provenance if isinstance(provenance, dict) else ():
        bare = key.removeprefix("profile.mini.").removeprefix("profile.paper.")
        if bare not in known:
            found.append((f"provenance.{key}", f"no such setting{suggestion(bare, known)}"))
    return found


def target_problems(targets: list[dict[str, Any]], starts: list[str]) -> list[Problem]:
    """Targets of a start that does not exist, told twice, or with half of what makes a number."""
    found: list[Problem] = []
    seen: list[tuple[str, str, str]] = []
    for index, target in enumerate(targets):
        key, start = f"target[{index}]", target.get("start")
        if isinstance(start, str) and start not in starts:
            found.append((f"{key}.start", f"no start '{start}'{suggestion(start, starts)}"))
        about = str(target.get("metric")), str(target.get("variant", "full")), str(start)
        if about in seen:
            of_start = f" from '{start}'" if start is not None else ""
            found.append((key, f"a second target for {about[0]} of '{about[1]}'{of_start}"))
        seen.append(about)
        provenance = target.get("provenance")
        source = provenance.get("source") if isinstance(provenance, dict) else None
        for number in ("value", "tolerance"):
            if source == "unknown" and number in target:
                found.append((f"{key}.{number}", 'a number whose source is "unknown"'))
            elif source is not None and source != "unknown" and number not in target:
                found.append((f"{key}.{number}", "missing"))
    return found


def metric_problems(document: Mapping[str, Any], datasets: list[str]) -> list[Problem]:
    """Metrics of claims, targets and published rows that the data sets' task does not have."""
    tasks = {ALL_TASKS[dataset] for dataset in datasets}
    named: list[tuple[str, object]] = []
    for claim in tables_in(document, "claim"):
        named.append((f"claim.{claim.get('name', '?')}.metric", claim.get("metric")))
    for index, target in enumerate(tables_in(document, "target")):
        named.append((f"target[{index}].metric", target.get("metric")))
    for index, row in enumerate(tables_in(document, "published")):
        values = row.get("values")
        metrics = values if isinstance(values, dict) else ()
        named += [(f"published[{index}].values", metric) for metric in metrics]
    found: dict[str, str] = {}  # of each place the first
    for key, metric in named:
        task = task_of_metric(str(metric))
        if task is not None and tasks and task not in tasks:
            words = task.replace("-", " ")
            here = " and ".join(f'"{dataset}"' for dataset in datasets)
            found.setdefault(key, f'"{metric}" is for {words}; {here} is not')
    return list(found.items())


def tables_in(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The tables of an array of tables, whatever else the file put there left out."""
    entries = document.get(key)
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
