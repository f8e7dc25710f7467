"""``xgenmm data``: a dry run of a mixture of data sets."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from xgenmm_hf import TINY_MODEL
from xgenmm_hf.cli import options
from xgenmm_hf.cli.console import progress_bar


if TYPE_CHECKING:
    from xgenmm_hf import XGenMMProcessor


def data(
    mixture: Annotated[str, Argument(metavar="FILE", help="A mixture (YAML), or one data file of any known format.")],
    model: options.Model = TINY_MODEL,
    output: Annotated[
        str | None, Option(metavar="DIR", help="Write report.json, problems.jsonl and lengths.png (a histogram) here.")
    ] = None,
    limit: Annotated[int | None, Option(min=1, metavar="N", help="Measure only N rows, chosen at random.")] = None,
    max_length: Annotated[int | None, Option(min=1, metavar="N", help="Count the rows of more than N tokens.")] = None,
    show: Annotated[
        int,
        Option(min=0, metavar="N", help="Show N rows: images, prompt, what is trained on; rows.html with --output."),
    ] = 0,
    image_mode: Annotated[
        options.ImageModeName | None,
        Option(help="Image mode; default: none for pre-training rows, else the checkpoint's."),
    ] = None,
    cache_dir: Annotated[
        str | None, Option(metavar="DIR", help="Where rows are cached; default: the cache of datasets.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Check a mixture of data sets: counts, rejected rows, tokens and tiles."""
    from xgenmm_hf.data.preview import require_libraries
    from xgenmm_hf.inference.source import resolve_checkpoint

    # Cheap checks first: a wrong path should not wait for the libraries to load.
    require_libraries()
    source = resolve_checkpoint(model)

    from xgenmm_hf.data.mixture import read_mixture

    read_mixture(mixture)

    from xgenmm_hf import XGenMMProcessor

    processor = XGenMMProcessor.from_pretrained(source)
    measured = {"limit": limit, "max_length": max_length, "image_aspect_ratio": image_mode}
    show_mixture(mixture, processor, output, show=show, cache_dir=cache_dir, as_json=as_json, **measured)


def show_mixture(
    mixture: str,
    processor: "XGenMMProcessor",
    output: str | None = None,
    *,
    show: int = 0,
    cache_dir: str | None = None,
    as_json: bool = False,
    **measured: Any,
) -> None:
    """Measures a mixture (by options of `preview_mixture`) and prints it; exits with 1 if training would refuse it."""
    import datasets

    from xgenmm_hf.data.mixture import load_mixture, read_mixture
    from xgenmm_hf.data.preview import preview_mixture, some_rows

    limits = read_mixture(mixture)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    # A dry run shows what a training run would refuse.
    loaded = load_mixture(mixture, max_rejected=1.0, cache_dir=cache_dir)
    with progress_bar("measuring") as progress:
        preview = preview_mixture(loaded, processor, output, progress=progress, **measured)
    if as_json:
        print(json.dumps(preview, ensure_ascii=False))
    else:
        print("\n".join(render(preview, measured.get("max_length"))))
        if output is not None:
            print(f"report.json, problems.jsonl and lengths.png are in {output}")
        print_rows(some_rows(loaded, show) if show else [], processor, output)
    refused = [report for report in loaded.sources if report.exceeds(limits.max_rejected)]
    for report in refused:
        number = sum(report.rejected.values())
        where = f"{number} of {report.records} records are malformed (max_rejected {limits.max_rejected:.1%})"
        typer.echo(f"Training refuses {report.source}: {where}, see {report.problems_file}.", err=True)
    if refused:
        raise typer.Exit(1)


def render(preview: dict[str, Any], max_length: int | None) -> Iterator[str]:
    """Yields the lines a person reads."""
    yield f"{preview['mixture']}: {preview['rows']:,} {preview['kind']} rows from {len(preview['sources'])} source(s)"
    for report in preview["sources"]:
        yield from render_source(report)
    yield ""
    yield f"{'tokens and tiles per row':<36}{'rows':>10}{'mean':>10}{'p95':>8}{'max':>8}{'tiles':>8}"
    for source, count in sorted(preview["counts"].items()):
        yield f"  {source:<34}{count:>10,}{render_measured(preview['by_source'].get(source, {}))}"
    total = preview["all"]
    yield f"  {'all':<34}{preview['rows']:>10,}{render_measured(total)}"
    if total["rows"]:
        kinds = ", ".join(f"{number:,} {name}" for name, number in sorted(total["modalities"].items()))
        yield f"measured {total['rows']:,} rows with {total['images']:,} images ({kinds}):"
        tokens, text, images = (total[name]["total"] for name in ("tokens", "text_tokens", "image_tokens"))
        yield f"  {tokens:,} tokens = {text:,} of text + {images:,} of images"
    if "too_long" in total:
        yield f"  {total['too_long']:,} rows have more than {max_length:,} tokens"
    if preview["unreadable"]:
        yield f"  {preview['unreadable']:,} row(s) have an image that cannot be read"


def render_source(report: dict[str, Any]) -> Iterator[str]:
    """Yields the lines about one source's records."""
    share = f"weight {report['weight']:.4g}" if report["weight"] is not None else f"{report['samples']:,} samples"
    yield f"  {report['source']} ({report['format']}): {report['records']:,} records, {report['rows']:,} rows, {share}"
    for title, name in (("rejected", "rejected"), ("left out", "skipped"), ("taken, though unusual", "notes")):
        reasons = report[name]
        if reasons:
            listed = ", ".join(f"{number:,} {kind}" for kind, number in Counter(reasons).most_common())
            yield f"    {title}: {listed}"


def render_measured(measured: dict[str, Any]) -> str:
    """Returns the columns about the length of rows, blank where none was measured."""
    if not measured.get("rows"):
        return ""
    tokens = measured["tokens"]
    return f"{tokens['mean']:>10,.1f}{tokens['p95']:>8,.0f}{tokens['largest']:>8,}{measured['tiles']['mean']:>8.2f}"


def print_rows(rows: Any, processor: "XGenMMProcessor", output: str | None) -> None:
    """Prints rows with their targets marked, and writes them as a page where there is a folder for it."""
    from rich.console import Console
    from rich.text import Text

    from xgenmm_hf.data.encoding import row_name
    from xgenmm_hf.data.preview import image_lines, show_row, write_page

    console = Console(soft_wrap=True)
    for row in rows:
        console.rule(Text(row_name(row)))
        for line in image_lines(row):
            console.print(Text(f"image: {line}", style="dim"))
        for title, pieces in show_row(row, processor):
            if title:
                console.print(Text(f"{title}:", style="bold"))
            # Without color, brackets say what is trained on.
            marks = ("", "") if console.color_system else ("[[", "]]")
            marked = [(f"{marks[0]}{text}{marks[1]}", "green") if on else (text, "dim") for text, on in pieces]
            console.print(Text.assemble(*marked))
    if output is not None and rows:
        write_page(rows, processor, Path(output) / "rows.html")
