"""``python -m xgenmm_hf.cli.noise MODEL ROWS OUT``: second rejected answers for preference rows."""

from pathlib import Path
from typing import Annotated

import typer

from xgenmm_hf.cli.errors import friendly_errors


def main(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or Hub repository; the model that answers.")],
    rows: Annotated[Path, typer.Argument(help="Folder of preference rows, written by Dataset.save_to_disk.")],
    out: Annotated[Path, typer.Argument(help="New folder for the rows and the added ones.")],
    step: Annotated[int, typer.Option(help="Steps of noise.")] = 500,
    num_steps: Annotated[int, typer.Option(help="Steps of the whole diffusion process.")] = 1000,
    schedule: Annotated[str, typer.Option(help="sigmoid or linear.")] = "sigmoid",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows answered together.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Upper limit of an answer's length.")] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="A torch device such as cuda:0, or auto.")] = "auto",
) -> None:
    """Add second rejected answers, made by a model from noised images, to preference rows."""
    from datasets import load_from_disk

    from xgenmm_hf.conversion.files import check_output_folder
    from xgenmm_hf.inference.loading import load
    from xgenmm_hf.training.noise import add_noised_rejections, save_rows

    check_output_folder(out)
    if not (rows / "dataset_info.json").is_file():
        raise ValueError(f"{rows} holds no rows; give a folder that Dataset.save_to_disk wrote.")
    loaded = load(model, dtype=dtype, device=device)
    result = add_noised_rejections(
        load_from_disk(str(rows)),
        loaded.model,
        loaded.processor,
        step=step,
        num_steps=num_steps,
        schedule=schedule,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    save_rows(result.rows, out)
    for outcome, count in result.counts.items():
        typer.echo(f"{outcome:12} {count}")


if __name__ == "__main__":
    typer.run(friendly_errors(main))
