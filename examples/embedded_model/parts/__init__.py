"""The parts that exist before the recipe begins: tokenizer, model, tower and its labels."""
